package reader

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// gate is a source whose reads wait until they are let through.
type gate struct {
	open    chan struct{}
	waiting atomic.Int32
}

func (g *gate) readAt(_ *piece, buf []byte, _ int64) (int, error) {
	g.waiting.Add(1)
	<-g.open
	for i := range buf {
		buf[i] = 1
	}
	return len(buf), nil
}

// poolOver makes a pool over a source, and says in closed when its files would be.
func poolOver(t *testing.T, s source, depth int, o Options) (w *pool, closed *atomic.Bool) {
	t.Helper()
	q := testQueue(t, depth, o)
	q.wake = nil
	closed = new(atomic.Bool)
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return newPool(q, s, o.CloseWait, func() error { closed.Store(true); return io.ErrNoProgress }),
		closed
}

// ending is what a request reports.
type ending struct {
	done     chan error
	released chan struct{}
}

func watched(n int) (*Request, ending) {
	e := ending{make(chan error, 1), make(chan struct{}, 1)}
	return &Request{Label: "blk.0", Buf: aligned(n * Align),
		Done:     func(_ *Request, err error) { e.done <- err },
		Released: func(*Request) { e.released <- struct{}{} }}, e
}

func receive[T any](t *testing.T, c chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(hangLimit):
		t.Fatal("nothing comes")
	}
	return v
}

func TestAHangingReadIsAnErrorAndItsMemoryIsKeptUntilTheSystemLetsGo(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	w, closed := poolOver(t, g, 2, Options{Timeout: 30 * time.Millisecond,
		CloseWait: 20 * time.Millisecond})
	r, e := watched(1)
	r.Offset = 8192
	if err := w.queue.push(r); err != nil {
		t.Fatal(err)
	}
	err := receive(t, e.done)
	var where *Error
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrStranded) || !errors.Is(err, ErrIO) ||
		!errors.As(err, &where) || where.Offset != 8192 || where.Bytes != 4096 ||
		!strings.Contains(err.Error(),
			`"blk.0" at byte 8192: no answer from the device within 30ms`) {
		t.Fatal(err)
	}
	if err := w.queue.push(r); !errors.Is(err, ErrUsage) {
		t.Fatalf("stranded memory is read into again: %v", err)
	}
	err = w.close()
	if !errors.Is(err, ErrStranded) || !strings.Contains(err.Error(), "1 reads into 4096 bytes") ||
		closed.Load() {
		t.Fatalf("close: %v, files closed: %v", err, closed.Load())
	}
	if s := w.queue.snapshot(); s.Timeouts != 1 || s.Stranded != 1 || s.InFlight != 0 ||
		s.Failed != 1 || s.Devices[0].Stranded != 1 {
		t.Errorf("%+v", s)
	}
	select {
	case <-e.released:
		t.Fatal("released while the read is under way")
	default:
	}
	close(g.open)
	receive(t, e.released)
	if r.Buf[0] != 1 || r.state.active {
		t.Error("released before the read ended")
	}
	if err := w.close(); err != io.ErrNoProgress || !closed.Load() { // the files' own error
		t.Errorf("the second close: %v", err)
	}
	if s := w.queue.snapshot(); s.Stranded != 0 || s.Pieces != 1 {
		t.Errorf("%+v", s)
	}
}

func TestADeviceThatHangsFailsWhatWaitsAndRecovers(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	// Long enough for a read that is let through, on a machine that does much else.
	w, _ := poolOver(t, g, 2, Options{Timeout: 300 * time.Millisecond, QueueRequests: 4})
	var ends []ending
	for range 5 { // two hang, three wait
		r, e := watched(1)
		ends = append(ends, e)
		if err := w.queue.push(r); err != nil {
			t.Fatal(err)
		}
	}
	stranded := 0
	for _, e := range ends {
		err := receive(t, e.done)
		if !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrIO) {
			t.Error(err)
		}
		if errors.Is(err, ErrStranded) {
			stranded++
		} else if !strings.Contains(err.Error(), "none of 2 reads is answered within 300ms") {
			t.Error(err)
		}
	}
	r, e := watched(1)
	if err := w.queue.push(r); stranded != 2 || !errors.Is(err, ErrTimeout) {
		t.Fatalf("%d stranded, then Submit: %v", stranded, err)
	}
	close(g.open)
	for i := range 2 {
		receive(t, ends[i].released)
	}
	for range 1000 { // Released is called a moment before the place is free
		if err := w.queue.push(r); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := receive(t, e.done); err != nil {
		t.Error(err)
	}
	if err := w.close(); err != io.ErrNoProgress {
		t.Error(err)
	}
}

// TestARequestWithOneHangingPieceIsReleasedOnce: the other pieces end well, and before or after.
func TestARequestWithOneHangingPieceIsReleasedOnce(t *testing.T) {
	q := testQueue(t, 4, Options{Timeout: time.Second})
	for name, order := range map[string]string{"strand first": "s12", "in between": "1s2",
		"let go before the end": "sf12", "two": "ss1", "two, one let go": "ssf1"} {
		r, e := watched(3)
		mustPush(t, q, r)
		var flying, stranded []*piece
		for p, _ := q.take(); p != nil; p, _ = q.take() {
			flying = append(flying, p)
		}
		for _, step := range order {
			switch step {
			case 's':
				q.strand(flying[0], timeoutError(time.Second))
				q.strand(flying[0], timeoutError(time.Second)) // has no effect
				stranded, flying = append(stranded, flying[0]), flying[1:]
			case 'f':
				q.finish(stranded[0], nil)
				stranded = stranded[1:]
			default:
				if len(e.done) > 0 {
					t.Errorf("%s: Done before all pieces have ended", name)
				}
				q.finish(flying[0], nil)
				flying = flying[1:]
			}
		}
		err := receive(t, e.done)
		if !errors.Is(err, ErrTimeout) || errors.Is(err, ErrStranded) != (len(stranded) > 0) ||
			len(e.released) > 0 {
			t.Errorf("%s: %v, %d released", name, err, len(e.released))
		}
		for i, p := range stranded {
			if len(e.released) > 0 {
				t.Errorf("%s: released with %d pieces to come", name, len(stranded)-i)
			}
			q.finish(p, nil)
		}
		if got := len(e.released); got != min(1, len(stranded)) || r.state.active {
			t.Errorf("%s: released %d times", name, got)
		}
	}
	if s := q.snapshot(); s.Stranded != 0 || s.InFlight != 0 || len(q.lanes[0].free) != 4 {
		t.Errorf("%+v", s)
	}
}

// TestReleasedComesAfterDone: the system lets go while Done runs.
func TestReleasedComesAfterDone(t *testing.T) {
	q := testQueue(t, 1, Options{Timeout: time.Second})
	var order []string
	r := blocks(&order, "done", Demand, 1)
	var p *piece
	r.Done = func(_ *Request, err error) {
		q.finish(p, nil)
		order = append(order, "done")
	}
	r.Released = func(*Request) { order = append(order, "released") }
	mustPush(t, q, r)
	p, _ = q.take()
	q.strand(p, timeoutError(time.Second))
	if s := strings.Join(order, " "); s != "done released" {
		t.Error(s)
	}
}

func TestWithoutATimeoutSlowReadsAreWaitedFor(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	w, _ := poolOver(t, g, 1, Options{})
	r, e := watched(1)
	if err := w.queue.push(r); err != nil {
		t.Fatal(err)
	}
	for g.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		close(g.open)
	}()
	if err := w.close(); err != io.ErrNoProgress {
		t.Error(err)
	}
	if err := receive(t, e.done); err != nil {
		t.Error(err)
	}
}

// dripping gives one block per read and counts them; the first waits.
type dripping struct {
	gate
	reads atomic.Int32
}

func (d *dripping) readAt(p *piece, buf []byte, offset int64) (int, error) {
	if d.reads.Add(1) == 1 {
		return d.gate.readAt(p, buf[:Align], offset)
	}
	return Align, nil
}

// TestAStrandedReadIsNotContinued: nobody wants the rest, and the place is free sooner.
func TestAStrandedReadIsNotContinued(t *testing.T) {
	d := &dripping{gate: gate{open: make(chan struct{})}}
	w, _ := poolOver(t, d, 1, Options{Timeout: 20 * time.Millisecond})
	w.queue.lanes[0].stats.ChunkBytes = 4 * Align
	r, e := watched(4)
	if err := w.queue.push(r); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, e.done); !errors.Is(err, ErrStranded) {
		t.Error(err)
	}
	close(d.open)
	receive(t, e.released)
	if n := d.reads.Load(); n != 1 {
		t.Errorf("%d reads", n)
	}
	if err := w.close(); err != io.ErrNoProgress {
		t.Error(err)
	}
}

// closeWhileHanging closes a reader with a read in flight that is never answered: the read runs out
// of time all the same, and Close returns after Done, however long that takes.
func closeWhileHanging(t *testing.T, submit func(*Request) error, closes func() error,
	flying func() bool) {
	t.Helper()
	r, e := watched(1)
	var returned atomic.Bool
	done := r.Done
	r.Done = func(r *Request, err error) {
		time.Sleep(30 * time.Millisecond) // longer than CloseWait
		done(r, err)
		returned.Store(true)
	}
	if err := submit(r); err != nil {
		t.Fatal(err)
	}
	for !flying() {
		time.Sleep(time.Millisecond)
	}
	closed := make(chan error, 1)
	go func() { closed <- closes() }()
	if err := receive(t, closed); !errors.Is(err, ErrStranded) || !returned.Load() {
		t.Errorf("close: %v, Done has returned: %v", err, returned.Load())
	}
	if err := receive(t, e.done); !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrStranded) {
		t.Error(err)
	}
}

func TestCloseOfAHangingPoolReturns(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	w, _ := poolOver(t, g, 2, Options{Timeout: 30 * time.Millisecond, CloseWait: time.Millisecond})
	closeWhileHanging(t, w.queue.push, w.close, func() bool { return g.waiting.Load() > 0 })
	close(g.open)
	<-w.ended
}
