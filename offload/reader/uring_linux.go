package reader

import (
	"errors"
	"fmt"
	"runtime"
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
	// wakeData marks the answer of the event that Submit writes.
	wakeData = ^uint64(0)
)

// errLost is the cause when io_uring itself fails.
var errLost = errors.New("io_uring takes no more orders; the memory of reads in flight is lost")

// Uring reads with io_uring: one goroutine on its own system thread submits the pieces and reaps
// the answers, with registered files and, for memory in Options.Arena, registered buffers. The
// kernel keeps up to the depth of reads in flight; between answers the thread sleeps.
type Uring struct {
	queue   *queue
	files   files
	options Options
	ring    *ring
	event   int // an eventfd that Submit writes to when the thread sleeps
	close   func() error
	arena   uintptr // address of the registered memory
	refusal error   // why buffers are not registered

	// What follows belongs to the goroutine.
	slots  []piece // one per piece in flight
	free   []int32 // slots that are not in use
	armed  bool    // a read of the event is outstanding
	woken  [8]byte // where that read goes
	failed int     // calls in a row that the kernel refused
}

// wakeWord is what is written to the event: the number one.
var wakeWord = [8]byte{1}

// OpenUring opens the files and makes the ring. Where the system refuses io_uring (an old kernel, a
// seccomp filter, kernel.io_uring_disabled) the error wraps ErrUnsupported and says so; files are
// treated as OpenPread does.
func OpenUring(names []string, o Options) (*Uring, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	files, err := openFiles(names, o)
	if err != nil {
		return nil, err
	}
	u := &Uring{files: files, options: o, queue: newQueue(files.names(), files.align(), o)}
	u.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reader: %w: eventfd: %w", ErrUnsupported, err),
			files.close())
	}
	u.queue.wake = u.wake
	u.slots, u.free = make([]piece, o.Depth), make([]int32, o.Depth)
	for i := range u.free {
		u.free[i] = int32(i)
	}
	opened, ended := make(chan error), make(chan struct{})
	go u.run(opened, ended)
	if err := <-opened; err != nil {
		<-ended
		return nil, errors.Join(fmt.Errorf("reader: %w", err), unix.Close(u.event), files.close())
	}
	u.close = sync.OnceValue(func() error {
		u.queue.close()
		<-ended
		return errors.Join(unix.Close(u.event), u.files.close())
	})
	return u, nil
}

// wake makes the thread return from the kernel.
func (u *Uring) wake() {
	for {
		// The counter cannot overflow in a lifetime, so EINTR is the only failure.
		if _, err := unix.Write(u.event, wakeWord[:]); err != unix.EINTR {
			return
		}
	}
}

// run is the goroutine. The ring is made on its thread, the only one that may use it.
func (u *Uring) run(opened chan<- error, ended chan<- struct{}) {
	defer close(ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := u.setup()
	opened <- err
	if err != nil {
		return
	}
	defer u.ring.close()
	for u.turn() {
	}
}

// setup makes the ring, and registers what the kernel takes.
func (u *Uring) setup() (err error) {
	if u.ring, err = newRing(u.options.Depth + 1); err != nil { // one order for the event
		return err
	}
	fds := make([]int32, len(u.files))
	for i := range u.files {
		fds[i] = int32(u.files[i].fd)
	}
	u.ring.registerFiles(fds)
	if arena := u.options.Arena; len(arena) > 0 {
		u.arena = uintptr(unsafe.Pointer(&arena[0]))
		if u.refusal = u.ring.registerArena(arena); u.refusal != nil {
			u.options.Logger.Info("the kernel registers no buffers, reads pin their memory each",
				"reason", u.refusal)
		}
	}
	return nil
}

// turn submits what there is room for, waits for an answer, and takes in all there are. False ends
// the goroutine: the queue is closed and nothing is outstanding.
func (u *Uring) turn() bool {
	closed := u.fill()
	if closed && !u.armed && len(u.free) == len(u.slots) {
		return false
	}
	// With every slot in use nothing can be started and fill has not looked whether the queue is
	// closed: then an answer wakes the thread, and an event read now could be the one that Close
	// has already spent.
	if !closed && !u.armed && len(u.free) > 0 {
		u.arm()
	}
	if err := u.ring.enter(1); err != nil && !u.survive(err) {
		u.lose()
		return false
	}
	for {
		c, ok := u.ring.answer()
		if !ok {
			return true
		}
		if c.userData == wakeData {
			u.armed = false
		} else {
			u.take(int32(c.userData), c.result)
		}
	}
}

// fill starts pieces as long as there are some and free slots.
func (u *Uring) fill() (closed bool) {
	for len(u.free) > 0 {
		slot := u.free[len(u.free)-1]
		got, closed := u.queue.next(&u.slots[slot], false)
		if !got {
			return closed
		}
		u.free = u.free[:len(u.free)-1]
		u.read(slot)
	}
	return false
}

// read orders the next read of the piece in the slot.
func (u *Uring) read(slot int32) {
	p := &u.slots[slot]
	buf, offset := p.target()
	address := uintptr(unsafe.Pointer(&buf[0]))
	order := u.ring.order()
	*order = sqe{opcode: opRead, fd: int32(p.request.File), offset: uint64(offset),
		address: uint64(address), length: uint32(len(buf)), userData: uint64(slot)}
	if u.ring.fixedFiles {
		order.flags = sqeFixedFile
	} else {
		order.fd = int32(u.files[p.request.File].fd)
	}
	if index, ok := u.fixed(address, len(buf)); ok {
		order.opcode, order.bufIndex = opReadFixed, index
	}
	u.ring.publish()
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
	*u.ring.order() = sqe{opcode: opRead, fd: int32(u.event), length: uint32(len(u.woken)),
		address: uint64(uintptr(unsafe.Pointer(&u.woken[0]))), userData: wakeData}
	u.ring.publish()
	u.armed = true
}

// take takes in the answer for the piece in the slot.
func (u *Uring) take(slot, result int32) {
	u.failed = 0
	p := &u.slots[slot]
	var err error
	if result < 0 {
		err = unix.Errno(-result)
	}
	again, cause := p.advance(int(max(result, 0)), err)
	if again {
		u.read(slot)
		return
	}
	u.free = append(u.free, slot)
	u.queue.finish(p, cause)
}

// survive says whether the kernel may be asked again after an error, and pauses if it is short of
// something.
func (u *Uring) survive(err error) bool {
	if err == unix.EINTR {
		return true
	}
	if err != unix.EAGAIN && err != unix.EBUSY && err != unix.ENOMEM {
		return false
	}
	u.failed++
	time.Sleep(enterPause)
	return u.failed < enterFailuresMax
}

// lose fails everything. The kernel may still write to the memory of reads in flight, which the
// error says.
func (u *Uring) lose() {
	u.queue.close()
	for i := range u.slots {
		if p := &u.slots[i]; p.request != nil {
			u.queue.finish(p, errLost)
		}
	}
	var p piece
	u.queue.next(&p, false) // the queue is closed: fails what waits
}

// Submit implements Reader.
func (u *Uring) Submit(r *Request) error { return u.queue.push(r) }

// Close implements Reader.
func (u *Uring) Close() error { return u.close() }

// Stats implements Reader.
func (u *Uring) Stats() Stats { return u.files.count(u.queue.snapshot()) }

// Info implements Reader.
func (u *Uring) Info() string {
	kind := "io_uring"
	if u.ring.deferred {
		kind += " (deferred task work)"
	}
	switch {
	case u.refusal != nil:
		kind += fmt.Sprintf(", no registered buffers (%v)", u.refusal)
	case u.ring.fixedBuffers > 0:
		kind += ", registered buffers"
	}
	if u.ring.fixedFiles {
		kind += ", registered files"
	}
	return u.files.info(kind, u.options)
}

// Align implements Reader.
func (u *Uring) Align() int { return u.files.align() }

// Fallbacks lists the files that are read through the page cache, with the reasons.
func (u *Uring) Fallbacks() []Fallback { return u.files.fallbacks() }
