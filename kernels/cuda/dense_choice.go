//go:build cgo

package cuda

/*
#include "cublas.h"
*/
import "C"

import (
	"errors"
	"time"

	"github.com/moering/moering/kernels"
)

// denseRuns is how often a product is timed, after once to warm up.
const denseRuns = 3

// chooseDense sees to it that for each product of an op that cuBLASLt could have it is decided who has
// it. The first of a class of shapes is tried, and measured, which waits for the stream.
func (s *stream) chooseDense(op kernels.Op) error {
	if s.plan.workspace == 0 {
		return nil
	}
	switch o := op.(type) {
	case *kernels.MatMul:
		for i := range o.Terms {
			if err := s.decideDense(&o.Terms[i].W, o.Rows, o.Exact); err != nil {
				return err
			}
		}
	case *kernels.ExpertFFN:
		for i := range o.Experts {
			if err := s.chooseFeed(&o.Experts[i], o.Exact); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stream) chooseFeed(e *kernels.Expert, exact bool) error {
	rows := len(e.Rows)
	if rows < denseRowsLeast {
		return nil
	}
	if consecutive(e.Rows) {
		for _, w := range [...]*kernels.Weight{&e.Gate, &e.Up} {
			if err := s.decideDense(w, rows, exact); err != nil {
				return err
			}
		}
	}
	if consecutive(e.Slots) {
		return s.decideDense(&e.Down, rows, exact)
	}
	return nil
}

// decideDense enters the shape of a product in the planner's list: with a plan, or with none where the
// product stays with the kernels here. Failures of cuBLASLt are reasons for that; failures of the
// device are errors.
func (s *stream) decideDense(w *kernels.Weight, rows int, exact bool) error {
	shape, ok := s.plan.denseShapeOf(w, rows, exact)
	if !ok {
		return nil
	}
	if _, known := s.plan.dense[shape]; known {
		return nil
	}
	if len(s.plan.dense) >= densePlansMost {
		s.flush() // what is enqueued uses them
		s.freeDense()
	}
	b, class := s.dev.cublas, shape.class()
	choice, known := b.choice(class)
	if known && !choice.Used {
		s.plan.dense[shape] = nil
		return nil
	}
	plan, err := s.dev.densePlan(shape)
	if err == nil && !known {
		choice, err = s.tryDense(shape, plan, w, exact)
	}
	if fatal := errors.Join(s.err, s.dev.failure()); fatal != nil {
		b.freePlan(plan)
		return fatal
	}
	if err != nil {
		choice = DenseChoice{Why: err.Error()}
	}
	if !known {
		choice.Type, choice.Pieces = shape.kind.String(), shape.pieces
		choice.Rows, choice.Outputs, choice.Inputs = class.rows, class.outputs, class.inputs
		choice = b.decide(class, choice)
	}
	if !choice.Used {
		b.freePlan(plan)
		plan = nil
	}
	s.plan.dense[shape] = plan
	return nil
}

// tryDense runs a product by the kernels here and by cuBLASLt, over scratch memory, and compares the
// times; where cuBLASLt is wanted always, it has only to succeed. After an error the stream is as
// before, unless it has failed itself.
func (s *stream) tryDense(shape denseShape, plan *C.cublas_plan, w *kernels.Weight,
	exact bool) (DenseChoice, error) {
	var c DenseChoice
	if err := s.settle(); err != nil {
		return c, err
	}
	op := kernels.MatMul{Rows: shape.rows, Exact: exact, Terms: []kernels.Term{{W: *w}}}
	x, own := 4*int64(shape.rows)*int64(shape.inputs), s.plan.matMulPrepared(&op)
	if err := s.growScratch(uploadBytes(x) + own + shape.bytes() + s.plan.workspace); err != nil {
		return c, err
	}
	memory := s.scratch.All()
	op.X = memory.Slice(0, x)
	s.plan.scratch = memory.Slice(uploadBytes(x), memory.Bytes-uploadBytes(x))
	op.Terms[0].Out = s.plan.denseAt(shape, own).product
	s.plan.reset()
	known := s.plan.dense
	s.plan.dense = nil
	ours := s.plan.plan(&op, nil)
	s.plan.dense = map[denseShape]*C.cublas_plan{shape: plan}
	theirs := s.plan.plan(&op, nil)
	s.plan.dense = known
	if s.dev.cublas.use == CuBLASLtAlways {
		c.Used = true
		return c, s.attempt(theirs, 1)
	}
	var err error
	if c.Own, err = s.timed(ours); err == nil {
		c.CuBLASLt, err = s.timed(theirs)
	}
	c.Used = c.CuBLASLt < c.Own
	return c, err
}

// timed returns the time of launches, which it runs a few times.
func (s *stream) timed(list []launch) (time.Duration, error) {
	var events [2]C.uint64_t
	defer func() {
		for _, e := range events {
			if e != 0 {
				_ = s.dev.end("destroying an event", C.event_destroy(s.dev.driver.c, s.dev.context, e))
			}
		}
	}()
	for i := range events {
		if r := C.event_create_timed(s.dev.driver.c, s.dev.context, &events[i]); r != 0 {
			return 0, s.dev.fail("making an event", r)
		}
	}
	if err := s.attempt(list, 1); err != nil { // warm
		return 0, err
	}
	if err := s.attempt(list, denseRuns, events[:]...); err != nil {
		return 0, err
	}
	var ms C.float
	r := C.event_elapsed(s.dev.driver.c, s.dev.context, events[0], events[1], &ms)
	if r != 0 {
		return 0, s.dev.fail("asking for the time of a product", r)
	}
	return time.Duration(float64(ms) / denseRuns * float64(time.Millisecond)), nil
}

// attempt runs launches so many times and waits for them; events, if any, are recorded before and
// after. What cuBLASLt refuses is an error that leaves the stream as it is.
func (s *stream) attempt(list []launch, runs int, events ...C.uint64_t) error {
	record := func(i int) {
		if i < len(events) {
			s.command(C.C_RECORD).object = events[i]
		}
	}
	record(0)
	for range runs {
		for i := range list {
			if err := s.launch(&list[i]); err != nil {
				s.fail(err)
				return err
			}
		}
	}
	record(1)
	r := s.submit()
	if sync := C.stream_sync(s.dev.driver.c, s.dev.context, s.handle); r == 0 || sync != 0 {
		r = sync
	}
	switch {
	case r == 0:
		return nil
	case r >= C.R_CUBLAS:
		return s.dev.fail("trying a product", r)
	}
	s.abandon("trying a product", r)
	return s.err
}

// dropDense leaves all products to the kernels here, where memory is too short for cuBLASLt; false
// where they are already.
func (s *stream) dropDense() bool {
	if s.plan.workspace == 0 {
		return false
	}
	s.flush()
	s.freeDense()
	s.plan.workspace = 0
	return true
}

// freeDense forgets the plans, which nothing uses that is not handed over.
func (s *stream) freeDense() {
	for shape, plan := range s.plan.dense {
		if plan != nil {
			s.dev.cublas.freePlan(plan)
		}
		delete(s.plan.dense, shape)
	}
}
