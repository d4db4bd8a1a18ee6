package reader

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// enterFailuresMax bounds how often in a row the kernel may refuse to take orders, each time a
	// pause of enterPause: ten seconds of a system without memory.
	enterFailuresMax = 10000
	enterPause       = time.Millisecond
	// cancelGrace is how long a read that the kernel was asked to cancel may still take. A read
	// that a disk is working on cannot be cancelled, and the kernel says so at once.
	cancelGrace = 100 * time.Millisecond
	// wakeData marks the answer of the event that Submit writes, cancelData that of a cancellation;
	// the other answers are those of reads, by the number of the piece.
	wakeData   = ^uint64(0)
	cancelData = 1 << 32
)

// errLost is the cause when io_uring itself fails.
var errLost = errors.New("io_uring takes no more orders")

// Uring reads with io_uring: one goroutine on its own system thread submits the pieces of all
// devices and reaps the answers, with registered files and, for memory in Options.Arena, registered
// buffers. The kernel keeps up to the depth of reads in flight; between answers the thread sleeps.
// A read that is out of time is cancelled, and stranded if the kernel cannot do that.
type Uring struct {
	queue   *queue
	files   files
	options Options
	info    string
	ring    *ring
	event   event
	thread  threadClock
	arena   uintptr       // address of the registered memory
	refusal error         // why buffers are not registered
	ended   chan struct{} // closed when the goroutine has closed the files
	err     error         // of closing them

	// What follows belongs to the goroutine.
	overdue []overdue // by piece
	reads   int       // that the kernel has not answered, stranded ones included
	cancels int       // that it has not answered
	armed   bool      // a read of the event is outstanding
	woken   [8]byte   // where that read goes
	failed  int       // calls in a row that the kernel refused
}

// overdue is what was done about a piece that is out of time.
type overdue struct {
	asked   bool      // the kernel was asked to cancel it
	refused bool      // and cannot
	until   time.Time // how long it may still take
}

// OpenUring opens the files and makes the ring. Where the system refuses io_uring (a kernel before
// 5.11, a seccomp filter, kernel.io_uring_disabled) the error wraps ErrUnsupported and says so;
// files are treated as OpenPread does.
func OpenUring(names []string, o Options) (*Uring, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	open := func(names []string, o Options) (Reader, error) { return OpenUring(names, o) }
	files, q, err := prepare(names, KindUring, o, open)
	if err != nil {
		return nil, err
	}
	return newUring(files, q, o)
}

// newUring starts the goroutine. It owns the files, after an error too.
func newUring(files files, q *queue, o Options) (*Uring, error) {
	u := &Uring{files: files, options: o, queue: q, ended: make(chan struct{}),
		overdue: make([]overdue, len(q.pieces))}
	if err := u.event.open(); err != nil {
		return nil, joinClose(fmt.Errorf("reader: %w: eventfd: %w", ErrUnsupported, err), files)
	}
	q.wake = u.event.signal
	opened := make(chan error)
	go u.run(opened)
	if err := <-opened; err != nil {
		<-u.ended
		return nil, errors.Join(fmt.Errorf("reader: %w", err), u.err)
	}
	u.info = files.info(u.kind(), q)
	return u, nil
}

// event is an eventfd that wakes the thread. Safe for concurrent use; a signal after close is lost.
type event struct {
	mu sync.Mutex
	fd int // -1 when closed
}

// eventWord is what is written to it: the number one.
var eventWord = [8]byte{1}

func (e *event) open() (err error) {
	e.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	return err
}

func (e *event) signal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.fd >= 0 {
		// The counter cannot overflow in a lifetime, so EINTR is the only failure.
		if _, err := unix.Write(e.fd, eventWord[:]); err != unix.EINTR {
			return
		}
	}
}

func (e *event) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	fd := e.fd
	e.fd = -1
	return unix.Close(fd)
}

// run is the goroutine. The ring is made on its thread, the only one that may use it. It ends when
// the queue is closed and the kernel has answered everything.
func (u *Uring) run(opened chan<- error) {
	defer close(u.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	u.thread.start()
	defer u.thread.stop()
	err := u.setup()
	opened <- err
	if err == nil {
		for u.turn() {
		}
		u.ring.close()
	}
	u.err = errors.Join(u.event.close(), u.files.close())
}

// setup makes the ring, and registers what the kernel takes.
func (u *Uring) setup() (err error) {
	// Every piece may have a read and a cancellation outstanding, and there is the event.
	if u.ring, err = newRing(2*len(u.queue.pieces) + 1); err != nil {
		return err
	}
	fds := make([]int32, len(u.files))
	for i := range u.files {
		fds[i] = int32(u.files[i].fd)
	}
	if err := u.ring.registerFiles(fds); err != nil {
		u.options.Logger.Info("the kernel registers no files", "reason", err)
	}
	if arena := u.options.Arena; len(arena) > 0 {
		u.arena = uintptr(unsafe.Pointer(&arena[0]))
		if u.refusal = u.ring.registerArena(arena); u.refusal != nil {
			u.options.Logger.Info("the kernel registers no buffers, reads pin their memory each",
				"reason", u.refusal)
		}
	}
	return nil
}

// kind says what the kernel took.
func (u *Uring) kind() string {
	kind := []string{"io_uring"}
	if u.ring.deferred {
		kind[0] += " (deferred task work)"
	}
	switch {
	case u.refusal != nil:
		kind = append(kind, fmt.Sprintf("no registered buffers (%v)", u.refusal))
	case u.ring.fixedBuffers > 0:
		kind = append(kind, "registered buffers")
	}
	if u.ring.fixedFiles {
		kind = append(kind, "registered files")
	}
	return strings.Join(kind, ", ")
}

// turn submits what there is room for, waits for an answer, and takes in all there are. False ends
// the goroutine: the queue is closed and nothing is outstanding. A read of the event that is under
// way when the queue is closed is answered by Close.
func (u *Uring) turn() bool {
	closed := u.fill()
	switch {
	case !closed && !u.armed:
		u.arm()
	case closed && !u.armed && u.reads == 0 && u.cancels == 0:
		return false
	}
	if err := u.ring.enter(1, u.hurry()); err != nil && !u.survive(err) {
		u.lose()
		return false
	}
	for {
		c, ok := u.ring.answer()
		if !ok {
			return true
		}
		u.failed = 0
		switch {
		case c.userData == wakeData:
			u.armed = false
		case c.userData&cancelData != 0:
			u.cancels--
			u.overdue[uint32(c.userData)].refused = c.result != 0
		default:
			u.reads--
			u.take(&u.queue.pieces[c.userData], c.result)
		}
	}
}

// fill starts pieces as long as there are some and free places.
func (u *Uring) fill() (closed bool) {
	for {
		p, closed := u.queue.take()
		if p == nil {
			return closed
		}
		u.overdue[p.id] = overdue{}
		u.read(p)
	}
}

// read orders the next read of the piece.
func (u *Uring) read(p *piece) {
	buf, offset := p.target()
	address := uintptr(unsafe.Pointer(&buf[0]))
	order := u.ring.order()
	*order = sqe{opcode: opRead, fd: int32(p.request.File), offset: uint64(offset),
		address: uint64(address), length: uint32(len(buf)), userData: uint64(p.id)}
	if u.ring.fixedFiles {
		order.flags = sqeFixedFile
	} else {
		order.fd = int32(u.files[p.request.File].fd)
	}
	if index, ok := u.fixed(address, len(buf)); ok {
		order.opcode, order.bufIndex = opReadFixed, index
	}
	u.ring.publish()
	u.reads++
}

// fixed is the registered buffer in which the memory lies, if it lies in one.
func (u *Uring) fixed(address uintptr, length int) (uint16, bool) {
	from := address - u.arena
	to := from + uintptr(length)
	if u.ring.fixedBuffers == 0 || address < u.arena || to > uintptr(len(u.options.Arena)) {
		return 0, false
	}
	index := from / fixedBytesMax
	return uint16(index), index == (to-1)/fixedBytesMax
}

// arm orders a read of the event, which is answered when Submit or Close writes to it.
func (u *Uring) arm() {
	*u.ring.order() = sqe{opcode: opRead, fd: int32(u.event.fd), length: uint32(len(u.woken)),
		address: uint64(uintptr(unsafe.Pointer(&u.woken[0]))), userData: wakeData}
	u.ring.publish()
	u.armed = true
}

// cancel orders that the kernel let go of the piece.
func (u *Uring) cancel(p *piece) {
	*u.ring.order() = sqe{opcode: opCancel, fd: -1, address: uint64(p.id),
		userData: cancelData | uint64(p.id)}
	u.ring.publish()
	u.cancels++
}

// hurry cancels what is out of time, strands what cannot be cancelled, and returns how long the
// thread may sleep; 0 means for ever.
func (u *Uring) hurry() (sleep time.Duration) {
	limit := u.queue.timeout
	if limit == 0 || u.reads == 0 {
		return 0
	}
	now := u.queue.now()
	for i := range u.queue.pieces {
		p, late := &u.queue.pieces[i], &u.overdue[i]
		if p.request == nil || p.stranded {
			continue
		}
		left := p.started.Add(limit).Sub(now)
		if left <= 0 && !late.asked {
			late.asked, late.until = true, now.Add(cancelGrace)
			if late.refused = u.options.noCancels; !late.refused {
				u.cancel(p)
			}
		}
		if late.asked {
			left = late.until.Sub(now)
		}
		if late.refused || left <= 0 {
			u.queue.strand(p, timeoutError(limit))
			continue
		}
		if sleep == 0 || left < sleep {
			sleep = left
		}
	}
	return sleep
}

// take takes in the answer for the piece.
func (u *Uring) take(p *piece, result int32) {
	if p.stranded {
		u.queue.finish(p, nil)
		return
	}
	if u.overdue[p.id].asked { // what it brought comes too late
		u.queue.expire(p)
		return
	}
	var err error
	if result < 0 {
		err = unix.Errno(-result)
	}
	again, cause := p.advance(int(max(result, 0)), err)
	if again {
		u.read(p)
		return
	}
	u.queue.finish(p, cause)
}

// survive says whether the kernel may be asked again after an error, and pauses if it is short of
// something.
func (u *Uring) survive(err error) bool {
	if err == unix.EINTR || err == unix.ETIME {
		return true
	}
	if err != unix.EAGAIN && err != unix.EBUSY && err != unix.ENOMEM {
		return false
	}
	u.failed++
	time.Sleep(enterPause)
	return u.failed < enterFailuresMax
}

// lose fails everything, and strands what is in flight: nobody will learn when the kernel lets go.
func (u *Uring) lose() {
	for i := range u.queue.pieces {
		u.queue.strand(&u.queue.pieces[i], errLost)
	}
	u.queue.shut()
}

// Submit implements Reader.
func (u *Uring) Submit(r *Request) error { return u.queue.push(r) }

// Cancel implements Reader.
func (u *Uring) Cancel(r *Request) bool { return u.queue.cancel(r) }

// Promote implements Reader.
func (u *Uring) Promote(r *Request, c Class) bool { return u.queue.promote(r, c) }

// Close implements Reader.
func (u *Uring) Close() error {
	u.queue.shut()
	u.queue.drain()
	if err := u.queue.reclaim(u.options.CloseWait); err != nil {
		return err
	}
	<-u.ended
	return u.err
}

// Stats implements Reader.
func (u *Uring) Stats() Stats {
	s := u.files.count(u.queue.snapshot())
	s.CPUNanos = u.thread.nanos()
	return s
}

// Info implements Reader.
func (u *Uring) Info() string { return u.info }

// Align implements Reader.
func (u *Uring) Align() int { return u.files.align() }

// Fallbacks lists the files that are read through the page cache, with the reasons.
func (u *Uring) Fallbacks() []Fallback { return u.files.fallbacks() }
