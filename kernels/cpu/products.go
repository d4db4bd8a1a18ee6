//go:build cgo

package cpu

/*
#include "cpu.h"
*/
import "C"

import (
	"slices"

	"github.com/moering/moering/kernels"
)

const (
	// jobsPerThread is how finely a product is cut, so that threads end together.
	jobsPerThread = 8
	// jobBytesMax keeps a job's weights in the second-level cache, for the next block of rows.
	jobBytesMax = 256 << 10
	// rowCost is how many rows of products take as long as reading the weights once.
	rowCost = 4
)

func matrix(w *kernels.Weight) (C.mat, error) {
	t, err := tiled(w)
	rowBytes, _ := w.Type.RowBytes(int64(w.Cols))
	m := C.mat{
		data: at(w.Data), row_bytes: C.int64_t(rowBytes), _type: C.int32_t(w.Type),
		rows: n32(w.Rows), cols: n32(w.Cols),
	}
	if t {
		m.tiled = 1
	}
	return m, err
}

// quantizedStride returns the bytes between rows of quantised activations: whole pairs of blocks,
// and an odd number of cache lines, so that the rows of a register block lie in different sets.
func quantizedStride(cols int) int64 {
	return oddLines(int64((cols+tileCols-1)/tileCols) * 2 * C.QBLOCK)
}

func oddLines(bytes int64) int64 {
	lines := (bytes + cacheLine - 1) / cacheLine
	return (lines | 1) * cacheLine
}

// quantizeRows appends the task that quantises rows of x to the start of the scratch memory.
func (s *stream) quantizeRows(x kernels.Span, rows, cols int, used []uint8) {
	per, chunks := s.perChunk(rows, 4*cols)
	a := add[C.quantize_args](s.batch, C.K_QUANTIZE, chunks)
	*a = C.quantize_args{
		x: at(x), q_stride: C.int64_t(quantizedStride(cols)), rows: n32(rows), cols: n32(cols),
		per_chunk: n32(per),
	}
	if used != nil {
		a.used = addressOf(used)
	}
}

func (s *stream) needScratch(bytes int64) {
	s.batch.c.scratch = max(s.batch.c.scratch, C.int64_t(bytes))
}

// product is a matrix product to be cut into jobs: steps of `tiles` tiles for n rows.
type product struct {
	index     int   // of its term or expert
	steps     int   // of tiles
	tiles     int   // in a step
	stepBytes int64 // of weights
	rows      int
}

func (p *product) cost() int64 { return p.stepBytes * int64(rowCost+p.rows) }

// cut returns how many steps a job of the product has, given what a job should cost, and how many
// rows: all, but where there are too few steps to go round.
func (p *product) cut(limit int64, threads int) (steps, rows int) {
	steps = int(min(limit/max(p.cost(), 1), jobBytesMax/max(p.stepBytes, 1), int64(p.steps)))
	rows = p.rows
	if p.steps < 4*threads && p.rows > C.MBLOCK {
		rows = C.MBLOCK
	}
	return max(steps, 1), rows
}

// jobs writes the jobs of products to command memory, in their order.
func (s *stream) jobs(products []product) []C.job {
	var total int64
	for i := range products {
		total += products[i].cost() * int64(products[i].steps)
	}
	threads := s.dev.info.Threads
	limit := total / int64(jobsPerThread*threads)
	count := 0
	for i := range products {
		p := &products[i]
		steps, rows := p.cut(limit, threads)
		count += ((p.steps + steps - 1) / steps) * ((p.rows + rows - 1) / rows)
	}
	jobs := list[C.job](s.batch, count)[:0]
	for i := range products {
		p := &products[i]
		steps, rows := p.cut(limit, threads)
		for t := 0; t < p.steps; t += steps {
			for m := 0; m < p.rows; m += rows {
				jobs = append(jobs, C.job{
					index: n32(p.index), tile0: n32(t * p.tiles),
					tile1: n32(min(t+steps, p.steps) * p.tiles),
					m0:    n32(m), m1: n32(min(m+rows, p.rows)),
				})
			}
		}
	}
	return jobs
}

func tilesOf(rows int) int { return (rows + tileRows - 1) / tileRows }

func (s *stream) matMul(o *kernels.MatMul) error {
	if o.Rows == 0 || len(o.Terms) == 0 {
		return nil
	}
	cols := o.Terms[0].W.Cols
	terms := list[C.term](s.batch, len(o.Terms))
	products := s.products[:0]
	quantized := false
	for i := range o.Terms {
		t := &o.Terms[i]
		w, err := matrix(&t.W)
		if err != nil {
			return err
		}
		terms[i] = C.term{w: w, bias: at(t.Bias), out: at(t.Out)}
		if t.Accumulate {
			terms[i].accumulate = 1
		}
		if quantizes(t.W.Type, o.Exact) {
			terms[i].ints = 1
			quantized = true
		}
		products = append(products, product{i, tilesOf(t.W.Rows), 1, tileRows * int64(w.row_bytes),
			o.Rows})
	}
	s.products = products
	stride := quantizedStride(cols)
	if quantized {
		s.needScratch(int64(o.Rows) * stride)
		s.quantizeRows(o.X, o.Rows, cols, nil)
	}
	jobs := s.jobs(products)
	*add[C.matmul_args](s.batch, C.K_MATMUL, len(jobs)) = C.matmul_args{
		x: at(o.X), q_stride: C.int64_t(stride), terms: addressOf(terms), jobs: addressOf(jobs),
		cols: n32(cols),
	}
	return nil
}

// expertFFN quantises the rows of X once, then computes the hidden rows of all experts (quantised as
// they are made, where Down wants that), then their outputs. Experts with many rows come first, so
// that the last jobs are short.
func (s *stream) expertFFN(o *kernels.ExpertFFN) error {
	s.order = s.order[:0]
	rows, pairs := 0, 0
	for i := range o.Experts {
		e := &o.Experts[i]
		if len(e.Rows) > 0 {
			s.order = append(s.order, int32(i))
			rows = max(rows, int(slices.Max(e.Rows))+1)
			pairs += len(e.Rows)
		}
	}
	if pairs == 0 {
		return nil
	}
	slices.SortStableFunc(s.order, func(a, b int32) int {
		return len(o.Experts[b].Rows) - len(o.Experts[a].Rows)
	})
	return s.uniformFFN(o, rows, pairs)
}

// ffnTypes says which products of an expert quantise; within an op they must agree for Down, whose
// input has one form.
type ffnTypes struct{ gate, up, down bool }

func (s *stream) uniformFFN(o *kernels.ExpertFFN, rows, pairs int) error {
	typesOf := func(e *kernels.Expert) ffnTypes {
		return ffnTypes{quantizes(e.Gate.Type, o.Exact), quantizes(e.Up.Type, o.Exact),
			quantizes(e.Down.Type, o.Exact)}
	}
	// Experts of one op nearly always agree; others are further ops over the same rows.
	for len(s.order) > 0 {
		types := typesOf(&o.Experts[s.order[0]])
		same := s.same[:0]
		rest := s.order[:0]
		for _, i := range s.order {
			if typesOf(&o.Experts[i]) == types {
				same = append(same, i)
			} else {
				rest = append(rest, i)
			}
		}
		s.same, s.order = same, rest
		if err := s.ffn(o, same, types, rows, pairs); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) ffn(o *kernels.ExpertFFN, which []int32, types ffnTypes, rows, pairs int) error {
	experts, used, err := s.experts(o, which, rows)
	if err != nil {
		return err
	}
	args := C.ffn_args{
		x: at(o.X), out: at(o.Out), experts: addressOf(experts), dim: n32(o.Dim),
		width: n32(o.Width), q_stride: C.int64_t(quantizedStride(o.Dim)),
		h_stride: C.int64_t(oddLines(4 * int64(o.Width))),
	}
	if types.gate {
		args.x_ints |= 1
	}
	if types.up {
		args.x_ints |= 2
	}
	if types.down {
		args.h_ints = 1
		args.h_stride = C.int64_t(quantizedStride(o.Width))
	}
	if args.x_ints != 0 {
		s.quantizeRows(o.X, rows, o.Dim, used)
		args.h_at = C.int64_t(rows) * args.q_stride
	}
	s.needScratch(int64(args.h_at) + int64(pairs)*int64(args.h_stride))

	s.products = s.products[:0]
	for i := range experts {
		e := &experts[i]
		s.products = append(s.products, product{i, (tilesOf(o.Width) + 1) / 2, 2,
			2 * tileRows * int64(e.gate.row_bytes+e.up.row_bytes), int(e.n)})
	}
	jobs := s.jobs(s.products)
	args.jobs = addressOf(jobs)
	*add[C.ffn_args](s.batch, C.K_FFN_UP, len(jobs)) = args

	for i := range experts {
		s.products[i] = product{i, tilesOf(o.Dim), 1, tileRows * int64(experts[i].down.row_bytes),
			int(experts[i].n)}
	}
	jobs = s.jobs(s.products)
	args.jobs = addressOf(jobs)
	*add[C.ffn_args](s.batch, C.K_FFN_DOWN, len(jobs)) = args
	return nil
}

// experts copies experts to command memory, and marks the rows of X that they read.
func (s *stream) experts(o *kernels.ExpertFFN, which []int32, rows int) ([]C.expert, []uint8, error) {
	used := list[uint8](s.batch, rows)
	clear(used)
	experts := list[C.expert](s.batch, len(which))
	pair := 0
	for i, index := range which {
		e := &o.Experts[index]
		var to C.expert
		var err error
		for _, m := range [...]struct {
			to   *C.mat
			from *kernels.Weight
		}{{&to.gate, &e.Gate}, {&to.up, &e.Up}, {&to.down, &e.Down}} {
			if *m.to, err = matrix(m.from); err != nil {
				return nil, nil, err
			}
		}
		list32 := list[int32](s.batch, 2*len(e.Rows))
		copy(list32, e.Rows)
		copy(list32[len(e.Rows):], e.Slots)
		for _, r := range e.Rows {
			used[r] = 1
		}
		to.rows, to.slots = addressOf(list32), addressOf(list32[len(e.Rows):])
		to.n, to.pair0 = n32(len(e.Rows)), n32(pair)
		pair += len(e.Rows)
		experts[i] = to
	}
	return experts, used, nil
}
