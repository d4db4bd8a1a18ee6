package reader

import (
	"testing"
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
