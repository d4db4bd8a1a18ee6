package reader

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// strand gives up on a piece in flight: its request ends with the cause, and the piece keeps its
// place and its memory until finish is called for it. When every place of a device is taken so,
// what waits for the device fails too, so that nothing waits for ever.
func (q *queue) strand(p *piece, cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.request != nil && !p.stranded {
		q.strandLocked(p, cause)
	}
}

func (q *queue) strandLocked(p *piece, cause error) {
	r, l := p.request, &q.lanes[p.lane]
	p.stranded = true
	p.expired.Store(true)
	if errors.Is(cause, ErrTimeout) {
		l.stats.Timeouts++
	}
	l.stats.Stranded++
	r.state.stranded++
	r.state.flying--
	q.land(l)
	// What of the piece has arrived is known to whoever reads it, who may be at it still.
	q.fail(r, &Error{File: q.names[r.File], Label: r.Label, Cause: cause,
		Offset: r.Offset + int64(p.lo), Bytes: p.need})
	q.settle(r)
	for c := range l.lines {
		for l.hangs() && l.lines[c].first != nil {
			waits := l.lines[c].first
			q.fail(waits, q.hanging(waits))
			q.settle(waits)
		}
		if l.hangs() {
			l.lines[c].room.Broadcast() // each Submit that waits is refused
		}
	}
}

// expire ends a piece that was out of time and that the system has let go of.
func (q *queue) expire(p *piece) {
	q.mu.Lock()
	q.lanes[p.lane].stats.Timeouts++
	q.mu.Unlock()
	q.finish(p, timeoutError(q.timeout))
}

// hanging is the failure of a request that was not tried because its device hangs.
func (q *queue) hanging(r *Request) error {
	l := &q.lanes[q.laneOf[r.File]]
	return &Error{File: q.names[r.File], Label: r.Label, Offset: r.Offset, Bytes: r.needed(),
		Cause: fmt.Errorf("%w: none of %d reads is answered within %v", ErrTimeout,
			l.stats.Depth, q.timeout)}
}

// overdue strands every piece that is out of time, and returns how long it is until the next one
// is. It is for pools, which cannot cancel.
func (q *queue) overdue() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	next, now := q.timeout, q.now()
	for i := range q.pieces {
		p := &q.pieces[i]
		if p.request == nil || p.stranded {
			continue
		}
		if left := q.timeout - now.Sub(p.started); left > 0 {
			next = min(next, left)
		} else {
			q.strandLocked(p, timeoutError(q.timeout))
		}
	}
	return next
}

// shut makes push fail, and fails what has not started.
func (q *queue) shut() {
	q.mu.Lock()
	first := !q.closed
	q.closed = true
	for i := range q.lanes {
		q.lanes[i].work.Broadcast()
		for c := range q.lanes[i].lines {
			line := &q.lanes[i].lines[c]
			line.room.Broadcast()
			for line.first != nil {
				r := line.first
				q.fail(r, ErrClosed)
				q.settle(r)
			}
		}
	}
	q.mu.Unlock()
	if first && q.wake != nil {
		q.wake()
	}
}

// drain waits until nothing is in flight and every callback has returned.
func (q *queue) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.stats.InFlight > 0 || q.calling > 0 {
		q.quiet.Wait()
	}
}

// reclaim waits for stranded memory, but not longer than so long. It comes after drain.
func (q *queue) reclaim(wait time.Duration) error {
	q.mu.Lock()
	done := q.calling == 0 && q.strandedLocked() == nil
	q.mu.Unlock()
	if done {
		return nil
	}
	expired := false
	timer := time.AfterFunc(wait, func() {
		q.mu.Lock()
		expired = true
		q.quiet.Broadcast()
		q.mu.Unlock()
	})
	defer timer.Stop()
	q.mu.Lock()
	for !expired && (q.calling > 0 || q.strandedLocked() != nil) {
		q.quiet.Wait()
	}
	q.mu.Unlock()
	return q.stranded()
}

// stranded describes the memory that the system holds; nil if it holds none.
func (q *queue) stranded() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.strandedLocked()
	if p == nil {
		return nil
	}
	count, bytes := 0, 0
	for i := range q.pieces {
		if s := &q.pieces[i]; s.stranded {
			count++
			bytes += s.hi - s.lo
		}
	}
	r := p.request
	return fmt.Errorf("reader: close: %w: %w: %d reads into %d bytes are not answered, the first "+
		"of %s for %q at byte %d since %v; this memory must not be freed", ErrIO, ErrStranded,
		count, bytes, q.names[r.File], r.Label, r.Offset+int64(p.lo),
		q.now().Sub(p.started).Round(time.Millisecond))
}

// strandedLocked is the oldest stranded piece, or nil. The mutex is held.
func (q *queue) strandedLocked() *piece {
	var oldest *piece
	since := time.Duration(math.MinInt64)
	now := q.now()
	for i := range q.pieces {
		p := &q.pieces[i]
		if age := now.Sub(p.started); p.stranded && age > since {
			oldest, since = p, age
		}
	}
	return oldest
}
