//go:build cgo

package cuda

/*
#include "args.h"
#include "cublas.h"
*/
import "C"

import (
	"fmt"
	"math/bits"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// Products of cuBLASLt. It multiplies two matrices of one 16-bit type and sums in float32, so float32
// activations go in as pieces of the weights' type, one product a piece, the smallest first: three
// bfloat16 numbers are a float32; two halves, of a row that is scaled to their range, are within 2^-22.
// Where an op rounds activations (HalfActivations), one piece does.

const (
	// denseRowsLeast is the fewest rows that are worth a library's call.
	denseRowsLeast = 64
	// denseAlign is what the library is promised of all addresses.
	denseAlign = 16
	// densePlansMost bounds the plans of a stream: one a shape, and the rows of prompts are many.
	densePlansMost = 256
	denseThreads   = 256
)

// denseShape is a product of so many rows; as a class of them, its rows are a power of two, and stand
// for fewer, down to more than half as many.
type denseShape struct {
	kind                  quant.Type
	pieces                int
	rows, outputs, inputs int
}

func (s denseShape) String() string {
	return fmt.Sprintf("%d rows by %v (%d, %d)", s.rows, s.kind, s.outputs, s.inputs)
}

func (s denseShape) class() denseShape {
	s.rows = 1 << bits.Len(uint(s.rows-1))
	return s
}

func (s denseShape) elements() C.int32_t {
	if s.kind == quant.F16 {
		return C.T_HALF
	}
	return C.T_BFLOAT16
}

// denseShapeOf returns the shape of a product with consecutive rows of a weight, and false where it is
// not for cuBLASLt.
func (p *planner) denseShapeOf(w *kernels.Weight, rows int, exact bool) (denseShape, bool) {
	s := denseShape{kind: w.Type, rows: rows, outputs: w.Rows, inputs: w.Cols}
	switch {
	case w.Type != quant.F16 && w.Type != quant.BF16, rows < denseRowsLeast,
		w.Cols%8 != 0, w.Rows%4 != 0, // their strides are multiples of denseAlign
		w.Data.Addr()%denseAlign != 0, 4*int64(rows)*int64(w.Rows) > denseProductMost:
		return s, false
	}
	switch {
	case p.halves && !exact:
		s.pieces = 1
	case w.Type == quant.F16:
		s.pieces = 2
	default:
		s.pieces = 3
	}
	return s, true
}

// source is what products are multiplied with: rows of x, or of silu(x) * up.
type source struct {
	x, up     kernels.Span
	rows, dim int
}

// denseMemory is the scratch memory of a product.
type denseMemory struct{ pieces, scales, product, workspace kernels.Span }

// denseBytes returns the scratch memory of a product with a weight; 0 where cuBLASLt does not have it.
func (p *planner) denseBytes(w *kernels.Weight, rows int, exact bool) int64 {
	s, ok := p.denseShapeOf(w, rows, exact)
	if !ok || p.dense[s] == nil {
		return 0
	}
	return s.bytes() + p.workspace
}

func (s denseShape) bytes() int64 {
	rows := int64(s.rows)
	return uploadBytes(int64(s.pieces)*rows*int64(s.inputs)*2) + uploadBytes(4*rows) +
		uploadBytes(4*rows*int64(s.outputs))
}

// denseAt places a product's memory in the scratch memory.
func (p *planner) denseAt(s denseShape, at int64) (m denseMemory) {
	rows := int64(s.rows)
	take := func(bytes int64) kernels.Span {
		span := p.scratch.Slice(at, bytes)
		at += uploadBytes(bytes)
		return span
	}
	m.pieces = take(int64(s.pieces) * rows * int64(s.inputs) * 2)
	m.scales = take(4 * rows)
	m.product = take(4 * rows * int64(s.outputs))
	m.workspace = take(p.workspace)
	return m
}

// planProducts plans the pending products of rows of a source: those that cuBLASLt has, and the rest,
// whose activations lie at a place of the scratch memory that denseAt follows.
func (p *planner) planProducts(out []launch, k kernelID, from source, at, denseAt int64) []launch {
	rest := len(p.products)
	if len(p.dense) > 0 {
		out, rest = p.planDense(out, from, denseAt)
	}
	if rest == 0 {
		return out
	}
	x, out := p.prepare(out, k, from.x, from.up, from.rows, from.dim, p.pieces(p.products), at)
	return p.multiply(out, p.products, x)
}

// planDense plans the products that cuBLASLt has, and returns how many are left. The activations of
// products that follow one another are split once.
func (p *planner) planDense(out []launch, from source, at int64) ([]launch, int) {
	var split denseShape
	var first C.int32_t
	rest := 0
	for i := range p.products {
		m := &p.products[i]
		s, ok := p.denseShapeOf(m.w, int(m.job.rows), productFormats[m.format].xp > 1)
		plan := p.dense[s]
		if !ok || plan == nil || !m.lists[0].IsZero() {
			rest++
			continue
		}
		m.done = true
		memory := p.denseAt(s, at)
		outputs := s.outputs
		if s.outputs = 0; s != split || m.job.x_first != first { // what lies behind the pieces is free
			split, first = s, m.job.x_first
			out = p.split(out, from, s, int(first), memory)
		}
		s.outputs = outputs
		out = p.denseProduct(out, m, s, plan, memory)
	}
	return out, rest
}

// split plans the pieces of a product's activations.
func (p *planner) split(out []launch, from source, s denseShape, first int, to denseMemory) []launch {
	a, args := argsOf[C.struct_mr_cuda_split_args](p)
	row := 4 * int64(s.inputs)
	rowsOf := func(span kernels.Span) kernels.Span {
		if span.IsZero() {
			return span
		}
		return span.Slice(int64(first)*row, int64(s.rows)*row)
	}
	x, up := rowsOf(from.x), rowsOf(from.up)
	a.x, a.up, a.out = deviceAddress(x), deviceAddress(up), deviceAddress(to.pieces)
	a.rows, a.dim, a.pieces = C.int32_t(s.rows), C.int32_t(s.inputs), C.int32_t(s.pieces)
	p.reads(x, up)
	if s.kind == quant.F16 {
		a.scales = deviceAddress(to.scales)
		p.writes(to.pieces, to.scales)
	} else {
		p.writes(to.pieces)
	}
	return p.emit(out, kernelSplit, args, int64(s.rows), denseThreads, 0)
}

// denseProduct plans the products of the pieces with a weight, and what cuBLASLt does not do.
func (p *planner) denseProduct(out []launch, m *product, s denseShape, plan *C.cublas_plan,
	memory denseMemory) []launch {
	row := 4 * int64(s.outputs)
	to := m.out.Slice(int64(m.job.out_first)*row, int64(s.rows)*row)
	join := s.kind == quant.F16 || !m.bias.IsZero() || m.job.accumulate != 0 ||
		to.Addr()%denseAlign != 0
	product := to
	if join {
		product = memory.product
	}
	piece := int64(s.rows) * int64(s.inputs) * 2
	for i := range s.pieces {
		x := memory.pieces.Slice(int64(s.pieces-1-i)*piece, piece)
		a, args := argsOf[C.cublas_args](p)
		a.weights, a.x, a.out = deviceAddress(m.w.Data), deviceAddress(x), deviceAddress(product)
		a.workspace = deviceAddress(memory.workspace)
		if i > 0 {
			a.accumulate = 1
		}
		p.reads(matrix(m.w), x)
		p.writes(product, memory.workspace)
		out = p.emit(out, 0, args, 0, 0, 0)
		out[len(out)-1].plan = plan
	}
	if !join {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_join_args](p)
	a.product, a.bias, a.out = deviceAddress(product), deviceAddress(m.bias), deviceAddress(to)
	a.outputs, a.accumulate = C.int32_t(s.outputs), m.job.accumulate
	p.reads(product, m.bias)
	if s.kind == quant.F16 {
		a.scales = deviceAddress(memory.scales)
		p.note(memory.scales)
	}
	if m.job.accumulate != 0 {
		p.note(to)
	}
	p.writes(to)
	blocks := int64(s.rows) * ceil(int64(s.outputs), denseThreads)
	return p.emit(out, kernelJoin, args, blocks, denseThreads, 0)
}
