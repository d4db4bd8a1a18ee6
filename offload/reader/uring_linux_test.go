package reader

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMemoryAcrossRegisteredBuffersIsReadPlainly: the kernel takes one registered buffer per read,
// and an arena above a gibibyte is several. The memory is only mapped, never touched.
func TestMemoryAcrossRegisteredBuffersIsReadPlainly(t *testing.T) {
	const size = 2*fixedBytesMax + 1<<20
	arena, err := unix.Mmap(-1, 0, size, unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		t.Skipf("no address space: %v", err)
	}
	defer unix.Munmap(arena)
	base := uintptr(unsafe.Pointer(unsafe.SliceData(arena)))
	u := &Uring{ring: &ring{fixedBuffers: 3}, arena: base, options: Options{Arena: arena}}
	for _, c := range []struct {
		offset, length int
		index          uint16
		ok             bool
	}{
		{0, 4096, 0, true}, {fixedBytesMax - 4096, 4096, 0, true}, {fixedBytesMax, 4096, 1, true},
		{fixedBytesMax - 4096, 8192, 0, false}, {2 * fixedBytesMax, 1 << 20, 2, true},
		{2 * fixedBytesMax, 1<<20 + 4096, 0, false}, {size, 4096, 0, false}, {-4096, 4096, 0, false},
	} {
		index, ok := u.fixed(base+uintptr(c.offset), c.length)
		if ok != c.ok || ok && index != c.index {
			t.Errorf("%d bytes at %d: buffer %d, %v", c.length, c.offset, index, ok)
		}
	}
	u.ring.fixedBuffers = 0
	if _, ok := u.fixed(base, 4096); ok {
		t.Error("a buffer is used that was not registered")
	}
}

// uringOver makes a ring over descriptors that no Open would take: reads of a pipe hang until
// something is written to it.
func uringOver(t *testing.T, o Options) (u *Uring, write func(n int)) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	o.Depth, o.ChunkBytes = 2, Align
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	laneOf, devices, err := group([]uint64{0}, o)
	if err != nil {
		t.Fatal(err)
	}
	list := files{{name: "pipe", fd: fds[0], align: Align, direct: true}}
	u, err = newUring(list, newQueue(list.names(), laneOf, devices, Align, o), o)
	if errors.Is(err, ErrUnsupported) {
		unix.Close(fds[1])
		t.Skipf("io_uring is not to be had here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	return u, func(n int) {
		if _, err := unix.Write(fds[1], bytes.Repeat([]byte{1}, n)); err != nil {
			t.Error(err)
		}
	}
}

func TestTheKernelCancelsWhatItCan(t *testing.T) {
	// Long enough for a read that is answered at once, on a machine that does much else.
	u, write := uringOver(t, Options{Timeout: 300 * time.Millisecond})
	r, e := watched(1)
	if err := u.Submit(r); err != nil {
		t.Fatal(err)
	}
	err := receive(t, e.done)
	if !errors.Is(err, ErrTimeout) || errors.Is(err, ErrStranded) || !errors.Is(err, ErrIO) ||
		!strings.Contains(err.Error(), "within 300ms") {
		t.Fatal(err)
	}
	write(Align) // goes to the next read, not to the cancelled one
	clear(r.Buf)
	other, e2 := watched(1)
	if err := u.Submit(other); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, e2.done); err != nil || other.Buf[0] != 1 || r.Buf[0] != 0 {
		t.Errorf("%v, %d, %d", err, other.Buf[0], r.Buf[0])
	}
	if s := u.Stats(); s.Timeouts != 1 || s.Stranded != 0 || s.Pieces != 2 || len(e.released) != 0 {
		t.Errorf("%+v", s)
	}
	closeReader(t, u)
}

func TestWhatTheKernelCannotCancelIsStranded(t *testing.T) {
	u, write := uringOver(t, Options{Timeout: 30 * time.Millisecond, noCancels: true,
		CloseWait: 20 * time.Millisecond})
	a, ea := watched(2) // two pieces: the device hangs
	b, eb := watched(1)
	for _, r := range []*Request{a, b} {
		if err := u.Submit(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := receive(t, ea.done); !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrStranded) {
		t.Fatal(err)
	}
	if err := receive(t, eb.done); !errors.Is(err, ErrTimeout) || errors.Is(err, ErrStranded) {
		t.Fatal(err)
	}
	if err := u.Submit(b); !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
	write(Align) // answers one of the two
	for u.Stats().Stranded == 2 {
		time.Sleep(time.Millisecond)
	}
	if err := u.Close(); !errors.Is(err, ErrStranded) || len(ea.released) != 0 {
		t.Fatalf("close: %v, %d released", err, len(ea.released))
	}
	write(Align)
	receive(t, ea.released)
	closeReader(t, u)
	if s := u.Stats(); s.Stranded != 0 || s.Timeouts != 2 || a.Buf[0] != 1 {
		t.Errorf("%+v", s)
	}
}

func TestALostRingStrandsWhatIsInFlight(t *testing.T) {
	u, _ := uringOver(t, Options{CloseWait: time.Millisecond, Timeout: 50 * time.Millisecond})
	r, e := watched(3)
	if err := u.Submit(r); err != nil {
		t.Fatal(err)
	}
	for u.Stats().InFlight < 2 {
		time.Sleep(time.Millisecond)
	}
	// The ring's descriptor now leads elsewhere: to the kernel, io_uring is gone.
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	keep, err := unix.Dup(u.ring.fd) // the kernel would wait for the reads
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(keep)
	if err := unix.Dup3(null, u.ring.fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	err = receive(t, e.done)
	if !errors.Is(err, errLost) || !errors.Is(err, ErrStranded) || errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
	if err := u.Submit(r); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := u.Close(); !errors.Is(err, ErrStranded) {
		t.Error(err)
	}
}

// TestMemoryThatCannotBeRegisteredIsReadAlike: the kernel registers no shared mapping of a file on
// disk, as it registers no more than RLIMIT_MEMLOCK without a privilege.
func TestMemoryThatCannotBeRegisteredIsReadAlike(t *testing.T) {
	names, data := writeCorpus(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "arena"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	arena, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(arena)
	var log bytes.Buffer
	r := uringOrSkip(t, names, Options{Arena: arena,
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer closeReader(t, r)
	if strings.Contains(r.Info(), ", registered buffers") {
		t.Skip("this kernel registers a shared mapping of a file")
	}
	if !strings.Contains(r.Info(), "no registered buffers (register 1048576 bytes: ") ||
		!strings.Contains(log.String(), "registers no buffers") {
		t.Errorf("%s\n%s", r.Info(), log.String())
	}
	var group sync.WaitGroup
	out := want(&group, 6, 0, 1<<20)
	out.Buf = arena
	submit(t, r, out)
	wait(t, &group)
	check(t, out, data)
}

func TestTheProcessorTimeIsKnown(t *testing.T) {
	names, _ := writeCorpus(t)
	r := uringOrSkip(t, names, Options{})
	spent := func() int64 { return r.Stats().CPUNanos }
	before := spent()
	var group sync.WaitGroup
	for range 200 {
		submit(t, r, want(&group, 6, 0, 1<<20))
	}
	wait(t, &group)
	after := spent()
	closeReader(t, r)
	if end := spent(); before < 0 || after <= before || end < after || end > int64(time.Minute) {
		t.Errorf("%d, %d, %d ns", before, after, end)
	}
	if s := lockLimit(unix.EFAULT); s != "" {
		t.Error(s)
	}
}

func TestCloseOfAHangingRingReturns(t *testing.T) {
	u, write := uringOver(t, Options{Timeout: 30 * time.Millisecond, noCancels: true,
		CloseWait: time.Millisecond})
	closeWhileHanging(t, u.Submit, u.Close, func() bool { return u.Stats().InFlight > 0 })
	write(Align)
	<-u.ended
}
