//go:build cgo

package cuda

/*
#include "cublas.h"
*/
import "C"

import (
	"fmt"
	"sync/atomic"

	"github.com/moering/moering/kernels"
)

const (
	// flyingMax bounds the events of a stream that have not passed; beyond it Record waits.
	flyingMax = 1024
	// marksChunk is how many marks are allocated at a time: Record in steady state does not.
	marksChunk = 256
	// spinNanoseconds is how long a wait asks before it sleeps: waking up takes as long, and the wait for
	// a router's choice, one a layer, is often shorter. A stand-in is not asked so often.
	spinNanoseconds = 50_000
)

// slot is an event of the driver, which a stream records again and again. seq is the mark that it
// was last recorded for; holds are the users that have yet to name it to the driver, or wait for it.
type slot struct {
	event C.uint64_t
	seq   uint64
	holds atomic.Int32
}

// mark is an event of a stream: the seq-th. Marks pass in order. A mark is safe for concurrent use.
type mark struct {
	s   *stream
	seq uint64
	err error // the stream's failure when it was recorded
}

// Done reports whether the stream has passed the mark.
func (m *mark) Done() bool {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if !m.s.passed(m.seq) {
		m.s.reap()
	}
	return m.s.passed(m.seq)
}

// Wait blocks until the stream has passed the mark: it asks for a moment, and then sleeps.
func (m *mark) Wait() error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.await(m.seq)
	return m.failure()
}

// failure returns the stream's failure at the mark, or what ended the device since.
func (m *mark) failure() error {
	if m.err != nil {
		return m.err
	}
	if m.s.broken != nil {
		return m.s.broken
	}
	return m.s.named(m.s.dev.failure())
}

// passed reports whether there is nothing left to wait for.
func (s *stream) passed(seq uint64) bool { return seq <= s.done || s.closed }

// await waits for a mark; the lock is open meanwhile.
func (s *stream) await(seq uint64) {
	for !s.passed(seq) {
		e := s.slotOf(seq)
		if e == nil {
			return
		}
		e.holds.Add(1)
		s.waiting++
		s.mu.Unlock()
		r := C.event_sync(s.dev.driver.c, s.dev.context, e.event, s.dev.spin)
		s.mu.Lock()
		s.waiting--
		e.holds.Add(-1)
		if r != 0 {
			s.abandon(fmt.Sprintf("waiting for stream %q", s.name), r)
		} else {
			s.done = max(s.done, seq)
		}
		s.retire()
		s.idle.Broadcast()
	}
}

// slotOf returns the first flying event that passes no earlier than a mark; a mark that has not
// passed has one.
func (s *stream) slotOf(seq uint64) *slot {
	for _, e := range s.flying {
		if e.seq >= seq {
			return e
		}
	}
	return nil
}

// reap asks for the oldest events, in order, until one has not passed.
func (s *stream) reap() {
	for _, e := range s.flying {
		if e.seq <= s.done {
			continue
		}
		r := C.event_query(s.dev.driver.c, s.dev.context, e.event)
		if r == C.R_NOT_READY {
			break
		}
		if r != 0 {
			s.abandon(fmt.Sprintf("asking for stream %q", s.name), r)
			break
		}
		s.done = e.seq
	}
	s.retire()
}

// retire takes events that have passed, and that nobody holds, off the list, and the upload area
// that they guarded.
func (s *stream) retire() {
	kept := s.flying[:0]
	for _, e := range s.flying {
		if e.seq <= s.done && e.holds.Load() == 0 {
			s.spare = append(s.spare, e)
			continue
		}
		kept = append(kept, e)
	}
	s.flying = kept
	s.uploads.retire(s.done)
}

// abandon is for a driver that fails where it can only fail after a kernel has: nothing more will
// pass, so that all marks count as passed, with the failure.
func (s *stream) abandon(what string, r C.int) {
	// Unless the context is gone, work may still run; it ends before memory is given back.
	sync := C.stream_sync(s.dev.driver.c, s.dev.context, s.handle)
	if r >= C.R_CUBLAS && sync != 0 {
		r = sync // the driver knows why a library fails
	}
	err := s.named(s.dev.fail(what, r))
	if s.broken == nil {
		s.broken = err
	}
	if s.err == nil {
		s.err = err
	}
	s.done = s.last
}

// takeSlot returns an event to record: a spare one, or a new one.
func (s *stream) takeSlot() (*slot, error) {
	if len(s.spare) == 0 {
		s.reap()
	}
	if len(s.spare) == 0 && len(s.flying) >= flyingMax {
		s.await(s.flying[0].seq)
	}
	if n := len(s.spare); n > 0 {
		e := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return e, nil
	}
	return s.dev.newSlot()
}

// newSlot returns an event that a closed stream left, or makes one.
func (d *Device) newSlot() (*slot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.spare); n > 0 {
		e := d.spare[n-1]
		d.spare = d.spare[:n-1]
		return e, nil
	}
	e := &slot{}
	if r := C.event_create(d.driver.c, d.context, &e.event); r != 0 {
		return nil, d.fail("making an event", r)
	}
	d.slots = append(d.slots, e)
	return e, nil
}

// newMark returns a mark from the current chunk.
func (s *stream) newMark(seq uint64, err error) *mark {
	if len(s.marks) == 0 {
		s.marks = make([]mark, marksChunk)
	}
	m := &s.marks[0]
	s.marks = s.marks[1:]
	*m = mark{s: s, seq: seq, err: err}
	return m
}

var _ kernels.Event = (*mark)(nil)
