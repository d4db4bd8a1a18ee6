//go:build cgo

package cuda

/*
#include <stdlib.h>
#include "cublas.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/moering/moering/internal/invariants"
	"github.com/moering/moering/kernels"
)

const (
	// commandsMax and argumentBytes bound a batch; one that is full is handed over early.
	commandsMax   = 512
	argumentBytes = 512 << 10
	// spansLeast is the room for spans at first, where a library wants them.
	spansLeast = 8 * commandsMax
)

// stream collects commands in C memory, and hands them to the driver in one call: at Record, or when
// the memory is full. Its methods may be called by one goroutine at a time; the lock is for marks,
// which others wait for, and for Device.Close.
type stream struct {
	dev    *Device
	name   string
	handle C.uint64_t

	mu     sync.Mutex
	idle   *sync.Cond // a waiter has left
	err    error      // the first failure; later ops are dropped
	broken error      // the driver's failure, after which nothing more runs
	closed bool

	last, done uint64  // marks recorded; passed
	flying     []*slot // recorded and not known to have passed, in order
	spare      []*slot
	marks      []mark
	waiting    int // goroutines inside await

	batch   batch
	plan    planner
	planned []launch // of the op being enqueued
	fetch   kernels.GatherRows
	scratch *kernels.Buffer // nil until an op needs it
	uploads uploads
}

// batch is the commands not yet handed over, in C memory.
type batch struct {
	commands  []C.command
	arguments []byte
	spans     []C.access_span // only for a library that wants them
	count     int
	argsUsed  int
	spansUsed int
	products  int     // commands that are cuBLASLt's
	failed    C.int   // which command the driver refused
	held      []*slot // events that the commands name
}

func (b *batch) open(declares bool) error {
	commands := C.calloc(commandsMax, C.sizeof_command)
	arguments := C.calloc(1, argumentBytes)
	if commands != nil {
		b.commands = unsafe.Slice((*C.command)(commands), commandsMax)
	}
	if arguments != nil {
		b.arguments = unsafe.Slice((*byte)(arguments), argumentBytes)
	}
	if b.commands == nil || b.arguments == nil || declares && b.growSpans(spansLeast) != nil {
		b.close()
		return errNoMemory()
	}
	return nil
}

func errNoMemory() error {
	return fmt.Errorf("%w: cuda: no memory for commands", kernels.ErrDevice)
}

// growSpans makes room for n spans; the batch is empty.
func (b *batch) growSpans(n int) error {
	p := C.calloc(C.size_t(n), C.sizeof_access_span)
	if p == nil {
		return errNoMemory()
	}
	C.free(unsafe.Pointer(unsafe.SliceData(b.spans)))
	b.spans = unsafe.Slice((*C.access_span)(p), n)
	return nil
}

func (b *batch) close() {
	C.free(unsafe.Pointer(unsafe.SliceData(b.commands)))
	C.free(unsafe.Pointer(unsafe.SliceData(b.arguments)))
	C.free(unsafe.Pointer(unsafe.SliceData(b.spans)))
	*b = batch{}
}

func (b *batch) reset() {
	b.count, b.argsUsed, b.spansUsed, b.products = 0, 0, 0, 0
	for _, e := range b.held {
		e.holds.Add(-1)
	}
	b.held = b.held[:0]
}

// NewStream returns a stream; the name appears in its errors.
func (d *Device) NewStream(name string) (kernels.Stream, error) {
	s := &stream{dev: d, name: name, plan: planner{declare: true, halves: d.halves}}
	s.idle = sync.NewCond(&s.mu)
	if d.cublas != nil {
		s.plan.workspace, s.plan.dense = d.cublas.workspace, make(map[denseShape]*C.cublas_plan)
	}
	if err := s.batch.open(d.declares); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		s.batch.close()
		return nil, fmt.Errorf("%w: cuda: stream %q of a closed device", kernels.ErrDevice, name)
	}
	if r := C.stream_create(d.driver.c, d.context, &s.handle); r != 0 {
		s.batch.close()
		return nil, d.fail(fmt.Sprintf("making stream %q", name), r)
	}
	d.streams[s] = struct{}{}
	return s, nil
}

// named adds the stream's name to an error.
func (s *stream) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("stream %q: %w", s.name, err)
}

func (s *stream) fail(err error) {
	if s.err == nil {
		s.err = s.named(err)
	}
}

// open fails the stream where it is closed. Device.Close may close it whenever the lock is open, so it
// is asked for again after each wait.
func (s *stream) open() error {
	if s.closed {
		s.fail(fmt.Errorf("%w: cuda: the stream is closed", kernels.ErrDevice))
	}
	return s.err
}

// settle waits for what was enqueued.
func (s *stream) settle() error {
	s.await(s.record().seq)
	return s.open()
}

// ready reports whether commands are taken.
func (s *stream) ready() bool {
	_ = s.open()
	if err := s.dev.failure(); err != nil {
		s.fail(err)
	}
	return s.err == nil
}

// Run plans an op and enqueues its kernels. The lists of an ExpertFFN are copied before it returns.
func (s *stream) Run(op kernels.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready() {
		return
	}
	if err := kernels.Validate(op); err != nil {
		s.fail(err)
		return
	}
	if err := s.enqueue(op); err != nil {
		s.fail(fmt.Errorf("%T: %w", op, err))
	}
}

// enqueue sees to the memory that a plan needs, plans, and turns launches into commands.
func (s *stream) enqueue(op kernels.Op) error {
	if err := s.chooseDense(op); err != nil {
		return err
	}
	need, err := s.plan.need(op)
	if err != nil {
		return err
	}
	err = s.growScratch(need.scratch)
	if err != nil && s.dropDense() { // then less will do
		if need, err = s.plan.need(op); err == nil {
			err = s.growScratch(need.scratch)
		}
	}
	if err != nil {
		return err
	}
	host, device, err := s.reserve(need.upload)
	if err != nil {
		return err
	}
	s.plan.upload, s.plan.uploaded, s.plan.used = host, device, 0
	if s.scratch != nil {
		s.plan.scratch = s.scratch.All()
	}
	s.plan.reset()
	s.planned = s.plan.plan(op, s.planned[:0])
	if err := s.upload(host, device); err != nil {
		return err
	}
	for i := range s.planned {
		if err := s.launch(&s.planned[i]); err != nil {
			return err
		}
	}
	return nil
}

// upload enqueues the move of the lists of an op to the device. A kernel fetches short ones: a copy
// would stand in line behind the copies of whole sections, for a device has one engine a direction.
func (s *stream) upload(host []byte, device kernels.Span) error {
	used := s.plan.used
	if used == 0 {
		return nil
	}
	if !s.dev.hostPointer || used > fetchBytesMax {
		s.move(C.C_COPY_IN, device.Addr(), uintptr(hostAddress(host)), used)
		return nil
	}
	from := kernels.Span{Buffer: s.uploads.host, Offset: device.Offset, Bytes: used}
	s.fetch = kernels.GatherRows{X: from, Index: s.uploads.zero(), Out: device.Slice(0, used),
		Rows: 1, Dim: int(used / 4)}
	n := len(s.planned)
	s.planned = s.plan.plan(&s.fetch, s.planned)
	l := s.planned[n]
	s.planned = s.planned[:n]
	return s.launchAny(&l)
}

func hostAddress(b []byte) C.uint64_t {
	return C.uint64_t(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}

// command appends a command of a kind.
func (s *stream) command(kind C.uint32_t) *C.command {
	if s.batch.count == commandsMax {
		s.flush()
	}
	c := &s.batch.commands[s.batch.count]
	s.batch.count++
	*c = C.command{kind: kind}
	return c
}

// launch appends a launch of device memory alone.
func (s *stream) launch(l *launch) error {
	if err := s.dev.reachable(l); err != nil {
		return err
	}
	return s.launchAny(l)
}

// launchAny appends a launch, its arguments and, for a stand-in, what it touches.
func (s *stream) launchAny(l *launch) error {
	b := &s.batch
	size := (len(l.args) + 15) &^ 15
	if size > argumentBytes {
		return fmt.Errorf("%w: cuda: kernel %s has %d bytes of arguments", kernels.ErrDevice,
			l.kernel.name(), len(l.args))
	}
	if l.plan != nil {
		s.product(l, size)
		return nil
	}
	function, err := s.dev.function(l.kernel)
	if err != nil {
		return err
	}
	spans := len(l.reads) + len(l.writes)
	if b.argsUsed+size > argumentBytes || s.dev.declares && b.spansUsed+spans > len(b.spans) {
		s.flush()
	}
	if s.dev.declares && spans > len(b.spans) {
		if err := b.growSpans(2 * spans); err != nil {
			return err
		}
	}
	c := s.command(C.C_LAUNCH)
	args := b.arguments[b.argsUsed:][:len(l.args)]
	copy(args, l.args)
	b.argsUsed += size
	c.object = function
	c.args, c.bytes = hostAddress(args), C.uint64_t(len(args))
	for i := range 3 {
		c.grid[i], c.block[i] = C.uint32_t(l.grid[i]), C.uint32_t(l.block[i])
	}
	c.shared = C.uint32_t(l.shared)
	if s.dev.declares {
		c.spans = C.uint64_t(uintptr(unsafe.Pointer(unsafe.SliceData(b.spans[b.spansUsed:]))))
		c.span_count = C.uint32_t(spans)
		s.declare(l.reads, 0)
		s.declare(l.writes, 1)
	}
	return nil
}

// product appends a product of cuBLASLt. A stand-in sees from its descriptors what it touches.
func (s *stream) product(l *launch, size int) {
	b := &s.batch
	if b.argsUsed+size > argumentBytes {
		s.flush()
	}
	c := s.command(C.C_PRODUCT)
	args := b.arguments[b.argsUsed:][:len(l.args)]
	copy(args, l.args)
	b.argsUsed += size
	b.products++
	c.object, c.args = C.uint64_t(uintptr(unsafe.Pointer(l.plan))), hostAddress(args)
}

func (s *stream) declare(list []kernels.Span, write C.uint64_t) {
	for _, span := range list {
		s.batch.spans[s.batch.spansUsed] = C.access_span{at: C.uint64_t(span.Addr()),
			bytes: C.uint64_t(span.Bytes), write: write}
		s.batch.spansUsed++
	}
}

// reachable checks that a launch touches device memory alone; in invariant builds, of this device
// and not freed.
func (d *Device) reachable(l *launch) error {
	for _, list := range [2][]kernels.Span{l.reads, l.writes} {
		for _, span := range list {
			if span.Buffer.Host != nil {
				return fmt.Errorf("%w: cuda: an op on host memory of %d bytes", kernels.ErrDevice,
					span.Bytes)
			}
			if invariants.On && d.kindOf(span.Buffer) != deviceMemory {
				return fmt.Errorf("%w: cuda: %d bytes at %#x are not memory of this device",
					kernels.ErrDevice, span.Bytes, span.Addr())
			}
		}
	}
	return nil
}

// flush hands the batch to the driver. After a failure what was enqueued has run, and the rest never
// will.
func (s *stream) flush() {
	if r := s.submit(); r != 0 {
		s.abandon(s.describe(&s.batch.commands[s.batch.failed]), r)
	}
}

// submit hands the batch to the driver, and returns the driver's or cuBLASLt's answer. Its commands are
// readable until others come.
func (s *stream) submit() (r C.int) {
	b := &s.batch
	if b.count > 0 && s.broken == nil {
		if b.products > 0 {
			s.dev.cublas.mu.Lock()
			defer s.dev.cublas.mu.Unlock()
		}
		r = C.stream_submit(s.dev.driver.c, s.dev.context, s.handle, &b.commands[0],
			C.int(b.count), &b.failed)
	}
	b.reset()
	return r
}

// describe says what a command is, for an error.
func (s *stream) describe(c *C.command) string {
	switch c.kind {
	case C.C_LAUNCH:
		return "launching " + s.dev.nameOf(c.object)
	case C.C_COPY_IN:
		return fmt.Sprintf("copying %d bytes to the device", uint64(c.bytes))
	case C.C_COPY_OUT:
		return fmt.Sprintf("copying %d bytes to the host", uint64(c.bytes))
	case C.C_COPY_WITHIN:
		return fmt.Sprintf("copying %d bytes on the device", uint64(c.bytes))
	case C.C_WAIT:
		return "waiting for another stream"
	case C.C_PRODUCT:
		return "multiplying"
	}
	return "recording an event"
}

// Record hands over what was enqueued, and an event behind it.
func (s *stream) Record() kernels.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record()
}

func (s *stream) record() *mark {
	if s.closed {
		return s.newMark(0, s.open())
	}
	e, err := s.takeSlot()
	if s.closed { // meanwhile; the event, if any, goes with the device
		return s.newMark(0, s.open())
	}
	if err != nil {
		s.fail(err)
		s.flush()
		if s.broken == nil { // a wait stands in for the event
			C.stream_sync(s.dev.driver.c, s.dev.context, s.handle)
			s.done = s.last
		}
		return s.newMark(s.last, s.err)
	}
	c := s.command(C.C_RECORD)
	c.object = e.event
	s.flush()
	s.last++
	e.seq = s.last
	if s.broken != nil { // nothing is under way any more
		s.done = s.last
		s.spare = append(s.spare, e)
	} else {
		s.flying = append(s.flying, e)
		s.uploads.mark(s.last)
	}
	return s.newMark(s.last, s.err)
}

// Wait makes later work wait for the event. The failure of the other stream becomes this one's: what
// it should have made is missing. The event of another device is waited for here.
func (s *stream) Wait(e kernels.Event) {
	if e == nil {
		return
	}
	m, ok := e.(*mark)
	if !ok || m.s.dev != s.dev {
		err := e.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil && s.err == nil {
			s.err = err
		}
		return
	}
	slot, err := m.take(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.err == nil {
		s.err = err
	}
	switch {
	case slot == nil: // passed, or this stream's own
	case s.ready():
		c := s.command(C.C_WAIT)
		c.object = slot.event
		s.batch.held = append(s.batch.held, slot)
	default:
		slot.holds.Add(-1)
	}
}

// take returns the event to wait for, with a hold on it, or nil where there is nothing to wait for.
func (m *mark) take(waiter *stream) (*slot, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.s == waiter || m.s.passed(m.seq) {
		return nil, m.failure()
	}
	e := m.s.slotOf(m.seq)
	if e != nil {
		e.holds.Add(1)
	}
	return e, m.failure()
}

// Sync waits until the stream is empty.
func (s *stream) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.record()
	s.await(m.seq)
	if err := m.failure(); s.err == nil {
		s.err = err
	}
	return s.err
}

// Close finishes the stream's work and gives its memory back. Its marks stay valid.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.flush()
	_ = C.stream_sync(s.dev.driver.c, s.dev.context, s.handle) // a failure was Sync's to report
	s.closed, s.done = true, s.last
	for s.waiting > 0 {
		s.idle.Wait()
	}
	s.retire()
	s.batch.reset()
	s.batch.close()
	s.freeDense()
	errs := []error{s.uploads.close(), freeBuffer(s.scratch),
		s.dev.end(fmt.Sprintf("destroying stream %q", s.name),
			C.stream_destroy(s.dev.driver.c, s.dev.context, s.handle))}
	s.dev.mu.Lock()
	s.dev.spare = append(s.dev.spare, s.spare...)
	delete(s.dev.streams, s)
	s.dev.mu.Unlock()
	s.spare, s.flying, s.scratch = nil, nil, nil
	return errors.Join(errs...)
}

func freeBuffer(b *kernels.Buffer) error {
	if b == nil {
		return nil
	}
	return b.Free()
}
