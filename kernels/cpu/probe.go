//go:build cgo

package cpu

/*
#include "cpu.h"
*/
import "C"

import (
	"fmt"
	"time"

	"github.com/moering/moering/kernels"
)

const (
	// probeRounds makes a chunk of arithmetic take about a quarter of a millisecond.
	probeRounds = 1 << 13
	// probeChunks a thread make a probe long beside waking a thread, and let threads end together.
	probeChunks = 16
)

// ReadRate reads a span once, each thread a few sequential parts of it, and returns bytes a second: the
// limit of what a product with few rows can reach. Spans should be far larger than caches.
func (d *Device) ReadRate(s kernels.Span) (float64, error) {
	if s.Host() == nil {
		return 0, fmt.Errorf("%w: ReadRate: not memory of this device", kernels.ErrDevice)
	}
	chunks := int64(probeChunks * d.info.Threads)
	per := (s.Bytes/chunks + pageBytes - 1) &^ (pageBytes - 1)
	return d.probe(C.probe_args{kind: C.PROBE_READ, at: at(s), bytes: C.int64_t(s.Bytes),
		per_chunk: C.int64_t(per)}, int((s.Bytes+per-1)/max(per, 1)), float64(s.Bytes))
}

// Int8Rate returns how many operations a second all threads together reach in sums of products of
// 8-bit integers, by the instructions that the kernels use; a multiply-add counts as two.
func (d *Device) Int8Rate() (float64, error) {
	return d.arithmetic(C.PROBE_INTS, C.PROBE_INT_OPS)
}

// Float32Rate is like Int8Rate for fused multiply-adds of float32.
func (d *Device) Float32Rate() (float64, error) {
	return d.arithmetic(C.PROBE_FLOATS, C.PROBE_FLOAT_OPS)
}

func (d *Device) arithmetic(kind C.int32_t, ops int) (float64, error) {
	chunks := probeChunks * d.info.Threads
	return d.probe(C.probe_args{kind: kind, rounds: probeRounds}, chunks,
		float64(chunks)*probeRounds*float64(ops))
}

// probe runs chunks at the same time and returns work by time.
func (d *Device) probe(a C.probe_args, chunks int, work float64) (float64, error) {
	opened, err := d.NewStream("probe")
	if err != nil {
		return 0, err
	}
	defer func() { _ = opened.Close() }() // its failure is Sync's
	s := opened.(*stream)
	if !s.ready() {
		return 0, s.err
	}
	sink := list[int64](s.batch, max(chunks, 1))
	a.sink = addressOf(sink)
	*add[C.probe_args](s.batch, C.K_PROBE, chunks) = a
	start := time.Now()
	err = s.Sync()
	return work / max(time.Since(start), time.Nanosecond).Seconds(), err
}
