//go:build cgo

package cuda

/*
#include "driver.h"
*/
import "C"

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/moering/moering/kernels"
)

const (
	bytesMax  = 1 << 46 // what a process can address
	pageBytes = 4096
	// unitBytes is what kernels read at a time: memory ends at a multiple of it.
	unitBytes = 16
	hugeBytes = 2 << 20 // host memory of that size and above is aligned to it
)

// Alloc returns zeroed device memory, aligned to 256 bytes. It waits until it is zeroed.
func (d *Device) Alloc(bytes int64) (*kernels.Buffer, error) {
	if bytes < 0 || bytes > bytesMax {
		return nil, fmt.Errorf("%w: cuda: a buffer of %d bytes", kernels.ErrDevice, bytes)
	}
	if err := d.hold(); err != nil {
		return nil, err
	}
	b, err := d.alloc(bytes)
	if err != nil {
		_ = d.release()
		return nil, err
	}
	return b, nil
}

// alloc does the work of Alloc under a reference that becomes the buffer's.
func (d *Device) alloc(bytes int64) (*kernels.Buffer, error) {
	if err := d.take(bytes); err != nil {
		return nil, err
	}
	var at C.uint64_t
	size := C.uint64_t(roundUp(max(bytes, 1), unitBytes))
	r := C.memory_alloc(d.driver.c, d.context, size, &at)
	if r != 0 {
		_ = d.take(-bytes)
		return nil, d.fail(fmt.Sprintf("%d bytes of device memory", bytes), r)
	}
	d.zeroMu.Lock()
	r = C.memory_zero(d.driver.c, d.context, d.zero, at, size)
	d.zeroMu.Unlock()
	if r != 0 {
		err := d.fail(fmt.Sprintf("clearing %d bytes of device memory", bytes), r)
		_ = d.end("", C.memory_free(d.driver.c, d.context, at))
		_ = d.take(-bytes)
		return nil, err
	}
	b := &kernels.Buffer{Addr: uintptr(at), Bytes: bytes}
	b.Free = sync.OnceValue(func() error {
		d.forget(b)
		_ = d.take(-bytes)
		err := d.end(fmt.Sprintf("freeing %d bytes of device memory", bytes),
			C.memory_free(d.driver.c, d.context, at))
		if e := d.release(); err == nil {
			err = e
		}
		return err
	})
	d.remember(b, deviceMemory)
	return b, nil
}

// take counts device memory, and refuses more than the limit; negative bytes give it back.
func (d *Device) take(bytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if bytes > d.info.MemoryBytes-d.used {
		return fmt.Errorf("%w: cuda: out of device memory: %d bytes wanted, %d of %d are in use",
			kernels.ErrDevice, bytes, d.used, d.info.MemoryBytes)
	}
	d.used += bytes
	return nil
}

func (d *Device) remember(b *kernels.Buffer, k kind) {
	d.mu.Lock()
	d.buffers[b] = k
	d.mu.Unlock()
}

func (d *Device) forget(b *kernels.Buffer) {
	d.mu.Lock()
	delete(d.buffers, b)
	d.mu.Unlock()
}

// kindOf returns what a buffer is; 0 for one that is not the device's, or is freed.
func (d *Device) kindOf(b *kernels.Buffer) kind {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.buffers[b]
}

// Pin returns zeroed host memory that the device copies from and to while the host goes on: mapped
// anonymously, so that io_uring takes it too, in huge pages where it is large, and then registered
// with the driver, which locks it. Where the driver refuses that, the memory is ordinary, Locked
// is false, and copies to and from it pass through the stream's own locked memory while the caller
// waits. Addr is the host's address.
func (d *Device) Pin(bytes int64) (*kernels.Buffer, error) {
	if bytes < 0 || bytes > bytesMax {
		return nil, fmt.Errorf("%w: cuda: a buffer of %d bytes", kernels.ErrDevice, bytes)
	}
	if err := d.hold(); err != nil {
		return nil, err
	}
	b, err := d.pin(bytes)
	if err != nil {
		_ = d.release()
		return nil, err
	}
	return b, nil
}

func (d *Device) pin(bytes int64) (*kernels.Buffer, error) {
	size := max(bytes+pageBytes-1, pageBytes) &^ (pageBytes - 1)
	align := int64(pageBytes)
	if bytes >= hugeBytes {
		align = hugeBytes
	}
	var huge C.int
	at := C.host_map(C.uint64_t(size), C.uint64_t(align), &huge)
	if at == 0 {
		return nil, fmt.Errorf("%w: cuda: no memory for a host buffer of %d bytes",
			kernels.ErrDevice, bytes)
	}
	k := registered
	switch r := C.host_register(d.driver.c, d.context, at, C.uint64_t(size)); {
	case refusesLock(r):
		k = pageable
	case r != 0:
		err := d.fail(fmt.Sprintf("registering %d bytes of host memory", bytes), r)
		C.host_unmap(at, C.uint64_t(size))
		return nil, err
	}
	b := &kernels.Buffer{
		Host:   unsafe.Slice((*byte)(hostPointer(uintptr(at))), bytes),
		Addr:   uintptr(at),
		Bytes:  bytes,
		Locked: k == registered,
		Huge:   huge != 0,
	}
	b.Free = sync.OnceValue(func() error {
		d.forget(b)
		return d.unpin(at, size, k)
	})
	d.remember(b, k)
	return b, nil
}

// refusesLock reports the results that mean: this memory is not to be locked.
func refusesLock(r C.int) bool {
	const notPermitted, notSupported = 800, 801
	return r == C.R_OUT_OF_MEMORY || r == notPermitted || r == notSupported
}

// unpin gives host memory back. It is unmapped even if the driver fails: that happens when the
// context is gone, and the driver's hold on the pages with it.
func (d *Device) unpin(at C.uint64_t, size int64, k kind) error {
	var err error
	if k == registered {
		err = d.end(fmt.Sprintf("unregistering %d bytes of host memory", size),
			C.host_unregister(d.driver.c, d.context, at))
	}
	if C.host_unmap(at, C.uint64_t(size)) != 0 && err == nil {
		err = fmt.Errorf("%w: cuda: unmapping %d bytes", kernels.ErrDevice, size)
	}
	if e := d.release(); err == nil {
		err = e
	}
	return err
}

// hostPointer turns the address of memory outside Go's heap into a pointer, by way of its bits: the
// rule against it is for memory that the collector moves or frees.
func hostPointer(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

// hostWrites tells a stand-in that the host is about to write registered memory.
func (d *Device) hostWrites(b []byte) {
	if d.declares && len(b) > 0 {
		C.driver_host_access(d.driver.c, C.uint64_t(uintptr(unsafe.Pointer(&b[0]))),
			C.uint64_t(len(b)), 1)
	}
}
