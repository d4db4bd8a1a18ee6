//go:build cgo

package cpu

/*
#cgo CFLAGS: -O3 -std=c11 -Wall -Wextra
#cgo LDFLAGS: -lm -lpthread
#include <stdlib.h>
#include "cpu.h"
*/
import "C"

import (
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

const (
	threadsMax = 1024 // far above any machine: a mistake in an option
	// hugeBytes is the size of a huge page; buffers of that size and above are aligned to it.
	hugeBytes = 2 << 20
	pageBytes = 4096
	cacheLine = C.CACHE_LINE
	tileRows  = C.TILE
	// tileCols is what the columns of a tiled matrix are a multiple of: two blocks of 32.
	tileCols = 64
)

// Options are the choices of Open; the zero value is right for most.
type Options struct {
	// Threads is the number of threads that compute, the one that waits included; 0 takes all
	// processors that the process may use, by affinity and control-group quota.
	Threads int
	// ISA is the instruction set: "avx512", "avxvnni", "avx2", "neon" or "portable"; "" takes the best
	// of the machine.
	ISA string
}

// Device is the host's processor as a kernels.Device. It is safe for concurrent use.
type Device struct {
	info   kernels.Info
	spread C.uint64_t // NUMA nodes over which large buffers are spread; 0: where there is one

	mu   sync.RWMutex // held for reading by calls into the pool, for writing by Close
	pool *C.pool      // nil after Close
}

// Open starts the device's threads. It fails for an instruction set that is unknown or that the
// machine lacks, and where threads cannot be made; the errors wrap kernels.ErrDevice.
//
// On a machine with several NUMA nodes each thread is held to the processors of one, in proportion,
// and large buffers are spread over the nodes page by page, so that ops that are split by bytes draw
// on all memory alike. Otherwise threads run wherever the affinity of the process allows.
func Open(opts Options) (*Device, error) { return openOn(opts, thisSystem()) }

func openOn(opts Options, host system) (*Device, error) {
	if opts.Threads < 0 || opts.Threads > threadsMax {
		return nil, fmt.Errorf("%w: cpu: %d threads, must be 0 to %d", kernels.ErrDevice,
			opts.Threads, threadsMax)
	}
	threads := opts.Threads
	if threads == 0 {
		threads = min(host.processors(), threadsMax)
	}
	name := C.CString(opts.ISA)
	defer C.free(unsafe.Pointer(name))
	isa := C.isa_find(name)
	if isa == nil {
		return nil, fmt.Errorf("%w: cpu: instruction set %q is unknown, or missing here",
			kernels.ErrDevice, opts.ISA)
	}
	var errno C.int
	pool := C.pool_new(C.int(threads), isa, &errno)
	if pool == nil {
		return nil, fmt.Errorf("%w: cpu: starting %d threads: %w", kernels.ErrDevice, threads,
			syscall.Errno(errno))
	}
	d := &Device{
		pool: pool,
		info: kernels.Info{
			Name:    "cpu",
			Detail:  fmt.Sprintf("%s, %d threads", isaTitle(C.GoString(C.isa_name(isa))), threads),
			Threads: threads,
			Unified: true,
		},
	}
	if nodes := host.nodes(); nodes != nil {
		d.place(nodes)
	}
	return d, nil
}

// place holds the workers to their nodes. Thread 0 is whoever waits, and stays free. A system that
// refuses leaves threads where they are: they compute the same.
func (d *Device) place(nodes []node) {
	for i := 1; i < d.info.Threads; i++ {
		on := nodeOf(nodes, i, d.info.Threads).processors
		C.pool_place(d.pool, C.int(i-1), (*C.int32_t)(unsafe.Pointer(&on[0])), C.int(len(on)))
	}
	d.spread = C.uint64_t(nodesMask(nodes))
	d.info.Detail += fmt.Sprintf(", %d NUMA nodes", len(nodes))
}

// ISAs are the names that Options.ISA may have, the best of each processor first.
func ISAs() []string { return []string{"avx512", "avxvnni", "avx2", "neon", "portable"} }

func isaTitle(name string) string {
	switch name {
	case "avx512":
		return "AVX-512 VNNI"
	case "avxvnni":
		return "AVX-VNNI"
	case "avx2":
		return "AVX2"
	case "neon":
		return "NEON"
	}
	return "portable C"
}

// Info describes the device.
func (d *Device) Info() kernels.Info { return d.info }

// Alloc returns zeroed memory, which takes up room as it is used. Two MiB and more are aligned to
// huge pages, and ask for them.
func (d *Device) Alloc(bytes int64) (*kernels.Buffer, error) { return d.newBuffer(bytes, false) }

// Pin returns memory like Alloc's, locked where the process may lock that much.
func (d *Device) Pin(bytes int64) (*kernels.Buffer, error) { return d.newBuffer(bytes, true) }

func (d *Device) newBuffer(bytes int64, lock bool) (*kernels.Buffer, error) {
	const bytesMax = 1 << 46 // what a process can address
	if bytes < 0 || bytes > bytesMax {
		return nil, fmt.Errorf("%w: cpu: a buffer of %d bytes", kernels.ErrDevice, bytes)
	}
	size := max(bytes+pageBytes-1, pageBytes) &^ (pageBytes - 1)
	align := int64(pageBytes)
	if bytes >= hugeBytes {
		align = hugeBytes
	}
	var locked, huge, wantLock C.int
	if lock {
		wantLock = 1
	}
	addr := C.memory_map(C.int64_t(size), C.int64_t(align), wantLock, d.spread, &locked, &huge)
	if addr == 0 {
		return nil, fmt.Errorf("%w: cpu: no memory for a buffer of %d bytes", kernels.ErrDevice,
			bytes)
	}
	return &kernels.Buffer{
		Host:   unsafe.Slice((*byte)(hostPointer(uintptr(addr))), bytes),
		Addr:   uintptr(addr),
		Bytes:  bytes,
		Locked: locked != 0,
		Huge:   huge != 0,
		Free: sync.OnceValue(func() error {
			if C.memory_unmap(addr, C.int64_t(size)) != 0 {
				return fmt.Errorf("%w: cpu: unmapping %d bytes", kernels.ErrDevice, size)
			}
			return nil
		}),
	}, nil
}

// hostPointer turns the address of memory outside Go's heap into a pointer, by way of its bits: the
// rule against it is for memory that the collector moves or frees.
func hostPointer(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

// Land tiles block-quantised matrices of whole tiles, and leaves others as they are.
func (d *Device) Land(w kernels.Weight, memory kernels.Span) (kernels.Weight, error) {
	if err := kernels.ValidateLand(w, memory); err != nil {
		return kernels.Weight{}, err
	}
	to := w.Data.Addr() &^ (cacheLine - 1)
	down := int64(w.Data.Addr() - to)
	rowBytes, _ := w.Type.RowBytes(int64(w.Cols))
	if C.type_has_tiles(C.int(w.Type)) == 0 || w.Rows%tileRows != 0 || w.Cols%tileCols != 0 ||
		w.Data.Offset-down < memory.Offset {
		return w, nil
	}
	if C.matrix_tiles(C.int(w.Type), C.int64_t(w.Rows), C.int64_t(rowBytes),
		C.uintptr_t(w.Data.Addr()), C.uintptr_t(to)) != 0 {
		return kernels.Weight{}, fmt.Errorf("%w: Land: no memory for %d bytes", kernels.ErrDevice,
			tileRows*rowBytes)
	}
	w.Layout = kernels.Tiled
	w.Data = kernels.Span{
		Buffer: w.Data.Buffer,
		Offset: w.Data.Offset - down,
		Bytes:  rowBytes * int64(w.Rows),
	}
	return w, nil
}

// Close finishes the work of all streams and joins the threads. Buffers stay valid.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pool != nil {
		C.pool_free(d.pool)
		d.pool = nil
	}
	return nil
}

// submit hands a batch to the pool; it reports false after Close.
func (d *Device) submit(b *C.batch) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.pool == nil {
		return false
	}
	C.pool_submit(d.pool, b)
	return true
}

// wait takes part in the work until a batch is done. Close does all that was submitted, so that
// nothing is left to wait for after it.
func (d *Device) wait(p *C.progress, seq int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.pool != nil {
		C.pool_wait(d.pool, p, C.int64_t(seq))
	}
}

// tiled reports whether a matrix is in the layout of Land, or an error for one that cannot be.
func tiled(w *kernels.Weight) (bool, error) {
	if w.Layout != kernels.Tiled {
		return false, nil
	}
	if !w.Type.IsQuantized() || w.Rows%tileRows != 0 || w.Cols%tileCols != 0 {
		return false, fmt.Errorf("a tiled (%d, %d) matrix of type %v", w.Rows, w.Cols, w.Type)
	}
	return true, nil
}

// quantizes reports whether activations are quantised to int8 for products with a type.
func quantizes(t quant.Type, exact bool) bool { return t.IsQuantized() && !exact }
