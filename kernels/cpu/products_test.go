//go:build cgo

package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

const (
	// exactTolerance: float32 sums of up to a few hundred terms in 16 lanes.
	exactTolerance = 2e-6
	// intTolerance: activations move by at most 1/254 of their block's largest, uniformly: for
	// normal ones an error of 0.5 % of the output, and small outputs scatter about that.
	intTolerance = 0.012
)

type shape struct{ rows, cols, m int }

// expected is a product in float64, and the squares of what errors are measured by: sums of few
// outputs may cancel, but independent errors of the columns add up like the columns' squares.
type expected struct{ values, squares []float64 }

// walk returns sum (w x)^2 for each output.
func walk(w, x []float32, rows, cols, m int) []float64 {
	w2, x2 := make([]float32, len(w)), make([]float32, len(x))
	for i, v := range w {
		w2[i] = v * v
	}
	for i, v := range x {
		x2[i] = v * v
	}
	return reference(w2, x2, rows, cols, m)
}

func (e expected) error(got []float32) float64 {
	var diff, norm float64
	for i, v := range e.values {
		diff += (float64(got[i]) - v) * (float64(got[i]) - v)
		norm += e.squares[i]
	}
	return math.Sqrt(diff / norm)
}

func shapes(typ quant.Type) []shape {
	block := max(typ.BlockSize(), 8)
	s := []shape{{16, block, 1}, {48, 3 * block, 3}, {1, block, 2}, {37, 2 * block, 5},
		{64, 4 * block, 11}, {32, 2 * block, 70}}
	if typ.IsFloat() {
		s = append(s, shape{5, 1, 2}, shape{17, 33, 9})
	}
	return s
}

func multiply(t *testing.T, d *Device, w kernels.Weight, x []float32, m int, exact bool) []float32 {
	t.Helper()
	out := alloc(t, d, 4*m*w.Rows)
	run(t, d, &kernels.MatMul{X: floats(t, d, x), Rows: m, Exact: exact,
		Terms: []kernels.Term{{W: w, Out: out}}})
	return append([]float32(nil), out.Float32s()...)
}

func TestProductsAreNearFloat64AndAlikeInEveryForm(t *testing.T) {
	devices := machine(t, 2)
	for _, typ := range allTypes {
		t.Run(typ.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(typ)))
			for _, s := range shapes(typ) {
				b := weights(rng, typ, s.rows, s.cols)
				x := normal(rng, s.m*s.cols)
				w := decode(typ, b, s.rows*s.cols)
				want := expected{reference(w, x, s.rows, s.cols, s.m), walk(w, x, s.rows, s.cols, s.m)}
				for _, exact := range []bool{false, true} {
					checkForms(t, devices, typ, s, b, x, want, exact)
				}
			}
		})
	}
}

// checkForms multiplies with every instruction set and layout: all must agree to the bit.
func checkForms(t *testing.T, devices map[string]*Device, typ quant.Type, s shape, b []byte,
	x []float32, want expected, exact bool) {
	t.Helper()
	var first []float32
	for isa, d := range devices {
		for _, shift := range []int{0, 1, 34} {
			w, memory := place(t, d, typ, s.rows, s.cols, b, shift)
			name := fmt.Sprintf("%s, shift %d, exact %v, %+v", isa, shift, exact, s)
			got := multiply(t, d, w, x, s.m, exact)
			if first == nil {
				first = got
				tolerance := intTolerance
				if exact || typ.IsFloat() {
					tolerance = exactTolerance
				}
				if e := want.error(got); !(e < tolerance) {
					t.Errorf("%s: error %g, want below %g", name, e, tolerance)
				}
			}
			sameBits(t, name+", published", got, first)
			w = land(t, d, w, memory)
			if tiles := s.rows%16 == 0 && s.cols%64 == 0 && typ.IsQuantized(); tiles !=
				(w.Layout == kernels.Tiled) {
				t.Fatalf("%s: layout %d", name, w.Layout)
			}
			sameBits(t, name+", landed", multiply(t, d, w, x, s.m, exact), first)
		}
	}
}

func TestRowsDoNotDependOnTheirNeighboursOrThreads(t *testing.T) {
	for _, typ := range allTypes {
		rng := rand.New(rand.NewPCG(2, uint64(typ)))
		const rows, cols, m = 80, 512, 21
		b, x := weights(rng, typ, rows, cols), normal(rng, m*cols)
		var first []float32
		for threads := 1; threads <= 3; threads++ {
			d := open(t, "", threads)
			w, memory := place(t, d, typ, rows, cols, b, 0)
			w = land(t, d, w, memory)
			got := multiply(t, d, w, x, m, false)
			if first == nil {
				first = got
			}
			sameBits(t, fmt.Sprintf("%v, %d threads", typ, threads), got, first)
			for i := range m {
				sameBits(t, fmt.Sprintf("%v, row %d alone", typ, i),
					multiply(t, d, w, x[i*cols:(i+1)*cols], 1, false), first[i*rows:(i+1)*rows])
			}
		}
	}
}

// The formula of doc.go, in plain Go, to the bit.
func TestQ8ProductsFollowTheDocumentedFormula(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	const rows, cols = 16, 128
	b := weights(rng, quant.Q8_0, rows, cols)
	for i := range 32 { // the lowest weight, against the largest activations
		b[2+i] = 0x80
	}
	x := normal(rng, cols)
	for i := range 32 {
		x[i] = float32(1 - i%2*2)
	}
	want := make([]float32, rows)
	for r := range rows {
		var f float32
		for k := 0; k < cols; k += 32 {
			block := b[(r*cols+k)/32*34:]
			var top float32
			for _, v := range x[k : k+32] {
				top = max(top, float32(math.Abs(float64(v))))
			}
			d, sum := top/127, 0
			for i, v := range x[k : k+32] {
				sum += int(int8(block[2+i])) * int(math.RoundToEven(float64(v/d)))
			}
			scale := quant.F16ToF32(uint16(block[0])|uint16(block[1])<<8) * d
			f = float32(math.FMA(float64(sum), float64(scale), float64(f)))
		}
		want[r] = f
	}
	for isa, d := range machine(t, 1) {
		w, memory := place(t, d, quant.Q8_0, rows, cols, b, 0)
		got := multiply(t, d, land(t, d, w, memory), x, 1, false)
		for r := range want { // FMA in float64 then rounded: double rounding is one ulp at most
			if math.Abs(float64(got[r]-want[r])) > 1e-6*math.Abs(float64(want[r])) {
				t.Errorf("%s: output %d is %v, want %v", isa, r, got[r], want[r])
			}
		}
	}
}

func TestBiasAndAccumulate(t *testing.T) {
	d := open(t, "", 2)
	rng := rand.New(rand.NewPCG(4, 4))
	const rows, cols, m = 40, 64, 3
	b, x, bias, old := weights(rng, quant.Q4_0, rows, cols), normal(rng, m*cols), normal(rng, rows),
		normal(rng, m*rows)
	w, _ := place(t, d, quant.Q4_0, rows, cols, b, 0)
	plain := multiply(t, d, w, x, m, false)
	sum, biased := floats(t, d, old), alloc(t, d, 4*m*rows)
	run(t, d, &kernels.MatMul{X: floats(t, d, x), Rows: m, Terms: []kernels.Term{
		{W: w, Out: sum, Bias: floats(t, d, bias), Accumulate: true},
		{W: w, Out: biased, Bias: floats(t, d, bias)},
	}})
	for i, v := range plain {
		p := v + bias[i%rows]
		if got := biased.Float32s()[i]; got != p {
			t.Fatalf("biased %d is %v, want %v", i, got, p)
		}
		if got := sum.Float32s()[i]; got != old[i]+p {
			t.Fatalf("accumulated %d is %v, want %v", i, got, old[i]+p)
		}
	}
}

func TestNumbersThatAreNotFinite(t *testing.T) {
	for isa, d := range machine(t, 1) {
		rng := rand.New(rand.NewPCG(5, 5))
		const rows, cols = 16, 128
		q, span := place(t, d, quant.Q4_0, rows, cols, weights(rng, quant.Q4_0, rows, cols), 0)
		q = land(t, d, q, span)
		x := normal(rng, 4*cols)
		x[3], x[cols+40] = float32(math.Inf(1)), float32(math.NaN())
		for i := range cols {
			x[2*cols+i] = 1e-42 // subnormal
			x[3*cols+i] = 0
		}
		got := multiply(t, d, q, x, 4, false)
		for r := range rows {
			if !math.IsNaN(float64(got[r])) || !math.IsNaN(float64(got[rows+r])) {
				t.Errorf("%s: infinity gives %v, NaN gives %v", isa, got[r], got[rows+r])
			}
			if v := math.Abs(float64(got[2*rows+r])); !(v < 1e-38) || got[3*rows+r] != 0 {
				t.Errorf("%s: subnormals give %v, zeros %v", isa, v, got[3*rows+r])
			}
		}
	}
}

func silu64(x float64) float64 { return x / (1 + math.Exp(-x)) }

// ffnCase is a random ExpertFFN with its inputs on a device.
type ffnCase struct {
	op    kernels.ExpertFFN
	want  []float64 // (slots, dim)
	slots int
}

func newFFN(t *testing.T, d *Device, types [3]quant.Type, dim, width, rows int, seed uint64,
	landed bool) ffnCase {
	rng := rand.New(rand.NewPCG(6, seed))
	x := normal(rng, rows*dim)
	c := ffnCase{slots: 2 * rows}
	c.op = kernels.ExpertFFN{X: floats(t, d, x), Out: alloc(t, d, 4*c.slots*dim), Dim: dim,
		Width: width}
	c.want = make([]float64, c.slots*dim)
	slot := int32(0)
	for e := range 4 {
		var ex kernels.Expert
		var flat [3][]float32
		for i, to := range []*kernels.Weight{&ex.Gate, &ex.Up, &ex.Down} {
			r, k := width, dim
			if i == 2 {
				r, k = dim, width
			}
			b := weights(rng, types[i], r, k)
			flat[i] = decode(types[i], b, r*k)
			w, memory := place(t, d, types[i], r, k, b, e)
			if landed {
				w = land(t, d, w, memory)
			}
			*to = w
		}
		for r := range rows {
			if e < 3 && rng.IntN(3) > 0 && int(slot) < c.slots { // expert 3 stays empty
				ex.Rows, ex.Slots = append(ex.Rows, int32(r)), append(ex.Slots, slot)
				row := x[r*dim : (r+1)*dim]
				g, u := reference(flat[0], row, width, dim, 1), reference(flat[1], row, width, dim, 1)
				hidden := make([]float32, width)
				for i := range hidden {
					hidden[i] = float32(silu64(g[i]) * u[i])
				}
				copy(c.want[int(slot)*dim:], reference(flat[2], hidden, dim, width, 1))
				slot++
			}
		}
		c.op.Experts = append(c.op.Experts, ex)
	}
	return c
}

func TestExpertFFN(t *testing.T) {
	cases := []struct {
		types      [3]quant.Type
		dim, width int
	}{
		{[3]quant.Type{quant.Q4_0, quant.Q4_0, quant.Q4_0}, 128, 96},
		{[3]quant.Type{quant.Q4_K, quant.Q4_K, quant.Q6_K}, 256, 512},
		{[3]quant.Type{quant.Q8_0, quant.F32, quant.BF16}, 64, 48},
		{[3]quant.Type{quant.F16, quant.Q5_1, quant.Q4_0}, 96, 32},
		{[3]quant.Type{quant.F32, quant.F32, quant.F32}, 33, 19},
	}
	for isa, d := range machine(t, 2) {
		for i, c := range cases {
			for _, rows := range []int{1, 3, 150} {
				var first []float32
				for _, landed := range []bool{false, true} {
					f := newFFN(t, d, c.types, c.dim, c.width, rows, uint64(i), landed)
					name := fmt.Sprintf("%s, case %d, %d rows, landed %v", isa, i, rows, landed)
					run(t, d, &f.op)
					got := append([]float32(nil), f.op.Out.Float32s()...)
					// Hidden rows are quantised too: twice the error of one product, and more where
					// gate and up differ from the mean.
					if e := normError(got, f.want); !(e < 2.5*intTolerance) {
						t.Errorf("%s: error %g", name, e)
					}
					if first == nil {
						first = got
					}
					sameBits(t, name, got, first)
					f.op.Exact = true
					run(t, d, &f.op)
					if e := normError(f.op.Out.Float32s(), f.want); !(e < 2*exactTolerance) {
						t.Errorf("%s, exact: error %g", name, e)
					}
				}
			}
		}
	}
}

func TestExpertRowsDoNotDependOnTheirNeighbours(t *testing.T) {
	d := open(t, "", 2)
	types := [3]quant.Type{quant.Q4_0, quant.Q4_0, quant.Q5_K}
	f := newFFN(t, d, types, 256, 256, 30, 9, true)
	run(t, d, &f.op)
	dim := f.op.Dim
	all := append([]float32(nil), f.op.Out.Float32s()...)
	for _, e := range f.op.Experts {
		for i := range e.Rows {
			one := f.op
			one.Experts = []kernels.Expert{e}
			one.Experts[0].Rows, one.Experts[0].Slots = e.Rows[i:i+1], e.Slots[i:i+1]
			clear(one.Out.Host())
			run(t, d, &one)
			at := int(e.Slots[i]) * dim
			sameBits(t, fmt.Sprintf("row %d", e.Rows[i]), one.Out.Float32s()[at:at+dim], all[at:at+dim])
		}
	}
}
