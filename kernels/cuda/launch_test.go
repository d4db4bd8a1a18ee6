//go:build cgo

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
)

// table is a device with a stream and what a test has placed on it.
type table struct {
	t   *testing.T
	dev kernels.Device
	s   kernels.Stream
}

func newTable(t *testing.T, dev kernels.Device) *table {
	t.Helper()
	s, err := dev.NewStream("test")
	if err != nil {
		t.Fatal(err)
	}
	return &table{t, dev, s}
}

// place copies bytes to the device, skew bytes past an address that is a multiple of 64.
func (b *table) place(data []byte, skew int64) kernels.Span {
	b.t.Helper()
	buf, err := b.dev.Alloc(int64(len(data)) + skew)
	if err != nil {
		b.t.Fatal(err)
	}
	pin, err := b.dev.Pin(int64(len(data)))
	if err != nil {
		b.t.Fatal(err)
	}
	copy(pin.Host, data)
	to := buf.All().Slice(skew, int64(len(data)))
	b.s.Copy(to, pin.All())
	return to
}

func (b *table) floats(v []float32) kernels.Span {
	pin, err := kernels.HostBuffer(int64(4 * len(v)))
	if err != nil {
		b.t.Fatal(err)
	}
	copy(pin.All().Float32s(), v)
	return b.place(pin.Host, 0)
}

func (b *table) ints(v []int32) kernels.Span {
	pin, err := kernels.HostBuffer(int64(4 * len(v)))
	if err != nil {
		b.t.Fatal(err)
	}
	copy(pin.All().Int32s(), v)
	return b.place(pin.Host, 0)
}

// out returns memory of n values that are NaN.
func (b *table) out(n int) kernels.Span {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(math.NaN())
	}
	return b.floats(v)
}

func (b *table) run(op kernels.Op) {
	b.t.Helper()
	b.s.Run(op)
	if err := b.s.Sync(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *table) read(s kernels.Span) []float32 {
	b.t.Helper()
	pin, err := b.dev.Pin(s.Bytes)
	if err != nil {
		b.t.Fatal(err)
	}
	b.s.Copy(pin.All(), s)
	if err := b.s.Sync(); err != nil {
		b.t.Fatal(err)
	}
	return pin.All().Float32s()
}

func gaussian(rng *rand.Rand, n int, scale float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64() * scale)
	}
	return v
}

// matrixOf is a random matrix as it lies in a file, and its values.
type matrixOf struct {
	kind       quant.Type
	rows, cols int
	data       []byte
	values     []float32
}

// newMatrix draws random codes with scales of a size that makes values of about 0.05.
func newMatrix(rng *rand.Rand, kind quant.Type, rows, cols int) *matrixOf {
	size, _ := kind.RowBytes(int64(cols))
	m := &matrixOf{kind: kind, rows: rows, cols: cols, data: make([]byte, size*int64(rows)),
		values: make([]float32, rows*cols)}
	if kind.IsFloat() {
		_ = quant.Encode(kind, m.data, gaussian(rng, rows*cols, 0.05))
	} else {
		for i := range m.data {
			m.data[i] = byte(rng.Uint32())
		}
		for at := 0; at < len(m.data); at += kind.BlockBytes() {
			sizeBlock(rng, kind, m.data[at:][:kind.BlockBytes()])
		}
	}
	_ = quant.Decode(kind, m.values, m.data)
	return m
}

// sizeBlock gives a random block scales under which its values are small.
func sizeBlock(rng *rand.Rand, kind quant.Type, b []byte) {
	put := func(at int, largest float64) {
		h := quant.F32ToF16(float32((0.5 + rng.Float64()) * 0.1 / largest))
		b[at], b[at+1] = byte(h), byte(h>>8)
	}
	switch kind {
	case quant.MXFP4:
		b[0] = byte(119 + rng.IntN(4))
	case quant.Q2_K:
		put(80, 45)
		put(82, 45)
	case quant.Q3_K:
		put(108, 128)
	case quant.Q4_K:
		put(0, 63*15)
		put(2, 63*15)
	case quant.Q5_K:
		put(0, 63*31)
		put(2, 63*31)
	case quant.Q6_K:
		put(208, 128*32)
	case quant.IQ4XS:
		put(0, 32*127)
	case quant.Q4_1, quant.Q5_1:
		put(0, 16)
		put(2, 16)
	case quant.Q8_0, quant.IQ4NL:
		put(0, 128)
	default:
		put(0, 16)
	}
}

// on places the matrix at an odd address.
func (m *matrixOf) on(b *table, skew int64) kernels.Weight {
	return kernels.Weight{Data: b.place(m.data, skew), Type: m.kind, Rows: m.rows, Cols: m.cols}
}

var allTypes = []quant.Type{quant.F32, quant.F16, quant.BF16, quant.Q8_0, quant.Q4_0, quant.Q4_1,
	quant.Q5_0, quant.Q5_1, quant.Q2_K, quant.Q3_K, quant.Q4_K, quant.Q5_K, quant.Q6_K, quant.IQ4NL,
	quant.IQ4XS, quant.MXFP4}

// within checks one output row of a product with x against float64. With rounded set weights and
// activations are bfloat16: each product errs by up to twice 2^-9 of itself, independently of
// others, which makes a deviation of sqrt(2/3) * 2^-9 of the norm of the products; 6 deviations are
// allowed. Otherwise the error is that of a float32 sum, as kernels/conformance has it.
func (m *matrixOf) within(t *testing.T, what string, got, x []float32, rounded bool) {
	t.Helper()
	errs, norms := 0.0, 0.0
	for o := range m.rows {
		sum, squares := 0.0, 0.0
		for k, w := range m.values[o*m.cols:][:m.cols] {
			p := float64(w) * float64(x[k])
			sum += p
			squares += p * p
		}
		errs += (sum - float64(got[o])) * (sum - float64(got[o]))
		norms += squares
	}
	const unit = 1.0 / (1 << 24)
	limit := unit * (8 + 4*math.Sqrt(float64(m.cols)))
	if rounded {
		limit = 6 * math.Sqrt(2.0/3) / (1 << 9)
	}
	if !(math.Sqrt(errs) <= limit*math.Sqrt(norms)) {
		t.Fatalf("%s: error %.3g, at most %.3g", what, math.Sqrt(errs), limit*math.Sqrt(norms))
	}
}

// TestProductsOfAllSizes multiplies matrices of every format, with inputs over many chunks and
// rounds, with 70 rows, and then with fewer, so that each kernel is used: the bits of a row stay.
func TestProductsOfAllSizes(t *testing.T) {
	dev := openPlayed(t)
	rng := rand.New(rand.NewPCG(5, 1))
	for _, halves := range []bool{false, true} {
		dev.halves = halves
		for _, kind := range allTypes {
			for _, exact := range []bool{false, true} {
				if halves && (exact || !kind.IsFloat() || kind == quant.F32) {
					continue
				}
				name := fmt.Sprintf("%v, exact %v, halves %v", kind, exact, halves)
				t.Run(name, func(t *testing.T) {
					rounded := !exact && (kind.IsQuantized() || halves)
					productOfAllSizes(t, dev, rng, kind, exact, rounded)
				})
			}
		}
	}
}

func productOfAllSizes(t *testing.T, dev *played, rng *rand.Rand, kind quant.Type, exact,
	rounded bool) {
	const rows = 70
	cols := 5*kind.BlockSize() + 4*kind.BlockSize()*rng.IntN(2) // 5 or 9 of 256
	switch kind.BlockSize() {
	case 1:
		cols = 300 + rng.IntN(400)
	case 32:
		cols = 32 * (17 + rng.IntN(20))
	}
	b := newTable(t, dev)
	m := newMatrix(rng, kind, 17+rng.IntN(20), cols)
	w := m.on(b, []int64{0, 2, 1, 33}[rng.IntN(4)])
	x := gaussian(rng, rows*cols, 1)
	var all []float32
	used := map[string]bool{}
	picks := [][2]int{{0, rows}, {0, 1}, {69, 1}, {20, 7}, {33, 21}, {10, 31}, {2, 40}}
	for _, pick := range picks {
		from, n := pick[0], pick[1]
		out := b.out(n * m.rows)
		op := &kernels.MatMul{X: b.floats(x[from*cols : (from+n)*cols]), Rows: n, Exact: exact,
			Terms: []kernels.Term{{W: w, Out: out}}}
		b.run(op)
		done := b.s.(*playedStream).done
		used[done[len(done)-1].kernel.name()] = true
		got := b.read(out)
		if all == nil {
			all = got
			for r := range rows {
				m.within(t, fmt.Sprintf("inputs %d, row %d", cols, r), got[r*m.rows:][:m.rows],
					x[r*cols:][:cols], rounded)
			}
		}
		for i, v := range got {
			if want := all[from*m.rows+i]; math.Float32bits(v) != math.Float32bits(want) {
				t.Fatalf("inputs %d: row %d among rows %d+%d: output %d is %v, among all %v", cols,
					from+i/m.rows, from, n, i%m.rows, v, want)
			}
		}
	}
	if want := 2; len(used) < want || (rounded && len(used) != 3) {
		t.Errorf("kernels used: %v", used)
	}
}

// TestRowsFrom1To70 takes every number of rows through one format of each kind.
func TestRowsFrom1To70(t *testing.T) {
	dev := openPlayed(t)
	rng := rand.New(rand.NewPCG(5, 2))
	for _, kind := range []quant.Type{quant.Q4_0, quant.BF16} {
		b := newTable(t, dev)
		m := newMatrix(rng, kind, 18, 160)
		w := m.on(b, 0)
		x := gaussian(rng, 70*m.cols, 1)
		var all []float32
		for n := 70; n > 0; n-- {
			out := b.out(n * m.rows)
			b.run(&kernels.MatMul{X: b.floats(x[:n*m.cols]), Rows: n,
				Terms: []kernels.Term{{W: w, Out: out}}})
			got := b.read(out)
			if all == nil {
				all = got
			}
			for i, v := range got {
				if math.Float32bits(v) != math.Float32bits(all[i]) {
					t.Fatalf("%v: row %d of %d differs from that of 70", kind, i/m.rows, n)
				}
			}
		}
	}
}

// TestManyExperts runs more experts than travel with a launch, of mixed formats, with rows in any
// order, so that jobs and lists are uploaded.
func TestManyExperts(t *testing.T) {
	const experts, rows, topK, dim, width = 30, 40, 3, 64, 96
	rng := rand.New(rand.NewPCG(5, 3))
	kinds := []quant.Type{quant.Q8_0, quant.BF16, quant.Q4_1}
	op := &kernels.ExpertFFN{Dim: dim, Width: width, Experts: make([]kernels.Expert, experts)}
	var matrices [experts][3]*matrixOf
	for e := range matrices {
		for i, shape := range [3][2]int{{width, dim}, {width, dim}, {dim, width}} {
			matrices[e][i] = newMatrix(rng, kinds[rng.IntN(len(kinds))], shape[0], shape[1])
		}
	}
	for t := range rows {
		for j, e := range rng.Perm(experts)[:topK] {
			x := &op.Experts[e]
			x.Rows, x.Slots = append(x.Rows, int32(t)), append(x.Slots, int32(t*topK+j))
		}
	}
	x := gaussian(rng, rows*dim, 1)
	result := func(dev kernels.Device) []float32 {
		b := newTable(t, dev)
		op.X, op.Out = b.floats(x), b.out(rows*topK*dim)
		for e := range matrices {
			v := &op.Experts[e]
			v.Gate, v.Up = matrices[e][0].on(b, 0), matrices[e][1].on(b, 1)
			v.Down = matrices[e][2].on(b, 2)
		}
		b.run(op)
		return b.read(op.Out)
	}
	oracle := ref.Open(ref.Options{})
	defer oracle.Close()
	got, want := result(openPlayed(t)), result(oracle)
	errs, norm := 0.0, 0.0
	for i := range want {
		errs += math.Pow(float64(got[i])-float64(want[i]), 2)
		norm += math.Pow(float64(want[i]), 2)
	}
	// Two products in a row whose factors are bfloat16: three roundings of up to 2^-9 a side and a
	// layer, some of which the float32 products do not have.
	if limit := 4.0 / (1 << 9); !(math.Sqrt(errs/norm) <= limit) {
		t.Errorf("relative error %.3g, at most %.3g", math.Sqrt(errs/norm), limit)
	}
}

// contexts is an attention over three sequences of some hundred positions, two of them with several
// rows.
type contexts struct {
	op         kernels.Attention
	pool, q    []float32
	tables     []int32
	seqs, pos  []int32
	dim, heads int
}

func newContexts(rng *rand.Rand, window int) *contexts {
	const pageTokens, pagesMax, kvHeads, headDim, heads = 16, 60, 2, 72, 6
	c := &contexts{dim: headDim, heads: heads}
	c.op = kernels.Attention{Heads: heads, Scale: 0.1, Window: window, KV: kernels.KV{
		PagesMax: pagesMax, PageTokens: pageTokens, KVHeads: kvHeads, HeadDim: headDim}}
	c.op.KV.PageBytes = c.op.KV.LayerBytes()
	for _, page := range rng.Perm(3 * pagesMax) {
		c.tables = append(c.tables, int32(page))
	}
	c.pool = gaussian(rng, 3*pagesMax*int(c.op.KV.PageBytes/4), 1)
	for seq, rows := range [][2]int{{700, 60}, {255, 1}, {930, 3}} {
		for i := range rows[1] {
			c.seqs, c.pos = append(c.seqs, int32(seq)), append(c.pos, int32(rows[0]+i))
		}
	}
	c.q = gaussian(rng, len(c.pos)*heads*headDim, 1)
	return c
}

// on computes rows from .. from+n-1.
func (c *contexts) on(b *table, from, n int) []float32 {
	b.t.Helper()
	op, row := c.op, c.heads*c.dim
	op.KV.Pool, op.KV.Tables = b.floats(c.pool), b.ints(c.tables)
	op.Q, op.Out = b.floats(c.q[from*row:(from+n)*row]), b.out(n*row)
	op.Seqs, op.Pos, op.Rows = b.ints(c.seqs[from:from+n]), b.ints(c.pos[from:from+n]), n
	b.run(&op)
	return b.read(op.Out)
}

// TestAttentionOverSegments has contexts of several segments: whole or split over blocks, alone or
// among others, a row has the same bits, and is near the reference.
func TestAttentionOverSegments(t *testing.T) {
	for _, window := range []int{0, 300} {
		rng := rand.New(rand.NewPCG(5, uint64(window)))
		c := newContexts(rng, window)
		oracle := ref.Open(ref.Options{})
		b, rows, row := newTable(t, openPlayed(t)), len(c.pos), c.heads*c.dim
		want := c.on(newTable(t, oracle), 0, rows)
		all := c.on(b, 0, rows)
		if n := len(b.s.(*playedStream).done); n != 2 {
			t.Fatalf("64 rows take %d launches, must be split", n)
		}
		errs, norm := 0.0, 0.0
		for i := range want {
			errs += math.Pow(float64(all[i])-float64(want[i]), 2)
			norm += math.Pow(float64(want[i]), 2)
		}
		// As in conformance: scores of deviation 0.85 err by a sum of 72 products, weights by an
		// exponential and a sum of some hundred positions; the mean of values is what they are of.
		if limit := 1e-5; !(math.Sqrt(errs/norm) <= limit) {
			t.Errorf("window %d: relative error %.3g, at most %.3g", window,
				math.Sqrt(errs/norm), limit)
		}
		for _, pick := range [][2]int{{0, 1}, {59, 3}, {61, 3}, {30, 9}} {
			got := c.on(b, pick[0], pick[1])
			for i, v := range got {
				if math.Float32bits(v) != math.Float32bits(all[pick[0]*row+i]) {
					t.Fatalf("window %d: row %d among rows %v differs", window, pick[0]+i/row, pick)
				}
			}
		}
		wholeEqualsSplit(t, c, all)
		_ = oracle.Close()
	}
}

// wholeEqualsSplit repeats the first sequence until its rows are too many to be split.
func wholeEqualsSplit(t *testing.T, c *contexts, all []float32) {
	t.Helper()
	big, row := *c, c.heads*c.dim
	const repeats = 6
	big.q, big.seqs, big.pos = nil, nil, nil
	for range repeats {
		big.q = append(big.q, c.q[:60*row]...)
		big.seqs, big.pos = append(big.seqs, c.seqs[:60]...), append(big.pos, c.pos[:60]...)
	}
	b := newTable(t, openPlayed(t))
	got := big.on(b, 0, 60*repeats)
	if n := len(b.s.(*playedStream).done); n != 1 {
		t.Fatalf("%d rows take %d launches, must not be split", 60*repeats, n)
	}
	for i, v := range got {
		if math.Float32bits(v) != math.Float32bits(all[i%(60*row)]) {
			t.Fatalf("row %d of a whole context differs from that of a split one", i/row)
		}
	}
}

// TestWrongIndices: what lies in device memory is not checked when an op is run, so kernels must
// stay inside their memory, and say NaN.
func TestWrongIndices(t *testing.T) {
	b := newTable(t, openPlayed(t))
	rng := rand.New(rand.NewPCG(5, 9))
	vocabulary := newMatrix(rng, quant.Q4_0, 3, 64)
	out := b.out(3 * 64)
	b.run(&kernels.Embed{Table: vocabulary.on(b, 0), IDs: b.ints([]int32{-1, 3, math.MinInt32}),
		Out: out, Rows: 3})
	allNaN(t, "embed", b.read(out))
	out = b.out(2 * 8)
	b.run(&kernels.GatherRows{X: b.floats(gaussian(rng, 16, 1)), Index: b.ints([]int32{2, -1}),
		Out: out, Rows: 2, Dim: 8})
	allNaN(t, "gather", b.read(out))
	kv := kernels.KV{PagesMax: 2, PageTokens: 4, KVHeads: 1, HeadDim: 8, PageBytes: 256,
		Pool: b.floats(make([]float32, 64)), Tables: b.ints([]int32{7, -3})}
	seqs, pos := b.ints([]int32{0, 0, 1, -1, 0}), b.ints([]int32{0, 5, 0, 0, 8})
	rows := b.floats(gaussian(rng, 5*8, 1))
	b.run(&kernels.KVAppend{KV: kv, K: rows, V: rows, Seqs: seqs, Pos: pos, Rows: 5})
	for _, v := range b.read(kv.Pool) {
		if v != 0 {
			t.Fatal("a row without a page was stored")
		}
	}
	out = b.out(5 * 8)
	b.run(&kernels.Attention{KV: kv, Q: rows, Out: out, Seqs: seqs, Pos: pos, Rows: 5, Heads: 1,
		Scale: 1})
	allNaN(t, "attention", b.read(out))
	logits := []float32{1, float32(math.NaN()), 3, 2}
	ids, weights := b.out(4), b.out(4)
	b.run(&kernels.Route{Logits: b.floats(logits), IDs: ids, Weights: weights, Rows: 1, Experts: 4,
		TopK: 4})
	allNaN(t, "route", b.read(weights))
	for i, v := range b.read(ids) {
		if want := []uint32{2, 3, 0, 1}[i]; math.Float32bits(v) != want {
			t.Errorf("id %d is %d, must be %d", i, math.Float32bits(v), want)
		}
	}
}

func allNaN(t *testing.T, what string, v []float32) {
	t.Helper()
	for i, e := range v {
		if e == e {
			t.Fatalf("%s: value %d is %v, must be NaN", what, i, e)
		}
	}
}

// TestNamesAndModules: every kernel that the planner names is in the module it says, and known to
// the player with its arguments.
func TestNamesAndModules(t *testing.T) {
	player := openPlayed(t).player
	for k := range kernelCount {
		name := k.name()
		if name == "" {
			continue
		}
		text, err := modulePTX(k.module())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.Contains(text, ".entry "+name+"(") {
			t.Errorf("module %s has no entry %s", k.module(), name)
		}
		if player.ArgumentBytes(name) == 0 {
			t.Errorf("the player has no %s", name)
		}
	}
}

// TestPlanningAllocatesNothing plans a decode step's ops again and again.
func TestPlanningAllocatesNothing(t *testing.T) {
	b, rng := newTable(t, openPlayed(t)), rand.New(rand.NewPCG(5, 10))
	w := newMatrix(rng, quant.Q4_0, 64, 32).on(b, 0)
	down := newMatrix(rng, quant.Q4_0, 32, 64).on(b, 0)
	ffn := &kernels.ExpertFFN{X: b.out(3 * 32), Out: b.out(60 * 32), Dim: 32, Width: 64}
	for e := range 30 {
		ffn.Experts = append(ffn.Experts, kernels.Expert{Gate: w, Up: w, Down: down,
			Rows: []int32{2, 0}, Slots: []int32{int32(2 * e), int32(2*e + 1)}})
	}
	ops := []kernels.Op{ffn, &kernels.MatMul{X: ffn.X, Rows: 3, Terms: []kernels.Term{
		{W: w, Out: b.out(3 * 64)}, {W: w, Out: b.out(3 * 64)}}}}
	p := planner{declare: true, scratch: b.out(1 << 18)}
	p.upload, p.uploaded = make([]byte, 1<<16), b.out(1<<14)
	var launches []launch
	step := func() {
		p.reset()
		p.used = 0
		for _, op := range ops {
			if _, err := p.need(op); err != nil {
				t.Fatal(err)
			}
			launches = p.plan(op, launches[:0])
		}
	}
	if n := testing.AllocsPerRun(20, step); n != 0 {
		t.Errorf("a step makes %v allocations", n)
	}
}
