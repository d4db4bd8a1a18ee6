// Package kernels is the contract between the forward pass and the machines that compute it: a
// Device with memory, in-order Streams of Ops on it, and Events that order streams.
//
// Implementations: kernels/cpu (C with SIMD), kernels/ref (plain Go in float64: the oracle, and the
// device of builds without cgo). The package knows nothing of files or models.
package kernels

import (
	"errors"
	"unsafe"
)

// ErrDevice is wrapped by every failure of a device: an op it cannot run, memory it cannot give.
var ErrDevice = errors.New("device error")

// Info describes a device.
type Info struct {
	Name    string // "cpu", "ref"
	Detail  string // what was chosen at run time: "AVX-512 VNNI, 2 threads"
	Threads int    // worker threads; 0 where the notion is foreign
	// Unified is set where device memory is host memory: a group is computed where the disk put it,
	// and nothing is copied.
	Unified bool
	// MemoryBytes is the device's own memory; 0 when Unified.
	MemoryBytes int64
}

// Device computes ops on its memory. All methods are safe for concurrent use; Close waits for the
// streams, and may be called twice.
type Device interface {
	Info() Info
	// Alloc returns zeroed device memory, aligned to at least 64 bytes.
	Alloc(bytes int64) (*Buffer, error)
	// Pin returns page-locked host memory that the device can copy from and to. Where locking is
	// refused the memory is ordinary, and Locked says so.
	Pin(bytes int64) (*Buffer, error)
	// Land rearranges one weight matrix in place, from the layout of its file to the one this
	// device's kernels read, and returns the matrix as kernels want it. Memory is the span that the
	// matrix may use: w.Data lies inside it, and bytes of the span before w.Data may be overwritten,
	// so that an unaligned matrix can move down to an aligned place. Bytes after w.Data are never
	// touched. It runs on the caller's goroutine, concurrently with streams.
	Land(w Weight, memory Span) (Weight, error)
	NewStream(name string) (Stream, error)
	Close() error
}

// Stream is an in-order queue of ops. A stream is used by one goroutine at a time; different
// streams run concurrently, ordered by events alone.
type Stream interface {
	// Run enqueues an op and returns at once. The op's spans must stay valid until it has run. A
	// failure sticks to the stream: later ops are dropped, and Sync reports it.
	Run(Op)
	// Copy enqueues a copy of src to dst, of equal size; one of them may be pinned host memory.
	Copy(dst, src Span)
	// Record starts the work enqueued so far, and returns an event that completes after it.
	Record() Event
	// Wait makes later work of this stream wait for the event, which may be another stream's.
	Wait(Event)
	// Sync waits until the stream is empty and returns its first failure.
	Sync() error
	Close() error
}

// Event is a mark in a stream. The zero interface value nil counts as complete.
type Event interface {
	Done() bool  // without waiting
	Wait() error // until the stream has passed the mark; the stream's first failure
}

// Buffer is a piece of memory of one device, or of pinned host memory. The owner frees it once.
type Buffer struct {
	// Host is the memory as the host sees it; nil for memory that only the device can reach.
	Host []byte
	// Addr is the address by which the device's kernels know the memory.
	Addr uintptr
	// Bytes is its size.
	Bytes int64
	// Locked reports page-locked memory, Huge that huge pages were asked for and accepted.
	Locked, Huge bool
	// Free gives the memory back; set by the device that made the buffer. It may be called twice.
	Free func() error
}

// Span is a range of a buffer.
type Span struct {
	Buffer *Buffer
	Offset int64
	Bytes  int64
}

// All returns the span of the whole buffer.
func (b *Buffer) All() Span { return Span{Buffer: b, Bytes: b.Bytes} }

// Slice returns the part of s of the given size that begins offset bytes in.
func (s Span) Slice(offset, bytes int64) Span {
	if offset < 0 || bytes < 0 || offset+bytes > s.Bytes {
		panic("kernels: slice outside its span")
	}
	return Span{Buffer: s.Buffer, Offset: s.Offset + offset, Bytes: bytes}
}

// IsZero reports whether s is the zero span, which stands for "none" in optional fields.
func (s Span) IsZero() bool { return s.Buffer == nil }

// Addr returns the device address of the span's first byte; 0 for the zero span.
func (s Span) Addr() uintptr {
	if s.Buffer == nil {
		return 0
	}
	return s.Buffer.Addr + uintptr(s.Offset)
}

// Host returns the span's bytes; nil where the host cannot reach them.
func (s Span) Host() []byte {
	if s.Buffer == nil || s.Buffer.Host == nil {
		return nil
	}
	return s.Buffer.Host[s.Offset : s.Offset+s.Bytes : s.Offset+s.Bytes]
}

// Float32s returns the span's memory as float32 values, Int32s as int32 values. The span must be
// host-visible and its address a multiple of 4.
func (s Span) Float32s() []float32 { return view[float32](s) }

// Int32s is like Float32s for int32.
func (s Span) Int32s() []int32 { return view[int32](s) }

func view[T float32 | int32](s Span) []T {
	h := s.Host()
	if len(h) < 4 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&h[0])), len(h)/4)
}
