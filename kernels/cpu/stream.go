//go:build cgo

package cpu

/*
#include <stdlib.h>
#include "cpu.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/moering/moering/kernels"
)

// stream writes ops as tasks into a batch, which Record hands to the pool. The pool runs batches in
// the order in which they were handed over, whatever their stream: an event that exists is of a batch
// that runs before any later one, so that waiting for it orders nothing further.
type stream struct {
	dev      *Device
	name     string
	err      error // sticky
	progress *C.progress
	batch    *batch   // being written
	flying   []*batch // handed over, in order
	free     []*batch
	seq      int64 // of the last batch handed over
	events   []event
	closed   bool
	// Reused by translations.
	order, same []int32 // experts
	products    []product
}

// NewStream returns a stream; the name appears in its errors.
func (d *Device) NewStream(name string) (kernels.Stream, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.pool == nil {
		return nil, fmt.Errorf("%w: cpu: stream %q of a closed device", kernels.ErrDevice, name)
	}
	p := (*C.progress)(C.calloc(1, C.sizeof_progress))
	if p == nil {
		return nil, fmt.Errorf("%w: cpu: no memory for stream %q", kernels.ErrDevice, name)
	}
	s := &stream{dev: d, name: name, progress: p}
	// Events outlive Close, and look at the progress.
	runtime.AddCleanup(s, func(p *C.progress) { C.free(unsafe.Pointer(p)) }, p)
	return s, nil
}

func (s *stream) fail(err error) {
	if s.err == nil {
		s.err = fmt.Errorf("stream %q: %w", s.name, err)
	}
}

// ready reports whether ops are taken, and sees that there is a batch to write to.
func (s *stream) ready() bool {
	if s.closed {
		s.fail(fmt.Errorf("%w: the stream is closed", kernels.ErrDevice))
	}
	if err := s.fault(); err != nil {
		s.fail(err)
	}
	if s.err == nil && s.batch == nil {
		s.batch = s.takeBatch()
	}
	return s.err == nil
}

// fault returns what a kernel found in device memory.
func (s *stream) fault() error {
	f := atomic.LoadInt32((*int32)(unsafe.Pointer(&s.progress.fault)))
	what := ""
	switch f {
	case C.FAULT_NONE:
		return nil
	case C.FAULT_MEMORY:
		what = "no memory for intermediate results"
	case C.FAULT_TOKEN:
		what = "Embed: an id outside Table"
	case C.FAULT_SEQUENCE:
		what = "a sequence outside KV.Tables"
	case C.FAULT_POSITION:
		what = "a position outside its row of KV.Tables"
	case C.FAULT_PAGE:
		what = "a page outside KV.Pool"
	case C.FAULT_INDEX:
		what = "GatherRows: an index outside X"
	}
	return fmt.Errorf("%w: %s", kernels.ErrDevice, what)
}

func (s *stream) Run(op kernels.Op) {
	if !s.ready() {
		return
	}
	if err := kernels.Validate(op); err != nil {
		s.fail(err)
		return
	}
	if err := s.translate(op); err != nil {
		s.fail(fmt.Errorf("%w: %T: %w", kernels.ErrDevice, op, err))
	}
}

func (s *stream) Copy(dst, src kernels.Span) {
	if !s.ready() {
		return
	}
	if err := kernels.ValidateCopy(dst, src); err != nil {
		s.fail(err)
		return
	}
	s.copy(dst, src)
}

// done returns the sequence number of the last finished batch.
func (s *stream) done() int64 {
	return atomic.LoadInt64((*int64)(unsafe.Pointer(&s.progress.done)))
}

// eventsChunk is how many events are allocated at a time: they live as long as somebody holds one of
// a chunk, and so cannot be reused, but a decode step allocates none.
const eventsChunk = 256

func (s *stream) Record() kernels.Event {
	if len(s.events) == 0 {
		s.events = make([]event, eventsChunk)
	}
	e := &s.events[0]
	s.events = s.events[1:]
	*e = s.record()
	return e
}

func (s *stream) record() event {
	if s.batch != nil && s.batch.tasks > 0 {
		s.batch.c.seq = C.int64_t(s.seq + 1)
		if s.dev.submit(s.batch.c) {
			s.seq++
			s.flying = append(s.flying, s.batch)
			s.batch = nil
		} else {
			s.fail(fmt.Errorf("%w: the device is closed", kernels.ErrDevice))
			s.batch.reset()
		}
	}
	return event{s, s.seq, s.err}
}

// Wait orders nothing for an event of this device: its work is ahead in the pool's queue. It takes
// over the failure, as what the other stream should have made is missing. The event of another
// device is waited for here.
func (s *stream) Wait(e kernels.Event) {
	var err error
	switch own, ok := e.(*event); {
	case e == nil || s.err != nil:
	case ok && own.s.dev == s.dev:
		err = own.failure()
	default:
		err = e.Wait()
	}
	if err != nil && s.err == nil {
		s.err = err
	}
}

func (s *stream) Sync() error {
	err := s.record().Wait()
	if s.err == nil {
		s.err = err
	}
	return s.err
}

// Close finishes the stream's work and gives its memory back.
func (s *stream) Close() error {
	if s.closed {
		return nil
	}
	_ = s.Sync() // reported by Sync itself, to whom it concerns
	s.closed = true
	if s.batch != nil {
		s.free = append(s.free, s.batch)
	}
	for _, b := range append(s.free, s.flying...) {
		b.release()
	}
	s.batch, s.free, s.flying = nil, nil, nil
	return nil
}

// event is a batch of a stream, and the stream's failure when it was handed over.
type event struct {
	s   *stream
	seq int64
	err error
}

func (e event) Done() bool { return e.s.done() >= e.seq }

func (e event) Wait() error {
	if !e.Done() {
		e.s.dev.wait(e.s.progress, e.seq)
	}
	return e.failure()
}

func (e event) failure() error {
	if e.err != nil {
		return e.err
	}
	if err := e.s.fault(); err != nil {
		return fmt.Errorf("stream %q: %w", e.s.name, err)
	}
	return nil
}

// batch is command memory: blocks of C memory from which tasks and their arguments are cut.
type batch struct {
	c      *C.batch
	last   *C.task
	tasks  int
	blocks []block
	at     int // block being cut
}

type block struct {
	base       unsafe.Pointer
	size, used uintptr
}

// blockBytes holds the commands of several layers; longer lists get a block of their own size.
const blockBytes = 64 << 10

// takeBatch returns an empty batch: one whose work is done, or a new one.
func (s *stream) takeBatch() *batch {
	for done := s.done(); len(s.flying) > 0 && int64(s.flying[0].c.seq) <= done; {
		s.free = append(s.free, s.flying[0])
		s.flying = append(s.flying[:0], s.flying[1:]...)
	}
	if n := len(s.free); n > 0 {
		b := s.free[n-1]
		s.free = s.free[:n-1]
		b.reset()
		return b
	}
	b := &batch{c: (*C.batch)(callocOrNil(C.sizeof_batch))}
	if b.c == nil {
		s.fail(fmt.Errorf("%w: no memory for commands", kernels.ErrDevice))
		return nil
	}
	b.c.stream = s.progress
	return b
}

func callocOrNil(bytes uintptr) unsafe.Pointer { return C.calloc(1, C.size_t(bytes)) }

func (b *batch) reset() {
	for i := range b.blocks {
		b.blocks[i].used = 0
	}
	b.c.first, b.c.scratch, b.last, b.tasks, b.at = nil, 0, nil, 0, 0
}

func (b *batch) release() {
	for _, k := range b.blocks {
		C.free(k.base)
	}
	C.free(unsafe.Pointer(b.c))
}

// alloc cuts bytes of command memory, aligned to 8, of any content; nil without memory.
func (b *batch) alloc(bytes uintptr) unsafe.Pointer {
	bytes = (bytes + 7) &^ 7
	for ; b.at < len(b.blocks); b.at++ {
		if k := &b.blocks[b.at]; k.size-k.used >= bytes {
			p := unsafe.Add(k.base, k.used)
			k.used += bytes
			return p
		}
	}
	size := max(blockBytes, bytes)
	base := C.malloc(C.size_t(size))
	if base == nil {
		panic("kernels/cpu: no memory for commands") // as for any allocation in Go
	}
	b.blocks = append(b.blocks, block{base, size, bytes})
	return base
}

// list cuts n values of command memory.
func list[T any](b *batch, n int) []T {
	var one T
	return unsafe.Slice((*T)(b.alloc(unsafe.Sizeof(one)*uintptr(max(n, 1)))), n)
}

// add appends a task, whose arguments it returns for writing.
func add[T any](b *batch, kind C.int32_t, chunks int) *T {
	args := &list[T](b, 1)[0]
	t := &list[C.task](b, 1)[0]
	*t = C.task{args: address(args), kind: kind, chunks: C.int32_t(chunks)}
	if b.last == nil {
		b.c.first = t
	} else {
		b.last.next = t
	}
	b.last = t
	b.tasks++
	return args
}

func address[T any](p *T) C.uintptr_t { return C.uintptr_t(uintptr(unsafe.Pointer(p))) }
