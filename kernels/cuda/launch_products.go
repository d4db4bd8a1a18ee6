//go:build cgo

package cuda

// #include "args.h"
import "C"

import (
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// productFormat is a line of product_formats.inc.
type productFormat struct {
	name  string
	kind  quant.Type
	xp    int  // pieces of an activation
	few   bool // has a kernel for 9 to 32 rows
	tiles int  // rows of a tile, in units of 8
}

var productFormats = [...]productFormat{
	{"f32", quant.F32, 3, false, 2},
	{"f16", quant.F16, 3, false, 4},
	{"bf16", quant.BF16, 3, false, 4},
	{"f16_halves", quant.F16, 1, true, 8},
	{"bf16_halves", quant.BF16, 1, true, 8},
	{"q4_0", quant.Q4_0, 1, true, 8},
	{"q4_1", quant.Q4_1, 1, true, 8},
	{"q5_0", quant.Q5_0, 1, true, 8},
	{"q5_1", quant.Q5_1, 1, true, 8},
	{"q8_0", quant.Q8_0, 1, true, 8},
	{"q2_k", quant.Q2_K, 1, true, 8},
	{"q3_k", quant.Q3_K, 1, true, 8},
	{"q4_k", quant.Q4_K, 1, true, 8},
	{"q5_k", quant.Q5_K, 1, true, 8},
	{"q6_k", quant.Q6_K, 1, true, 8},
	{"iq4_nl", quant.IQ4NL, 1, true, 8},
	{"iq4_xs", quant.IQ4XS, 1, true, 8},
	{"mxfp4", quant.MXFP4, 1, true, 8},
	{"exact", 0, 3, false, 2},
}

const (
	formatHalves = 3 // the first of two
	formatExact  = len(productFormats) - 1
)

// The kernels of a format.
const (
	variantOne  = iota // up to 8 rows a block
	variantFew         // up to 32
	variantTile        // as many as the format says
)

var variantNames = [...]string{"one", "few", "tile"}

const (
	productThreads = 128
	productWarps   = productThreads / 32
	outputsOfWarp  = 16
	rowsOfMMA      = 8
	rowsFew        = 4 // units of 8 rows in variantFew
	// rowsOneMost is how many rows a job has on average where variantOne still takes it; with three
	// pieces it reads weights twice sooner than it changes to tiles of fewer blocks.
	rowsOneMost, rowsOneMostPieces = 8, 16
)

// sharedOf returns the dynamic shared memory of a variant: mr_plan in product.cuh, in numbers.
func (f *productFormat) sharedOf(variant int) int {
	block, bytes, chunk := f.kind.BlockSize(), f.kind.BlockBytes(), 128
	switch {
	case f.name == "exact":
		block, bytes, chunk = 256, quant.Q6_K.BlockBytes(), 256
	case block == 1:
		chunk = 64
	case block == 256:
		chunk = 256
	}
	stage := outputsOfWarp * ((chunk/block*bytes + 30) / 16 * 16)
	weights := productWarps * 2 * stage
	if variant == variantTile {
		return weights + 2*f.xp*rowsOfMMA*f.tiles*64*2
	}
	sums := outputsOfWarp * f.rows(variant) * 4
	return weights + 2*productWarps*sums
}

// rows returns how many rows a block of the variant has.
func (f *productFormat) rows(variant int) int {
	return rowsOfMMA * [...]int{1, rowsFew, f.tiles}[variant]
}

// variant chooses a kernel by the mean number of rows of the jobs. The choice changes no bit.
func (f *productFormat) variant(rows, jobs int64) int {
	switch {
	case f.xp == 1 && rows <= rowsOneMost*jobs || f.xp > 1 && rows <= rowsOneMostPieces*jobs:
		return variantOne
	case f.few && rows <= rowsOfMMA*rowsFew*jobs:
		return variantFew
	}
	return variantTile
}

// formatOf returns the index of the products for a type of weights.
func (p *planner) formatOf(kind quant.Type, exact bool) int {
	if exact && kind.IsQuantized() {
		return formatExact
	}
	for i := range productFormats {
		f := &productFormats[i]
		if f.kind == kind && i != formatExact {
			if kind.IsFloat() && kind != quant.F32 && p.halves && !exact {
				return formatHalves + i - 1
			}
			return i
		}
	}
	return formatExact // not reached: Validate has seen the type
}

// product is a job before it has its place in a launch.
type product struct {
	w         *kernels.Weight
	format    int
	bias, out kernels.Span // out: all that the job may write
	job       C.struct_mr_cuda_job
	slots     []int32 // the rows of out that are written; nil: all of out
	lists     [2]kernels.Span
	done      bool
}

// activations is the left side of products, as mr_prepare leaves it.
type activations struct {
	span   kernels.Span
	inputs int
	stride int
	piece  int64 // bytes of a piece
	sums   kernels.Span
}

const pieceAlign = C.MR_X_ALIGN

// pieceBytes returns the bytes of one piece of rows of activations.
func pieceBytes(rows, dim int) int64 {
	return int64(rows) * ceil(int64(dim), pieceAlign) * pieceAlign * 2
}

// sumsBytes returns the bytes of the sums of 16 activations each.
func sumsBytes(rows, dim int) int64 { return pieceBytes(rows, dim) / 2 / 16 * 4 }

// preparedBytes returns what prepare takes of the scratch memory.
func preparedBytes(rows, dim, pieces int) int64 {
	return uploadBytes(int64(pieces)*pieceBytes(rows, dim) + sumsBytes(rows, dim))
}

// pieces returns the most pieces that any of the pending products wants.
func (p *planner) pieces(some []product) int {
	n := 1
	for i := range some {
		if !some[i].done {
			n = max(n, productFormats[some[i].format].xp)
		}
	}
	return n
}

// prepare plans the split of rows of activations into pieces at the given place of the scratch
// memory.
func (p *planner) prepare(out []launch, k kernelID, x, up kernels.Span, rows, dim, pieces int,
	at int64) (activations, []launch) {
	v := activations{inputs: dim, piece: pieceBytes(rows, dim)}
	v.stride = int(v.piece / 2 / int64(rows))
	v.span = p.scratch.Slice(at, int64(pieces)*v.piece)
	v.sums = p.scratch.Slice(at+v.span.Bytes, sumsBytes(rows, dim))
	a, args := argsOf[C.struct_mr_cuda_prepare_args](p)
	a.x, a.up, a.out = deviceAddress(x), deviceAddress(up), deviceAddress(v.span)
	a.sums = deviceAddress(v.sums)
	a.rows, a.dim, a.stride = C.int32_t(rows), C.int32_t(dim), C.int32_t(v.stride)
	a.pieces = C.int32_t(pieces)
	p.reads(of(x, rows, dim), of(up, rows, dim))
	p.writes(v.span, v.sums)
	blocks := ceil(int64(rows)*int64(v.stride/16), threadsMost)
	return v, p.emit(out, k, args, blocks, threadsMost, 0)
}

// multiply plans the products, one launch for each format among them.
func (p *planner) multiply(out []launch, some []product, x activations) []launch {
	for i := range some {
		if !some[i].done {
			out = p.multiplyFormat(out, some[i:], x)
		}
	}
	return out
}

// multiplyFormat plans the products of the same storage format as the first.
func (p *planner) multiplyFormat(out []launch, some []product, x activations) []launch {
	first := &some[0]
	format, kind := &productFormats[first.format], first.w.Type
	same := func(m *product) bool { return m.w.Type == kind && m.format == first.format }
	jobs, rows := 0, int64(0)
	for i := range some {
		if same(&some[i]) {
			jobs++
			rows += int64(some[i].job.rows)
		}
	}
	variant := format.variant(rows, int64(jobs))
	a, args := argsOf[C.struct_mr_cuda_product_args](p)
	list := unsafe.Slice(&a.few[0], len(a.few))
	var uploaded kernels.Span
	if jobs > len(list) {
		var host []byte
		host, uploaded = p.take(int64(jobs) * int64(unsafe.Sizeof(list[0])))
		list = unsafe.Slice((*C.struct_mr_cuda_job)(unsafe.Pointer(&host[0])), jobs)
	}
	rowBytes, _ := kind.RowBytes(int64(x.inputs))
	a.jobs, a.x = deviceAddress(uploaded), deviceAddress(x.span)
	a.x_piece_bytes, a.x_sums = C.uint64_t(x.piece), deviceAddress(x.sums)
	a.row_bytes, a.job_count = C.uint64_t(rowBytes), C.int32_t(jobs)
	a.inputs, a.stride, a._type = C.int32_t(x.inputs), C.int32_t(x.stride), C.int32_t(kind)
	tiles, n := int64(0), 0
	p.reads(x.span, x.sums, uploaded)
	for i := range some {
		m := &some[i]
		if !same(m) {
			continue
		}
		m.done = true
		m.job.tile = C.int32_t(tiles)
		list[n] = m.job
		n++
		tiles += format.tilesOf(variant, int64(m.job.outputs), int64(m.job.rows))
		p.note(matrix(m.w), m.bias, m.lists[0], m.lists[1])
		if m.job.accumulate != 0 {
			p.note(m.out)
		}
	}
	p.writes()
	for i := range some {
		if same(&some[i]) {
			p.noteSlots(&some[i])
		}
	}
	k := kernelProduct + kernelID(3*first.format+variant)
	return p.emit(out, k, args, tiles, productThreads, format.sharedOf(variant))
}

// tilesOf returns the blocks of a job.
func (f *productFormat) tilesOf(variant int, outputs, rows int64) int64 {
	width := int64(outputsOfWarp)
	if variant == variantTile {
		width *= productWarps
	}
	return ceil(outputs, width) * ceil(rows, int64(f.rows(variant)))
}

// noteSlots notes the rows that a product writes, those that lie together as one span.
func (p *planner) noteSlots(m *product) {
	if m.slots == nil || !p.declare {
		p.note(m.out)
		return
	}
	row := 4 * int64(m.w.Rows)
	for i := 0; i < len(m.slots); {
		n := 1
		for i+n < len(m.slots) && m.slots[i+n] == m.slots[i]+int32(n) {
			n++
		}
		p.note(m.out.Slice(int64(m.slots[i])*row, int64(n)*row))
		i += n
	}
}

// take returns bytes of the upload area, and where the device finds them.
func (p *planner) take(bytes int64) ([]byte, kernels.Span) {
	from := p.used
	p.used += ceil(bytes, uploadAlign) * uploadAlign
	return p.upload[from : from+bytes], p.uploaded.Slice(from, bytes)
}

const uploadAlign = 64

// index returns how a kernel finds rows: a first row where they follow one another, or a list that
// is uploaded.
func (p *planner) index(rows []int32) (first C.int32_t, list kernels.Span) {
	if consecutive(rows) {
		return C.int32_t(rows[0]), kernels.Span{}
	}
	host, list := p.take(4 * int64(len(rows)))
	copy(unsafe.Slice((*int32)(unsafe.Pointer(&host[0])), len(rows)), rows)
	return 0, list
}

func consecutive(rows []int32) bool {
	for i, r := range rows {
		if r != rows[0]+int32(i) {
			return false
		}
	}
	return true
}

func uploadBytes(bytes int64) int64 { return ceil(bytes, uploadAlign) * uploadAlign }

// jobsBytes returns the upload area that a number of jobs may take.
func jobsBytes(jobs int) int64 {
	if jobs <= C.MR_JOBS_INLINE {
		return 0
	}
	return uploadBytes(int64(jobs)*int64(unsafe.Sizeof(C.struct_mr_cuda_job{}))) +
		uploadAlign*int64(len(productFormats)) // jobs of several formats lie apart
}

func tooLarge(op string, n int64) error {
	if n > math.MaxInt32 {
		return fmt.Errorf("%w: %s: %d blocks are too many", kernels.ErrDevice, op, n)
	}
	return nil
}

func (p *planner) needMatMul(o *kernels.MatMul) (demand, error) {
	if o.Rows == 0 || len(o.Terms) == 0 {
		return demand{}, nil
	}
	tiles, dense := int64(0), int64(0)
	for i := range o.Terms {
		w := &o.Terms[i].W
		tiles += ceil(int64(w.Rows), outputsOfWarp) * ceil(int64(o.Rows), rowsOfMMA)
		dense = max(dense, p.denseBytes(w, o.Rows, o.Exact))
	}
	return demand{scratch: p.matMulPrepared(o) + dense, upload: jobsBytes(len(o.Terms))},
		tooLarge("MatMul", tiles)
}

// matMulPrepared returns the scratch memory of an op's activations, all products being of the kernels
// here.
func (p *planner) matMulPrepared(o *kernels.MatMul) int64 {
	xp := 1
	for i := range o.Terms {
		xp = max(xp, productFormats[p.formatOf(o.Terms[i].W.Type, o.Exact)].xp)
	}
	return preparedBytes(o.Rows, o.Terms[0].W.Cols, xp)
}

func (p *planner) matMul(o *kernels.MatMul, out []launch) []launch {
	if o.Rows == 0 || len(o.Terms) == 0 {
		return out
	}
	p.products = p.products[:0]
	for i := range o.Terms {
		t := &o.Terms[i]
		m := product{w: &t.W, format: p.formatOf(t.W.Type, o.Exact), bias: of(t.Bias, t.W.Rows, 1),
			out: of(t.Out, o.Rows, t.W.Rows)}
		m.job.weights, m.job.bias = deviceAddress(t.W.Data), deviceAddress(t.Bias)
		m.job.out = deviceAddress(t.Out)
		m.job.rows, m.job.outputs = C.int32_t(o.Rows), C.int32_t(t.W.Rows)
		if t.Accumulate {
			m.job.accumulate = 1
		}
		p.products = append(p.products, m)
	}
	from := source{x: o.X, rows: o.Rows, dim: o.Terms[0].W.Cols}
	return p.planProducts(out, kernelPrepare, from, 0, p.matMulPrepared(o))
}

// feedPlan says where the values of an ExpertFFN lie in the scratch memory.
type feedPlan struct {
	experts   int // with rows
	rows      int // of all experts
	xRows     int // rows of X that are looked at
	xp, downs int // pieces of X and of the hidden values
	x, gate, up, hidden, dense,
	bytes int64
}

func (p *planner) planFeed(o *kernels.ExpertFFN) feedPlan {
	f, dense := feedPlan{xp: 1, downs: 1}, int64(0)
	for i := range o.Experts {
		e := &o.Experts[i]
		if len(e.Rows) == 0 {
			continue
		}
		f.experts++
		f.rows += len(e.Rows)
		f.xRows = max(f.xRows, int(slices.Max(e.Rows))+1)
		f.xp = max(f.xp, productFormats[p.formatOf(e.Gate.Type, o.Exact)].xp,
			productFormats[p.formatOf(e.Up.Type, o.Exact)].xp)
		f.downs = max(f.downs, productFormats[p.formatOf(e.Down.Type, o.Exact)].xp)
		for _, w := range [...]*kernels.Weight{&e.Gate, &e.Up, &e.Down} {
			dense = max(dense, p.denseBytes(w, len(e.Rows), o.Exact))
		}
	}
	hidden := uploadBytes(4 * int64(f.rows) * int64(o.Width))
	f.gate = f.x + preparedBytes(f.xRows, o.Dim, f.xp)
	f.up = f.gate + hidden
	f.hidden = f.up + hidden
	f.dense = f.hidden + preparedBytes(f.rows, o.Width, f.downs)
	f.bytes = f.dense + dense
	return f
}

func (p *planner) needExpertFFN(o *kernels.ExpertFFN) (demand, error) {
	f := p.planFeed(o)
	if f.rows == 0 {
		return demand{}, nil
	}
	tiles := ceil(int64(max(2*o.Width, o.Dim)), outputsOfWarp) *
		(ceil(int64(f.rows), rowsOfMMA) + int64(f.experts))
	lists := 8*int64(f.rows) + 2*uploadAlign*int64(f.experts)
	return demand{scratch: f.bytes, upload: jobsBytes(2*f.experts) + jobsBytes(f.experts) + lists},
		tooLarge("ExpertFFN", tiles)
}

func (p *planner) expertFFN(o *kernels.ExpertFFN, out []launch) []launch {
	f := p.planFeed(o)
	if f.rows == 0 {
		return out
	}
	hidden := 4 * int64(f.rows) * int64(o.Width)
	gates, ups := p.scratch.Slice(f.gate, hidden), p.scratch.Slice(f.up, hidden)
	p.products = p.products[:0]
	for i, at := 0, 0; i < len(o.Experts); i++ {
		e := &o.Experts[i]
		if len(e.Rows) == 0 {
			continue
		}
		first, list := p.index(e.Rows)
		for _, side := range [...]struct {
			w  *kernels.Weight
			to kernels.Span
		}{{&e.Gate, gates}, {&e.Up, ups}} {
			row := 4 * int64(o.Width)
			m := product{w: side.w, format: p.formatOf(side.w.Type, o.Exact),
				out: side.to.Slice(int64(at)*row, int64(len(e.Rows))*row)}
			m.lists[0] = list
			m.job.weights, m.job.out = deviceAddress(side.w.Data), deviceAddress(m.out)
			m.job.x_rows, m.job.x_first = deviceAddress(list), first
			m.job.rows, m.job.outputs = C.int32_t(len(e.Rows)), C.int32_t(o.Width)
			p.products = append(p.products, m)
		}
		at += len(e.Rows)
	}
	out = p.planProducts(out, kernelPrepare, source{x: o.X, rows: f.xRows, dim: o.Dim}, f.x, f.dense)
	p.products = p.products[:0]
	for i, at := 0, 0; i < len(o.Experts); i++ {
		e := &o.Experts[i]
		if len(e.Rows) == 0 {
			continue
		}
		m := product{w: &e.Down, format: p.formatOf(e.Down.Type, o.Exact), out: o.Out,
			slots: e.Slots}
		first, list := p.index(e.Slots)
		m.lists[0] = list
		m.job.weights, m.job.out = deviceAddress(e.Down.Data), deviceAddress(o.Out)
		m.job.slots, m.job.out_first, m.job.x_first = deviceAddress(list), first, C.int32_t(at)
		m.job.rows, m.job.outputs = C.int32_t(len(e.Rows)), C.int32_t(o.Dim)
		p.products = append(p.products, m)
		at += len(e.Rows)
	}
	return p.planProducts(out, kernelGate, source{x: gates, up: ups, rows: f.rows, dim: o.Width},
		f.hidden, f.dense)
}
