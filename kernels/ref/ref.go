// Package ref is the reference device: every op in plain Go, computed in float64 and rounded to
// float32 when stored. It is the oracle of the other devices, and the device of builds without cgo.
//
// With Options.Discrete it behaves as a graphics card does: device memory that the host cannot
// reach, copies, and streams that run by themselves, with small random delays, so that a missing
// wait shows as a wrong result or a data race.
package ref

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/moering/moering/kernels"
)

// discreteBytesDefault is the memory of a discrete device where Options has none.
const discreteBytesDefault = 4 << 30

// Options of Open; the zero value is a unified device.
type Options struct {
	// Discrete gives the device memory of its own, and streams that run concurrently.
	Discrete bool
	// MemoryBytes bounds the memory of a discrete device; 0 means 4 GiB.
	MemoryBytes int64
	// Seed other than 0 makes the streams of a discrete device pause now and then, up to delayMax.
	Seed uint64
	// Threads bounds the goroutines of one op; 0 means GOMAXPROCS. Results do not depend on it.
	Threads int
}

// Device implements kernels.Device.
type Device struct {
	options Options
	memory  memory

	mu      sync.Mutex
	closed  bool
	opened  uint64              // streams, to seed their delays
	streams map[*queue]struct{} // open discrete streams, for Close
}

// Open returns a device; it cannot fail.
func Open(o Options) *Device {
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	if o.Discrete && o.MemoryBytes <= 0 {
		o.MemoryBytes = discreteBytesDefault
	}
	return &Device{options: o, memory: memory{free: o.MemoryBytes},
		streams: make(map[*queue]struct{})}
}

// Info describes the device.
func (d *Device) Info() kernels.Info {
	info := kernels.Info{Name: "ref", Threads: d.options.Threads, Unified: !d.options.Discrete}
	info.Detail = fmt.Sprintf("plain Go in float64, %d threads", d.options.Threads)
	if d.options.Discrete {
		info.Detail += ", memory of its own"
		info.MemoryBytes = d.options.MemoryBytes
	}
	return info
}

// Alloc returns zeroed memory. Freed memory is filled with 0xCC.
func (d *Device) Alloc(bytes int64) (*kernels.Buffer, error) {
	if d.options.Discrete {
		return d.memory.alloc(bytes)
	}
	return d.Pin(bytes)
}

// Pin returns ordinary host memory: there is no hardware that would need it locked.
func (d *Device) Pin(bytes int64) (*kernels.Buffer, error) {
	b, err := kernels.HostBuffer(bytes)
	if err != nil {
		return nil, err
	}
	var once sync.Once
	host := b.Host
	b.Free = func() error {
		once.Do(func() { poison(host) })
		return nil
	}
	return b, nil
}

// Land returns w as it is: the reference reads the published layout at any alignment.
func (d *Device) Land(w kernels.Weight, memory kernels.Span) (kernels.Weight, error) {
	return w, kernels.ValidateLand(w, memory)
}

// NewStream returns a stream. On a unified device Run and Copy execute at once, in the caller's
// goroutine; on a discrete one they queue, up to queueOps at a time, and Run blocks beyond that.
func (d *Device) NewStream(name string) (kernels.Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("%w: stream %q on a closed device", kernels.ErrDevice, name)
	}
	x := executor{name: name, threads: d.options.Threads}
	if !d.options.Discrete {
		return &direct{executor: x}, nil
	}
	x.memory = &d.memory
	q := newQueue(x, d.options.Seed, d.opened)
	q.forget = func() { d.forget(q) }
	d.opened++
	d.streams[q] = struct{}{}
	return q, nil
}

func (d *Device) forget(q *queue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.streams, q)
}

// Close closes the streams, after what they have queued. Buffers stay valid until freed.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	streams := slices.Collect(maps.Keys(d.streams))
	d.mu.Unlock()
	for _, s := range streams {
		_ = s.Close() // an op's failure was Sync's to report
	}
	return nil
}

var _ kernels.Device = (*Device)(nil)
