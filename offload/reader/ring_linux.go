package reader

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's interface, from include/uapi/linux/io_uring.h and io_uring_setup(2),
// io_uring_enter(2), io_uring_register(2).
const (
	opNop       = 0
	opReadFixed = 4
	opCancel    = 14
	opRead      = 22

	sqeFixedFile = 1 << 0

	registerBuffers = 0
	registerFiles   = 2
	registerEvent   = 4

	setupClamp = 1 << 4

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1

	offsetRings = 0
	offsetSQEs  = 0x10000000
)

// sqOffsets is struct io_sqring_offsets.
type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

// cqOffsets is struct io_cqring_offsets.
type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, sqCPU, sqIdle, features, wqFD uint32
	_                                                          [3]uint32
	sq                                                         sqOffsets
	cq                                                         cqOffsets
}

// sqe is struct io_uring_sqe: one order.
type sqe struct {
	opcode, flags uint8
	_             uint16
	fd            int32
	offset        uint64
	address       uint64
	length        uint32
	_             uint32
	userData      uint64
	bufIndex      uint16
	_             uint16
	_             int32
	_             [2]uint64
}

// cqe is struct io_uring_cqe: one answer.
type cqe struct {
	userData uint64
	result   int32
	_        uint32
}

// The sizes are the kernel's; a constant that overflows does not compile.
const (
	_ = uint(120-unsafe.Sizeof(ringParams{})) + uint(unsafe.Sizeof(ringParams{})-120)
	_ = uint(64-unsafe.Sizeof(sqe{})) + uint(unsafe.Sizeof(sqe{})-64)
	_ = uint(16-unsafe.Sizeof(cqe{})) + uint(unsafe.Sizeof(cqe{})-16)
)

// ring is one io_uring. One goroutine at a time may use it, on any thread.
type ring struct {
	fd           int
	memory       []byte // both rings
	orders       []byte // the memory of sqes
	sqes         []sqe
	cqes         []cqe
	sqHead       *uint32 // moved by the kernel
	sqTail       *uint32
	cqHead       *uint32
	cqTail       *uint32 // moved by the kernel
	sqMask       uint32
	cqMask       uint32
	fixedFiles   bool
	fixedBuffers int // registered
}

// newRing makes a ring with room for the entries, which signals the event with every answer.
func newRing(entries, event int) (*ring, error) {
	params := ringParams{flags: setupClamp}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries),
		uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("%w: io_uring_setup: %w", ErrUnsupported, errno)
	}
	r := &ring{fd: int(fd)}
	if err := r.mapMemory(&params, entries); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	err := r.register(registerEvent, unsafe.Pointer(&[1]int32{int32(event)}), 1)
	if err == nil {
		err = r.try()
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return r, nil
}

// register gives the kernel a list of n things.
func (r *ring) register(what uintptr, list unsafe.Pointer, n int) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), what, uintptr(list),
		uintptr(n), 0, 0)
	runtime.KeepAlive(list)
	if errno != 0 {
		return fmt.Errorf("io_uring_register: %w", errno)
	}
	return nil
}

// mapMemory maps what the kernel shares; on failure the ring is closed.
func (r *ring) mapMemory(params *ringParams, entries int) (err error) {
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	const needed = featSingleMmap | featNoDrop
	if params.features&needed != needed || int(params.sqEntries) < entries {
		return fmt.Errorf("io_uring_setup: features %#x, %d entries: the kernel is too old",
			params.features, params.sqEntries)
	}
	const protection, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	size := max(params.sq.array+4*params.sqEntries,
		params.cq.cqes+params.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	if r.memory, err = unix.Mmap(r.fd, offsetRings, int(size), protection, flags); err != nil {
		return fmt.Errorf("map the rings: %w", err)
	}
	size = params.sqEntries * uint32(unsafe.Sizeof(sqe{}))
	if r.orders, err = unix.Mmap(r.fd, offsetSQEs, int(size), protection, flags); err != nil {
		return fmt.Errorf("map the orders: %w", err)
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.memory[offset])) }
	r.sqHead, r.sqTail, r.sqMask = word(params.sq.head), word(params.sq.tail), *word(params.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = word(params.cq.head), word(params.cq.tail), *word(params.cq.mask)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.orders[0])), params.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.memory[params.cq.cqes])), params.cqEntries)
	array := unsafe.Slice(word(params.sq.array), params.sqEntries)
	for i := range array { // order i always stands in place i
		array[i] = uint32(i)
	}
	return nil
}

// try passes one empty order through the ring: a filter may allow setup and forbid the rest.
func (r *ring) try() error {
	*r.order() = sqe{opcode: opNop}
	r.publish()
	for range retriesMax {
		if err := r.submit(); err != nil && err != unix.EINTR {
			return fmt.Errorf("io_uring_enter: %w", err)
		}
		if c, ok := r.answer(); ok { // an empty order is answered at once
			if c.result != 0 {
				return fmt.Errorf("an empty order fails: %w", unix.Errno(-c.result))
			}
			return nil
		}
	}
	return fmt.Errorf("an empty order is not answered")
}

// registerFiles gives the kernel the descriptors once, instead of with every read. An error leaves
// plain descriptors in use.
func (r *ring) registerFiles(fds []int32) error {
	err := r.register(registerFiles, unsafe.Pointer(&fds[0]), len(fds))
	r.fixedFiles = err == nil
	return err
}

// fixedBytesMax is the most that the kernel registers as one buffer.
const fixedBytesMax = 1 << 30

// registerArena gives the kernel the memory once: it is pinned now and not with every read. An
// error, as a rule ENOMEM by RLIMIT_MEMLOCK, leaves plain reads in use and says what the limit is.
func (r *ring) registerArena(arena []byte) error {
	var vectors []unix.Iovec
	for rest := arena; len(rest) > 0; {
		n := min(len(rest), fixedBytesMax)
		vectors = append(vectors, unix.Iovec{Base: &rest[0], Len: uint64(n)})
		rest = rest[n:]
	}
	err := r.register(registerBuffers, unsafe.Pointer(&vectors[0]), len(vectors))
	if err != nil {
		return fmt.Errorf("register %d bytes: %w%s", len(arena), err, lockLimit(err))
	}
	r.fixedBuffers = len(vectors)
	return nil
}

// lockLimit says what the limit of locked memory is, if that is what an error can be about.
func lockLimit(err error) string {
	var limit unix.Rlimit
	if !errors.Is(err, unix.ENOMEM) || unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) != nil ||
		limit.Cur == unix.RLIM_INFINITY {
		return ""
	}
	return fmt.Sprintf(" (RLIMIT_MEMLOCK is %d bytes)", limit.Cur)
}

// order returns the next free order, to be overwritten as a whole and published. The caller never
// has more outstanding than there are entries.
func (r *ring) order() *sqe { return &r.sqes[*r.sqTail&r.sqMask] }

// publish lets the kernel see the order.
func (r *ring) publish() { atomic.StoreUint32(r.sqTail, *r.sqTail+1) }

// unsubmitted is how many published orders the kernel has not taken.
func (r *ring) unsubmitted() uint32 { return *r.sqTail - atomic.LoadUint32(r.sqHead) }

// submit hands the kernel what was published, and does not wait. The kernel starts reads without
// blocking, or leaves them to threads of its own, so this is no call of which Go's scheduler must
// know: telling it would wake its monitor for every read, which then costs more than the reading.
func (r *ring) submit() error {
	for r.unsubmitted() > 0 {
		_, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd),
			uintptr(r.unsubmitted()), 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	return nil
}

// answer takes the next answer, if there is one.
func (r *ring) answer() (cqe, bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return cqe{}, false
	}
	c := r.cqes[head&r.cqMask]
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

// close gives the ring back; nothing may be in flight.
func (r *ring) close() {
	if r.orders != nil {
		_ = unix.Munmap(r.orders) // fails only for memory that is not mapped
	}
	if r.memory != nil {
		_ = unix.Munmap(r.memory)
	}
	unix.Close(r.fd)
}
