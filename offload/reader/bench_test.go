package reader

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The environment of the benchmark, as tests/fio.sh sets it.
const (
	benchFile  = "MOERING_READER_FILE"  // what is read; a file of 64 MiB without it
	benchBytes = "MOERING_READER_BYTES" // of a request and a piece; 1 MiB without it
	benchDepth = "MOERING_READER_DEPTH" // pieces in flight; DepthDefault without it
)

// number is a setting from the environment.
func number(b *testing.B, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	return n
}

// processNanos is the processor time of the process: reading and all that comes with it.
func processNanos(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkReader reads pieces at random aligned places. Besides the speed it reports the processor
// time of the whole process as a share of one core, as it was ("core-%") and at 2 GB/s, and what
// the reader itself counts, at 2 GB/s.
func BenchmarkReader(b *testing.B) {
	name := os.Getenv(benchFile)
	if name == "" {
		name = filepath.Join(b.TempDir(), "big")
		if err := os.WriteFile(name, noise(1, 64<<20), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	chunk, depth := number(b, benchBytes, 1<<20), number(b, benchDepth, DepthDefault)
	for _, kind := range []string{KindUring, KindPread} {
		b.Run(kind, func(b *testing.B) {
			// A queue that is never empty, as fio's is not, and no more memory than that takes.
			arena := aligned(2 * depth * chunk)
			r, err := Open([]string{name}, Options{Kind: kind, Arena: arena, Probe: ProbeOff,
				Depth: depth, ChunkBytes: chunk, Timeout: time.Minute})
			if err != nil {
				b.Skip(err)
			}
			defer closeReader(b, r)
			if s := r.Stats(); s.DirectFiles == 0 {
				b.Skip("the file system refuses direct reads")
			}
			readAtRandom(b, r, info.Size(), arena, chunk)
		})
	}
}

// batch is requests that are submitted together and waited for together, as the experts of a layer
// are.
type batch struct {
	requests []Request
	left     atomic.Int32
	over     chan *batch // receives the batch when all have ended
}

// readAtRandom keeps two batches of the depth going, so that the queue is never empty.
func readAtRandom(b *testing.B, r Reader, size int64, arena []byte, chunk int) {
	depth := len(arena) / chunk / 2
	over := make(chan *batch, 2)
	done := func(q *Request, err error) {
		if err != nil {
			b.Error(err)
		}
		if t := q.Tag.(*batch); t.left.Add(-1) == 0 {
			t.over <- t
		}
	}
	for i := range 2 {
		t := &batch{requests: make([]Request, depth), over: over}
		for j := range t.requests {
			at := (i*depth + j) * chunk
			t.requests[j] = Request{Buf: arena[at : at+chunk], Tag: t, Done: done}
		}
		over <- t
	}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	cpu, own, start := processNanos(b), r.Stats().CPUNanos, time.Now()
	b.SetBytes(int64(chunk) * int64(depth))
	for b.Loop() {
		t := <-over
		t.left.Store(int32(depth))
		for j := range t.requests {
			q := &t.requests[j]
			q.Offset = rng.Int64N((size-int64(chunk))/Align+1) * Align
			if err := r.Submit(q); err != nil {
				b.Fatal(err)
			}
		}
	}
	for range cap(over) {
		<-over
	}
	used, took := float64(processNanos(b)-cpu), float64(time.Since(start))
	s := r.Stats()
	b.ReportMetric(float64(s.Bytes)/took*1000, "MB/s") // to the end of the last read
	b.ReportMetric(100*used/took, "core-%")
	b.ReportMetric(100*used/float64(s.Bytes)*2, "core-%-at-2GB/s")
	if own != CPUUnknown {
		b.ReportMetric(100*float64(s.CPUNanos-own)/float64(s.Bytes)*2, "reader-%-at-2GB/s")
	}
}
