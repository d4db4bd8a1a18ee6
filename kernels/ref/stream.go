package ref

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/moering/moering/kernels"
)

const (
	// queueOps bounds the work queued on a discrete stream. An event can only be waited for once its
	// work is queued, so a full queue always drains.
	queueOps = 1024
	// delayMax and delayOneIn shape the pauses of a discrete stream: short beside an op of a real
	// model, long beside a copy of a few kilobytes, and rare enough that tests stay quick.
	delayMax   = 200 * time.Microsecond
	delayOneIn = 24
)

// direct is the stream of a unified device: everything has run when the call returns.
type direct struct {
	executor
	err    error
	closed bool
}

func (s *direct) Run(op kernels.Op) {
	if s.ready() {
		s.err = s.run(op)
	}
}

func (s *direct) Copy(dst, src kernels.Span) {
	if s.ready() {
		s.err = s.copy(dst, src)
	}
}

func (s *direct) ready() bool {
	if s.closed && s.err == nil {
		s.err = s.closedError()
	}
	return s.err == nil
}

func (s *direct) Record() kernels.Event { return passed{s.err} }

func (s *direct) Wait(e kernels.Event) {
	if e != nil && s.err == nil {
		s.err = e.Wait()
	}
}

func (s *direct) Sync() error { return s.err }

func (s *direct) Close() error {
	s.closed = true
	return nil
}

// passed is an event of a direct stream.
type passed struct{ err error }

func (passed) Done() bool    { return true }
func (e passed) Wait() error { return e.err }

// queue is the stream of a discrete device: a goroutine that takes work in order.
type queue struct {
	executor
	work chan func() error
	done chan struct{}
	rng  *rand.Rand // nil: no delays
	// forget takes the stream off its device's list, once it has closed.
	forget func()

	mu     sync.Mutex // guards closed, and sending against closing
	closed bool

	errMu sync.Mutex
	err   error // the first failure
}

func newQueue(x executor, seed, number uint64) *queue {
	q := &queue{executor: x, work: make(chan func() error, queueOps), done: make(chan struct{})}
	if seed != 0 {
		q.rng = rand.New(rand.NewPCG(seed, number))
	}
	go q.loop()
	return q
}

func (q *queue) loop() {
	defer close(q.done)
	for f := range q.work {
		if q.rng != nil && q.rng.IntN(delayOneIn) == 0 {
			time.Sleep(time.Duration(q.rng.Int64N(int64(delayMax))))
		}
		if err := f(); err != nil {
			q.fail(err)
		}
	}
}

func (q *queue) fail(err error) {
	q.errMu.Lock()
	defer q.errMu.Unlock()
	if q.err == nil {
		q.err = err
	}
}

func (q *queue) failure() error {
	q.errMu.Lock()
	defer q.errMu.Unlock()
	return q.err
}

// send queues f, which is dropped if the stream has failed by then; it reports false on a closed
// stream.
func (q *queue) send(f func() error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.fail(q.closedError())
		return false
	}
	q.work <- f
	return true
}

func (q *queue) Run(op kernels.Op) {
	op = kernels.Clone(op)
	q.send(func() error {
		if q.failure() != nil {
			return nil
		}
		return q.run(op)
	})
}

func (q *queue) Copy(dst, src kernels.Span) {
	q.send(func() error {
		if q.failure() != nil {
			return nil
		}
		return q.copy(dst, src)
	})
}

func (q *queue) Record() kernels.Event {
	m := &mark{done: make(chan struct{})}
	ok := q.send(func() error {
		m.err = q.failure()
		close(m.done)
		return nil
	})
	if !ok {
		return passed{q.failure()}
	}
	return m
}

// Wait makes the failure of the other stream this one's too: what it would have made is missing.
func (q *queue) Wait(e kernels.Event) {
	if e != nil {
		q.send(e.Wait)
	}
}

func (q *queue) Sync() error { return q.Record().Wait() }

func (q *queue) Close() error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.work)
	}
	q.mu.Unlock()
	<-q.done
	q.forget()
	return nil
}

// mark is an event of a queue.
type mark struct {
	done chan struct{}
	err  error // set before done is closed
}

func (m *mark) Done() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *mark) Wait() error {
	<-m.done
	return m.err
}

// executor runs ops on a device's memory.
type executor struct {
	name    string
	threads int
	memory  *memory // nil on a unified device
}

func (x *executor) closedError() error {
	return fmt.Errorf("%w: stream %q is closed", kernels.ErrDevice, x.name)
}

// copy moves bytes. On a discrete device one side is device memory at least.
func (x *executor) copy(dst, src kernels.Span) error {
	if err := kernels.ValidateCopy(dst, src); err != nil {
		return err
	}
	if x.memory != nil && dst.Buffer.Host != nil && src.Buffer.Host != nil {
		return fmt.Errorf("%w: Copy: both sides are host memory", kernels.ErrDevice)
	}
	to, err := x.bytesOf(dst)
	if err != nil {
		return err
	}
	from, err := x.bytesOf(src)
	if err != nil {
		return err
	}
	copy(to, from)
	return nil
}

// bytesOf returns a span's memory, the host's or the device's.
func (x *executor) bytesOf(s kernels.Span) ([]byte, error) {
	if s.Buffer.Host != nil {
		return s.Host(), nil
	}
	if x.memory != nil {
		return x.memory.find(s)
	}
	return nil, fmt.Errorf("%w: %d bytes at %#x are not memory of this device", kernels.ErrDevice,
		s.Bytes, s.Addr())
}
