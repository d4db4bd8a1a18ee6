package reader

import (
	"math"
	"sync"
	"time"
	"unsafe"
)

// queue holds requests in order, cuts them into pieces and counts. It is what the implementations
// share; it knows nothing of how a piece is read. Safe for concurrent use; it allocates nothing
// after newQueue but errors.
type queue struct {
	names []string // of the files, for errors
	align int      // a power of two
	chunk int      // largest piece, a multiple of align
	now   func() time.Time
	wake  func() // wakes the reader out of the kernel; nil if it waits on work

	mu       sync.Mutex
	work     sync.Cond  // a request came, or the queue was closed
	room     sync.Cond  // a place is free, or the queue was closed
	ring     []*Request // a ring of fixed size; the head may be partly cut
	head, n  int
	closed   bool
	sleeping bool // the reader found nothing and wants wake
	busy     time.Time
	numbers  uint64
	stats    Stats
}

func newQueue(names []string, align int, o Options) *queue {
	q := &queue{names: names, align: align, chunk: max(o.ChunkBytes, align), now: o.Now,
		ring: make([]*Request, o.QueueRequests)}
	q.work.L, q.room.L = &q.mu, &q.mu
	return q
}

// check refuses requests that cannot be read, whatever the file system: an error must not depend on
// where a test runs.
func (q *queue) check(r *Request) error {
	mask := q.align - 1
	switch {
	case r == nil || r.Done == nil:
		return usageError("no request or no Done")
	case r.File < 0 || r.File >= len(q.names):
		return usageError("file %d of %d", r.File, len(q.names))
	case r.Offset < 0 || r.Offset&int64(mask) != 0 || r.Offset > math.MaxInt64-int64(len(r.Buf)):
		return usageError("%s: offset %d is not a multiple of %d", r.Label, r.Offset, q.align)
	case len(r.Buf) == 0 || len(r.Buf)&mask != 0:
		return usageError("%s: length %d is not a multiple of %d", r.Label, len(r.Buf), q.align)
	case uintptr(unsafe.Pointer(unsafe.SliceData(r.Buf)))&uintptr(mask) != 0:
		return usageError("%s: memory is not aligned to %d bytes", r.Label, q.align)
	case r.Need < 0 || r.Need > len(r.Buf):
		return usageError("%s: need of %d bytes in %d", r.Label, r.Need, len(r.Buf))
	}
	return nil
}

// push appends a request; it waits while the queue is full.
func (q *queue) push(r *Request) error {
	if err := q.check(r); err != nil {
		return err
	}
	q.mu.Lock()
	for q.n == len(q.ring) && !q.closed {
		q.room.Wait()
	}
	if q.closed {
		q.mu.Unlock()
		return ErrClosed
	}
	if r.state.active {
		q.mu.Unlock()
		return usageError("%s: submitted while being read", r.Label)
	}
	want := roundUp(r.needed(), q.align)
	r.state = state{active: true, want: want, piece: pieceBytes(want, q.chunk, q.align),
		number: q.numbers}
	q.numbers++
	q.ring[(q.head+q.n)%len(q.ring)] = r
	q.n++
	wake := q.sleeping
	q.sleeping = false
	q.mu.Unlock()
	if q.wake == nil {
		q.work.Broadcast() // one request may be work for all
	} else if wake {
		q.wake()
	}
	return nil
}

// needed is the number of bytes that must arrive.
func (r *Request) needed() int {
	if r.Need == 0 {
		return len(r.Buf)
	}
	return r.Need
}

// next cuts the next piece into p; with wait set, it waits for one. When got is false, there is
// nothing to read now or, with closed, ever again.
func (q *queue) next(p *piece, wait bool) (got, closed bool) {
	q.mu.Lock()
	for wait && q.n == 0 && !q.closed {
		q.work.Wait()
	}
	if q.closed {
		q.abandon() // unlocks
		return false, true
	}
	q.sleeping = q.n == 0
	if q.n == 0 {
		q.mu.Unlock()
		return false, false
	}
	r := q.ring[q.head]
	s := &r.state
	lo, hi := s.next, min(s.next+s.piece, s.want)
	*p = piece{request: r, lo: lo, hi: hi, need: min(hi, r.needed()) - lo, align: q.align}
	s.next = hi
	s.flying++
	if s.next == s.want {
		q.drop()
	}
	if q.stats.InFlight == 0 {
		q.busy = q.now()
	}
	q.stats.InFlight++
	q.stats.InFlightPeak = max(q.stats.InFlightPeak, q.stats.InFlight)
	q.mu.Unlock()
	return true, false
}

// drop takes the head off the queue. The mutex is held.
func (q *queue) drop() {
	q.ring[q.head] = nil
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	q.room.Signal()
}

// finish ends a piece: cause is nil if its bytes have arrived. The last piece of a request calls
// Done.
func (q *queue) finish(p *piece, cause error) {
	r := p.request
	q.mu.Lock()
	s := &r.state
	s.flying--
	if cause != nil && s.err == nil {
		s.err = p.failure(q.names[r.File], cause)
		if s.next < s.want { // only the head of the queue is partly cut
			s.next = s.want
			q.drop()
		}
	}
	q.stats.InFlight--
	if q.stats.InFlight == 0 {
		q.stats.BusyNanos += q.now().Sub(q.busy).Nanoseconds()
	}
	q.stats.Pieces++
	q.stats.Bytes += int64(min(p.got, p.need))
	q.stats.Retries += int64(p.retries)
	q.stats.Shorts += int64(p.shorts)
	over := s.flying == 0 && s.next == s.want
	var err error
	if over {
		err = q.over(r)
	}
	q.mu.Unlock()
	p.request = nil
	if over {
		r.Done(r, err)
	}
}

// over counts a request that is complete, and returns its error. The mutex is held.
func (q *queue) over(r *Request) error {
	err := r.state.err
	q.stats.Requests++
	if err != nil {
		q.stats.Failed++
	}
	r.state = state{}
	return err
}

// abandon fails the requests of a closed queue that are not read to the end. The mutex is held on
// entry and not on return. Pieces in flight finish their requests themselves.
func (q *queue) abandon() {
	for q.n > 0 {
		r := q.ring[q.head]
		q.drop()
		r.state.next = r.state.want
		if r.state.err == nil {
			r.state.err = ErrClosed
		}
		if r.state.flying > 0 {
			continue
		}
		err := q.over(r)
		q.mu.Unlock()
		r.Done(r, err)
		q.mu.Lock()
	}
	q.mu.Unlock()
}

// close makes push fail and next report closed.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.work.Broadcast()
	q.room.Broadcast()
	if q.wake != nil {
		q.wake()
	}
}

// snapshot returns the counts so far.
func (q *queue) snapshot() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	s.Queued = q.n
	if s.InFlight > 0 {
		s.BusyNanos += q.now().Sub(q.busy).Nanoseconds()
	}
	return s
}
