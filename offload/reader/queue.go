package reader

import (
	"math"
	"sync"
	"time"
	"unsafe"
)

// queue is what the implementations share: the requests that wait, by device and class, the pieces
// in flight, and the counts. It knows nothing of how a piece is read. Safe for concurrent use; it
// allocates nothing after newQueue but errors.
type queue struct {
	names   []string // of the files, for errors
	laneOf  []int    // by file
	align   int      // a power of two
	timeout time.Duration
	waits   int // requests that may wait in a line
	now     func() time.Time
	wake    func() // wakes the reader out of its sleep; nil for a pool, which waits for work

	mu       sync.Mutex
	quiet    sync.Cond // for drain: something ended
	lanes    []lane
	pieces   []piece // the places of all lanes
	closed   bool
	sleeping bool // the reader found nothing to start and wants wake
	calling  int  // callbacks that run
	busy     time.Time
	numbers  uint64
	stats    Stats
}

// newQueue makes the queue for files on devices; laneOf says for each file on which.
func newQueue(names []string, laneOf []int, devices []device, align int, o Options) *queue {
	q := &queue{names: names, laneOf: laneOf, align: align, timeout: o.Timeout,
		waits: o.QueueRequests, now: o.Now, lanes: make([]lane, len(devices))}
	q.quiet.L = &q.mu
	for i, d := range devices {
		l := &q.lanes[i]
		l.stats = DeviceStats{Name: d.name, Files: d.files, Depth: d.depth,
			ChunkBytes: max(d.chunk, align), ProbeBytesPerSecond: d.rate}
		l.work.L = &q.mu
		for c := range l.lines {
			l.lines[c].room.L = &q.mu
		}
		for range d.depth {
			l.free = append(l.free, int32(len(q.pieces)))
			q.pieces = append(q.pieces, piece{lane: int32(i), id: int32(len(q.pieces)),
				align: int32(align)})
		}
	}
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
	case r.Class >= ClassCount:
		return usageError("%s: %v of %d", r.Label, r.Class, ClassCount)
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

// push puts a request into the line of its class; it waits while that is full.
func (q *queue) push(r *Request) error {
	if err := q.check(r); err != nil {
		return err
	}
	l := &q.lanes[q.laneOf[r.File]]
	line := &l.lines[r.Class]
	q.mu.Lock()
	for line.n >= q.waits && !q.closed && !l.hangs() {
		line.room.Wait()
	}
	if err := q.admit(r, l); err != nil {
		q.mu.Unlock()
		return err
	}
	line.push(r)
	pieces := (r.state.want-1)/r.state.piece + 1
	wake := q.sleeping && len(l.free) > 0 // else the end of a piece wakes the reader
	if wake {
		q.sleeping = false
	}
	q.mu.Unlock()
	if q.wake == nil {
		for range min(pieces, l.stats.Depth) {
			l.work.Signal()
		}
	} else if wake {
		q.wake()
	}
	return nil
}

// admit prepares a request for its line, or refuses it. The mutex is held.
func (q *queue) admit(r *Request, l *lane) error {
	switch {
	case q.closed:
		return ErrClosed
	case r.state.active:
		return usageError("%s: submitted while being read", r.Label)
	case l.hangs():
		return q.hanging(r)
	}
	want := roundUp(r.needed(), q.align)
	r.state = state{active: true, class: r.Class, want: want, since: q.now(),
		piece: pieceBytes(want, l.stats.ChunkBytes, q.align), number: q.numbers}
	q.numbers++
	return nil
}

// needed is the number of bytes that must arrive.
func (r *Request) needed() int {
	if r.Need == 0 {
		return len(r.Buf)
	}
	return r.Need
}

// cancel implements Reader.Cancel.
func (q *queue) cancel(r *Request) bool {
	if r == nil {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !r.state.waiting || r.state.next > 0 {
		return false
	}
	q.stats.Canceled++
	q.stats.CanceledBytes += int64(r.needed())
	q.unlink(r)
	r.state = state{}
	return true
}

// promote implements Reader.Promote.
func (q *queue) promote(r *Request, c Class) bool {
	if r == nil || c >= ClassCount {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !r.state.waiting {
		return false
	}
	if c < r.state.class {
		q.unlink(r)
		q.lanes[q.laneOf[r.File]].lines[c].push(r)
		q.stats.Promoted++
		r.state.class, r.state.since = c, q.now()
	}
	return true
}

// unlink takes a request that waits out of its line. The mutex is held.
func (q *queue) unlink(r *Request) { q.lanes[q.laneOf[r.File]].lines[r.state.class].remove(r) }

// take starts the most urgent piece of any device that has a free place. Nil says that there is
// nothing to start: then push calls wake when there is.
func (q *queue) take() (p *piece, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.lanes {
		if p := q.cut(&q.lanes[i]); p != nil {
			return p, false
		}
	}
	q.sleeping = true
	return nil, q.closed
}

// wait starts the most urgent piece of one device, and waits for one. Nil says that the queue is
// closed. It is called by no more goroutines than the device has places.
func (q *queue) wait(lane int) *piece {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := &q.lanes[lane]
	for {
		if p := q.cut(l); p != nil {
			return p
		}
		if q.closed {
			return nil
		}
		l.work.Wait()
	}
}

// cut starts the most urgent piece of the device, if one waits and has a place. The mutex is held.
func (q *queue) cut(l *lane) *piece {
	if len(l.free) == 0 {
		return nil
	}
	for c := range l.lines {
		r := l.lines[c].first
		if r == nil {
			continue
		}
		s, now := &r.state, q.now()
		if s.next == 0 {
			q.waited(r, now)
		}
		lo, hi := s.next, min(s.next+s.piece, s.want)
		p := &q.pieces[l.free[len(l.free)-1]]
		l.free = l.free[:len(l.free)-1]
		p.begin(r, lo, hi, min(hi, r.needed())-lo, now)
		s.next = hi
		s.flying++
		if s.next == s.want {
			q.unlink(r)
		}
		q.depart(l, now)
		return p
	}
	return nil
}

// finish ends a piece: cause is nil if its bytes have arrived. The last piece of a request calls
// Done. A stranded piece gives back its memory and its place.
func (q *queue) finish(p *piece, cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tally(p)
	r, l := p.request, &q.lanes[p.lane]
	if p.stranded {
		l.stats.Stranded--
		r.state.stranded--
	} else {
		q.land(l)
		r.state.flying--
		if cause != nil {
			q.fail(r, p.failure(q.names[r.File], cause))
		}
	}
	l.free = append(l.free, p.id)
	stranded := p.stranded
	p.request, p.stranded = nil, false
	if !stranded {
		q.settle(r)
	} else if r.state.told && r.state.stranded == 0 {
		q.release(r)
	}
}

// fail notes the first failure; what has not started is not read. The mutex is held.
func (q *queue) fail(r *Request, err error) {
	if r.state.err == nil {
		r.state.err = err
	}
	if r.state.waiting {
		q.unlink(r)
	}
}

// settle ends the request if no piece waits or flies. The mutex is held, but not during Done.
func (q *queue) settle(r *Request) {
	s := &r.state
	if s.waiting || s.flying > 0 {
		return
	}
	err, stranded := s.err, s.stranded > 0
	q.stats.Requests++
	if err != nil {
		q.stats.Failed++
	}
	if stranded {
		err = &strandedError{err}
	} else {
		*s = state{} // the caller's from Done on
	}
	q.call(func() { r.Done(r, err) })
	if !stranded {
		return
	}
	if s.told = true; s.stranded == 0 {
		q.release(r)
	}
}

// release tells that the system has let go of the memory. The mutex is held, but not during the
// call.
func (q *queue) release(r *Request) {
	r.state = state{}
	if r.Released != nil {
		q.call(func() { r.Released(r) })
	}
	q.stir()
}

// call runs a callback without the mutex.
func (q *queue) call(f func()) {
	q.calling++
	q.mu.Unlock()
	f()
	q.mu.Lock()
	q.calling--
	q.stir()
}

// stir lets drain look again. The mutex is held.
func (q *queue) stir() {
	if q.closed {
		q.quiet.Broadcast()
	}
}
