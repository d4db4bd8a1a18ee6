package engine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/sched"
)

// Without room outside the KV cache, a request is given all the memory that it may come to need. With
// it (BatchOptions.Spill, SpillMemory), a request is given what finished ones used, so that more are
// in flight where limits are far above that; and a sequence whose memory is needed after all leaves,
// its keys and values moved out where that is quicker than computing them again (sched.Spills).

// batchSpill is the driver's part of it; the zero value is without room.
type batchSpill struct {
	*kv.Spill
	seconds float64 // of moving
	warned  bool

	preempted  int   // sequences that left
	recomputed int64 // tokens computed again
}

// on reports that requests are admitted by what they likely need.
func (s *batchSpill) on() bool { return s.Spill != nil }

// spillTest is what tests set, and see, of moving.
type spillTest struct {
	bandwidth float64 // in place of the measured one
	left      int     // pages that lay outside when the job ended
}

// moved is the bytes that went out and in.
func (s *batchSpill) moved() int64 {
	if s.Spill == nil {
		return 0
	}
	return s.Moved()
}

// bandwidth is how fast pages move; until some have, as a middling disk reads.
func (s *batchSpill) bandwidth() float64 {
	if s.seconds <= 0 {
		return nominalBandwidth
	}
	return float64(s.Moved()) / s.seconds
}

// openSpill makes room outside the KV cache, if the options allow any.
func (d *batchDriver) openSpill() (err error) {
	o, e := &d.o, d.engine
	if o.Spill == 0 && o.SpillMemory == 0 {
		return nil
	}
	_, _, journal := d.job.Paths()
	d.spill.Spill, err = kv.NewSpill(e.device, e.pool, kv.SpillOptions{Memory: o.SpillMemory,
		Disk: o.Spill, Dir: cmp.Or(o.SpillDir, filepath.Dir(journal)), Direct: e.options.DirectIO != Off})
	if err != nil {
		return fmt.Errorf("batch: room for keys and values that are moved out: %w", mapError(err))
	}
	return nil
}

// checkSpill refuses options that make no sense.
func (b *BatchOptions) checkSpill(e *Engine) error {
	if b.Spill < 0 || b.SpillMemory < 0 {
		return fmt.Errorf("batch: %w: Spill is %d, SpillMemory %d", ErrUsage, b.Spill, b.SpillMemory)
	}
	if b.SpillMemory > 0 && e.device.Info().Unified {
		return fmt.Errorf("batch: %w: SpillMemory is %d, but device %s computes in host memory; a larger "+
			"HostMemory has room for more keys and values", ErrUnsupported, b.SpillMemory,
			e.options.Device)
	}
	if b.SpillDir == "" {
		return nil
	}
	if info, err := os.Stat(b.SpillDir); err != nil || !info.IsDir() {
		return fmt.Errorf("batch: %w: SpillDir %s is no folder", ErrUsage, b.SpillDir)
	}
	return nil
}

// expect says how many tokens a request likely generates; 0: as many as it may.
func (d *batchDriver) expect(s *batchSlot) int {
	if !d.spill.on() || s.sampler == nil {
		return 0
	}
	n := sched.Expect(s.limit, s.made, d.endedRequests, d.generated, d.allowed)
	return max(n-s.wasSaved(), 1)
}

// memory tells the arithmetic of waves how many tokens the KV cache has for this job's sequences, and
// what may lie outside.
func (d *batchDriver) memory(free int) {
	m := &d.model
	m.KVTokens = int64(free) * kv.PageTokens
	m.Optimistic = d.spill.on()
	for _, a := range d.active {
		pages := kv.Pages(a.shape().Prompt + a.shape().MaxNew)
		if m.Optimistic {
			pages = a.seq.Pages() - a.shared/kv.PageTokens
		}
		m.KVTokens += int64(pages * kv.PageTokens)
	}
	if m.Optimistic {
		m.SpillTokens = int64(d.spill.Room()) * kv.PageTokens
		m.SpillBandwidth = d.spill.bandwidth()
		if t := d.o.spillTest; t != nil {
			m.SpillBandwidth = t.bandwidth
		}
	}
}

// preempt makes room for the rows of the next pass: by a beginning that nobody shares any more, or by
// the sequences that the wave says must leave. It reports whether the wave must be chosen again.
func (d *batchDriver) preempt() (again bool, err error) {
	if len(d.wave.Preempt) == 0 {
		return false, nil
	}
	d.forget()
	if d.prefixes.drop(true) {
		return true, nil
	}
	for _, i := range d.wave.Preempt {
		if err := d.putOut(d.active[i]); err != nil {
			return false, err
		}
	}
	d.gone()
	return true, nil
}

// grow gives the sequences of the pass the memory for their rows. A sequence for which there is none
// after all, since sessions took it, leaves; grow reports whether one did.
func (d *batchDriver) grow() (left bool, err error) {
	if !d.spill.on() {
		return false, nil // they have it since they were admitted
	}
	for i, s := range d.active {
		rows := d.wave.Rows[i]
		if rows == 0 {
			continue
		}
		err := s.seq.Grow(s.seq.Len + rows)
		if errors.Is(err, kv.ErrFull) && d.prefixes.drop(true) {
			err = s.seq.Grow(s.seq.Len + rows)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, kv.ErrFull) {
			return false, mapError(err)
		}
		if shape := s.shape(); shape.Fed < shape.Prompt {
			d.wave.Prefill -= rows
		} else {
			d.wave.Decode -= rows
		}
		if err := d.putOut(s); err != nil {
			return false, err
		}
		left = true
	}
	if left {
		d.gone()
	}
	return left, nil
}

// putOut takes a sequence's memory from it. What it has is moved out if that pays; else, or if that
// fails, it will be computed again.
func (d *batchDriver) putOut(s *batchSlot) error {
	d.spill.preempted++
	length := s.seq.Len
	if d.model.Spills(length) {
		start := clock()
		x, err := d.spill.Out(s.seq)
		d.spill.seconds += clock().Sub(start).Seconds()
		if err := d.tolerate(err); err != nil {
			return err
		}
		s.spilled = x
		d.model.SpillTokens = int64(d.spill.Room()) * kv.PageTokens
	}
	if s.spilled == nil {
		d.again(s, length)
	}
	s.seen = max(s.seen, length)
	d.leave(s)
	s.seq, s.from, s.shared = nil, nil, 0
	s.prompt = len(s.tokens)
	return nil
}

// again is told of tokens of a sequence that are to be computed once more.
func (d *batchDriver) again(s *batchSlot, tokens int) {
	d.rowsLeft += int64(tokens)
	clear(s.sum)
}

// tolerate swallows what keeps pages from being moved, for they can be computed again. It is said
// once.
func (d *batchDriver) tolerate(err error) error {
	switch {
	case err == nil || errors.Is(err, kv.ErrFull):
		return nil
	case !errors.Is(err, kv.ErrSpill):
		return mapError(err)
	}
	if !d.spill.warned {
		d.spill.warned = true
		d.engine.options.logger().Warn("keys and values are computed again in place of being moved",
			"error", err)
	}
	return nil
}

// gone moves the sequences that lost their memory to the front of those that wait.
func (d *batchDriver) gone() {
	var back []*batchSlot
	rows := d.wave.Rows[:0]
	kept := d.active[:0]
	for i, s := range d.active {
		if s.seq == nil {
			back = append(back, s)
			continue
		}
		kept = append(kept, s)
		rows = append(rows, d.wave.Rows[i])
	}
	clear(d.active[len(kept):])
	d.active, d.wave.Rows = kept, rows
	d.ready = append(back, d.ready...)
}

// bringIn moves what a request left outside back into its sequence, which shares the first tokens.
func (d *batchDriver) bringIn(r *batchSlot) error {
	if r.spilled == nil {
		return nil
	}
	var err error
	if r.spilled.Len > r.shared { // else others have computed all of it meanwhile
		start := clock()
		err = d.spill.In(r.spilled, r.seq, r.shared/kv.PageTokens)
		d.spill.seconds += clock().Sub(start).Seconds()
	}
	if err != nil {
		d.again(r, r.spilled.Len-r.shared)
	}
	d.spill.Drop(r.spilled)
	r.spilled = nil
	return d.tolerate(err)
}
