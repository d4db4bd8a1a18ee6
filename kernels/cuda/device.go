//go:build cgo

package cuda

/*
#include "driver.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/moering/moering/kernels"
)

const (
	// capabilityLeast is the compute capability that the kernels are for: 8.0, Ampere.
	capabilityLeast = 8
	// reserveBytes of the free memory are left to the driver: the kernels' code, local memory, and
	// what launches take.
	reserveBytes = 192 << 20
)

// Device is a GPU as a kernels.Device. It is safe for concurrent use. Of a process's devices each
// has one context, the primary one, which it shares with other users of CUDA in the process.
type Device struct {
	driver   *driver
	info     kernels.Info
	about    DeviceInfo
	ordinal  C.int
	context  C.uint64_t
	declares bool // the library wants to know what launches touch
	halves   bool // of planners
	// hostPointer: kernels reach registered host memory by its address.
	hostPointer bool
	spin        C.int64_t // nanoseconds that a wait spins
	modules     modules
	cublas      *cublas // nil: not wanted, or not there

	lost atomic.Pointer[error] // the failure after which the context gives no other

	zeroMu sync.Mutex // orders uses of zero
	zero   C.uint64_t // the stream that clears new memory

	mu         sync.Mutex
	closed     bool
	used       int64 // bytes of device memory given out
	references int   // to the context: the device's own, and one a buffer
	streams    map[*stream]struct{}
	buffers    map[*kernels.Buffer]kind
	spare      []*slot // events that no stream has
	slots      []*slot // all events

	close func() error
}

// kind says what a buffer is.
type kind uint8

const (
	deviceMemory kind = iota + 1
	registered        // host memory that the driver knows
	pageable          // host memory that it refused
)

// Open loads the driver, takes a device and compiles the kernels for it. Every failure wraps
// kernels.ErrDevice and says what to do about it: no driver, no device, a device that is too old, a
// driver that is too old for the kernels, kernels that are rejected (with the compiler's log), no
// memory. After a failure nothing is held.
func Open(o Options) (*Device, error) {
	driver, err := openDriver(o.Library)
	if err != nil {
		return nil, err
	}
	d := &Device{driver: driver, declares: C.driver_declares(driver.c) != 0,
		halves: o.HalfActivations, references: 1,
		streams: make(map[*stream]struct{}), buffers: make(map[*kernels.Buffer]kind)}
	d.close = sync.OnceValue(d.shut)
	if d.ordinal, d.about, err = driver.find(o.Device); err != nil {
		return nil, err
	}
	if !d.declares {
		d.spin = spinNanoseconds
	}
	if d.about.Major < capabilityLeast {
		return nil, fmt.Errorf("%w: cuda: %v: compute capability %d.0 (Ampere) or later is needed",
			kernels.ErrDevice, d.about, capabilityLeast)
	}
	if r := C.context_retain(driver.c, d.ordinal, &d.context); r != 0 {
		return nil, driver.failure("making a context on "+d.about.Name, r)
	}
	if err := d.prepare(o); err != nil {
		_ = d.Close() // the first failure is what matters
		return nil, err
	}
	return d, nil
}

// prepare does what needs the context.
func (d *Device) prepare(o Options) error {
	var free, total C.uint64_t
	if r := C.context_memory(d.driver.c, d.context, &free, &total); r != 0 {
		return d.fail("asking for free memory", r)
	}
	limit := max(int64(free)-reserveBytes, 0)
	switch {
	case o.MemoryBytes < 0 || o.MemoryBytes > int64(free):
		return fmt.Errorf("%w: cuda: %d bytes of device memory are wanted, %d of %d are free",
			kernels.ErrDevice, o.MemoryBytes, int64(free), int64(total))
	case o.MemoryBytes > 0:
		limit = o.MemoryBytes
	}
	if limit == 0 {
		return fmt.Errorf("%w: cuda: %d of %d bytes of device memory are free, too few: end other "+
			"programs on the GPU (nvidia-smi)", kernels.ErrDevice, int64(free), int64(total))
	}
	var reach C.int
	if r := C.device_attribute(d.driver.c, d.ordinal, C.A_HOST_POINTER, &reach); r != 0 {
		return d.fail("asking whether kernels reach host memory", r)
	}
	d.hostPointer = reach != 0
	d.info = kernels.Info{
		Name: "cuda",
		Detail: fmt.Sprintf("%s, compute capability %d.%d, driver for CUDA %s", d.about.Name,
			d.about.Major, d.about.Minor, versionText(d.about.DriverVersion)),
		MemoryBytes: limit,
	}
	if r := C.stream_create(d.driver.c, d.context, &d.zero); r != 0 {
		return d.fail("making a stream", r)
	}
	if o.CuBLASLt != CuBLASLtOff {
		d.openCuBLASLt(o)
	}
	return d.loadKernels()
}

// Info describes the device. MemoryBytes is what Alloc gives in all, scratch memory of streams
// included.
func (d *Device) Info() kernels.Info { return d.info }

// About describes the hardware and its driver.
func (d *Device) About() DeviceInfo { return d.about }

// Land returns w as it is: the kernels read the published layout at any alignment.
func (d *Device) Land(w kernels.Weight, memory kernels.Span) (kernels.Weight, error) {
	if err := kernels.ValidateLand(w, memory); err != nil {
		return kernels.Weight{}, err
	}
	return w, nil
}

// Close waits for the streams and closes them. Buffers stay valid until they are freed; the context
// goes with the last of them.
func (d *Device) Close() error { return d.close() }

func (d *Device) shut() error {
	d.mu.Lock()
	d.closed = true
	streams := slices.Collect(maps.Keys(d.streams))
	d.mu.Unlock()
	var errs []error
	for _, s := range streams {
		errs = append(errs, s.Close())
	}
	d.mu.Lock()
	slots := d.slots
	d.slots, d.spare = nil, nil
	d.mu.Unlock()
	for _, e := range slots {
		errs = append(errs, d.end("destroying an event",
			C.event_destroy(d.driver.c, d.context, e.event)))
	}
	if d.zero != 0 {
		errs = append(errs, d.end("destroying a stream",
			C.stream_destroy(d.driver.c, d.context, d.zero)))
	}
	errs = append(errs, d.closeCuBLASLt())
	return errors.Join(append(errs, d.unloadKernels(), d.release())...)
}

// hold adds a reference to the context, unless the device is closed.
func (d *Device) hold() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("%w: cuda: the device is closed", kernels.ErrDevice)
	}
	d.references++
	return nil
}

// release takes a reference back.
func (d *Device) release() error {
	d.mu.Lock()
	d.references--
	last := d.references == 0
	d.mu.Unlock()
	if !last {
		return nil
	}
	return d.end("releasing the context", C.context_release(d.driver.c, d.ordinal))
}

// fail turns a result into an error, and remembers one that ends the context.
func (d *Device) fail(what string, r C.int) error {
	err := d.driver.failure(what, r)
	if breaks(r) {
		d.lost.CompareAndSwap(nil, &err)
	}
	return err
}

// end is fail for what gives something back: after the context's end there is nothing to report.
func (d *Device) end(what string, r C.int) error {
	if r == 0 || d.failure() != nil {
		return nil
	}
	return d.fail(what, r)
}

// failure returns what ended the context, or nil.
func (d *Device) failure() error {
	if p := d.lost.Load(); p != nil {
		return *p
	}
	return nil
}

var _ kernels.Device = (*Device)(nil)
