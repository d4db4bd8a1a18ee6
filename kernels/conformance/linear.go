package conformance

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// embedTrial looks rows up in a table that is not landed. Values may differ by the rounding of one
// fused multiply-add.
func embedTrial(kind quant.Type) maker {
	return func(rng *rand.Rand) trial {
		w := newWeight(rng, kind, 1+rng.IntN(40), columns(rng, kind))
		rows := batch(rng)
		ids := make([]int32, rows)
		for i := range ids {
			ids[i] = int32(rng.IntN(w.rows))
		}
		ids[0] = int32(w.rows - 1)
		return trial{
			shape: fmt.Sprintf("rows %d, table %dx%d", rows, w.rows, w.cols), rows: rows,
			optional: !isRequired(kind),
			run: func(m *machine, pick []int) [][]float32 {
				out := m.output("Out", len(pick)*w.cols)
				m.run(&kernels.Embed{Table: m.published("Table", w),
					IDs: m.ints("IDs", rowsOf(ids, 1, pick)), Out: out, Rows: len(pick)})
				return [][]float32{m.read(out)}
			},
			tolerance: func(_, _ int, want []float32) float64 { return 4 * unit * norm(want) },
		}
	}
}

var normTrial maker = func(rng *rand.Rand) trial {
	rows, dim, inPlace := batch(rng), 1+rng.IntN(300), rng.IntN(2) == 0
	x, gain := activations(rng, rows, dim), gaussian(rng, dim, 1)
	eps := [...]float32{1e-6, 1e-5, 1e-3}[rng.IntN(3)]
	if rng.IntN(3) == 0 { // a row where Eps counts, and one of subnormal numbers
		for i := range dim {
			x[i] = float32(rng.NormFloat64() * 1e-3)
			x[(rows-1)*dim+i] = float32(rng.NormFloat64() * 1e-39)
		}
	}
	return trial{
		shape: fmt.Sprintf("rows %d, dim %d, in place %v", rows, dim, inPlace), rows: rows,
		run: func(m *machine, pick []int) [][]float32 {
			in := rowsOf(x, dim, pick)
			op := &kernels.RMSNorm{Gain: m.floats("Gain", gain), Rows: len(pick), Dim: dim, Eps: eps}
			if inPlace {
				op.X = m.changing("X", in)
				op.Out = op.X
			} else {
				op.X, op.Out = m.floats("X", in), m.output("Out", len(in))
			}
			m.run(op)
			return [][]float32{m.read(op.Out)}
		},
		tolerance: func(_, _ int, want []float32) float64 { return summing(dim) * norm(want) },
	}
}

var ropeTrial maker = func(rng *rand.Rand) trial {
	rows, heads, dim := batch(rng), 1+rng.IntN(5), 1+rng.IntN(80)
	half := rng.IntN(dim/2 + 1)
	x := gaussian(rng, rows*heads*dim, 1)
	cos, sin := make([]float32, rows*half), make([]float32, rows*half)
	for i := range cos {
		s, c := math.Sincos(rng.Float64() * 7)
		cos[i], sin[i] = float32(1.2*c), float32(1.2*s) // with an attention factor
	}
	interleaved := rng.IntN(2) == 0
	shape := fmt.Sprintf("rows %d, heads %d, head dim %d, rotated %d, interleaved %v", rows, heads,
		dim, 2*half, interleaved)
	return trial{
		shape: shape, rows: rows,
		run: func(m *machine, pick []int) [][]float32 {
			s := m.changing("X", rowsOf(x, heads*dim, pick))
			m.run(&kernels.RoPE{X: s, Cos: m.floats("Cos", rowsOf(cos, half, pick)),
				Sin: m.floats("Sin", rowsOf(sin, half, pick)), Rows: len(pick), Heads: heads,
				HeadDim: dim, Rotated: 2 * half, Interleaved: interleaved})
			got := m.read(s)
			if m.err != nil {
				return nil
			}
			return [][]float32{got, unrotated(got, len(pick)*heads, dim, 2*half)}
		},
		// Two products and a sum, each rounded; elements that do not rotate keep their bits.
		tolerance: func(k, _ int, want []float32) float64 {
			if k == 1 {
				return 0
			}
			return 4 * unit * norm(want)
		},
	}
}

// unrotated returns the elements of each head from index rotated on.
func unrotated(x []float32, heads, dim, rotated int) []float32 {
	var out []float32
	for h := range heads {
		out = append(out, x[h*dim+rotated:(h+1)*dim]...)
	}
	return out
}

var gatherTrial maker = func(rng *rand.Rand) trial {
	from, rows, dim := 1+rng.IntN(20), batch(rng), 1+rng.IntN(100)
	x, index := gaussian(rng, from*dim, 1), make([]int32, rows)
	for i := range index {
		index[i] = int32(rng.IntN(from))
	}
	return trial{
		shape: fmt.Sprintf("rows %d of %d, dim %d", rows, from, dim), rows: rows,
		run: func(m *machine, pick []int) [][]float32 {
			out := m.output("Out", len(pick)*dim)
			m.run(&kernels.GatherRows{X: m.floats("X", x),
				Index: m.ints("Index", rowsOf(index, 1, pick)), Out: out, Rows: len(pick), Dim: dim})
			return [][]float32{m.read(out)}
		},
		tolerance: func(int, int, []float32) float64 { return 0 },
	}
}

// product is one term of a MatMul.
type product struct {
	w          *hostWeight
	bias       []float32 // nil: none
	before     []float32 // what Out holds; nil: not accumulated
	accumulate bool
}

func matMulTrial(kind quant.Type, exact bool) maker {
	return func(rng *rand.Rand) trial {
		kinds := make([]quant.Type, 1+rng.IntN(3))
		for i := range kinds {
			kinds[i] = kind
		}
		tr := multiply(rng, kinds, exact)
		tr.optional = !isRequired(kind)
		return tr
	}
}

// mixedTrial multiplies with matrices of several types at once, as the layers of published mixed
// quantisations do.
var mixedTrial maker = func(rng *rand.Rand) trial {
	kinds := make([]quant.Type, 2+rng.IntN(3))
	for i := range kinds {
		kinds[i] = required[rng.IntN(len(required))]
	}
	return multiply(rng, kinds, rng.IntN(2) == 0)
}

func multiply(rng *rand.Rand, kinds []quant.Type, exact bool) trial {
	rows, cols := batch(rng), columns(rng, kinds...)
	x := activations(rng, rows, cols)
	shape := fmt.Sprintf("rows %d, inputs %d, exact %v", rows, cols, exact)
	terms := make([]product, len(kinds))
	for i := range terms {
		p := product{w: newWeight(rng, kinds[i], outputs(rng), cols)}
		if rng.IntN(2) == 0 {
			p.bias = gaussian(rng, p.w.rows, 1)
		}
		if rng.IntN(3) == 0 {
			p.before, p.accumulate = gaussian(rng, rows*p.w.rows, 1), true
		}
		terms[i] = p
		shape += fmt.Sprintf("; %v x %d, bias %v, accumulate %v", kinds[i], p.w.rows,
			p.bias != nil, p.accumulate)
	}
	return trial{
		shape: shape, rows: rows,
		run: func(m *machine, pick []int) [][]float32 {
			op := &kernels.MatMul{X: m.floats("X", rowsOf(x, cols, pick)), Rows: len(pick),
				Exact: exact}
			for i := range terms {
				op.Terms = append(op.Terms, terms[i].on(m, pick))
			}
			m.run(op)
			var out [][]float32
			for _, t := range op.Terms {
				out = append(out, m.read(t.Out))
			}
			return out
		},
		tolerance: func(k, row int, want []float32) float64 {
			return terms[k].tolerance(row, x[row*cols:][:cols], want, !exact)
		},
	}
}

func (p *product) on(m *machine, pick []int) kernels.Term {
	t := kernels.Term{W: m.weight("W", p.w), Accumulate: p.accumulate}
	if p.bias != nil {
		t.Bias = m.floats("Bias", p.bias)
	}
	if p.accumulate {
		t.Out = m.changing("Out", rowsOf(p.before, p.w.rows, pick))
	} else {
		t.Out = m.output("Out", len(pick)*p.w.rows)
	}
	return t
}

// tolerance adds to the product's own error the rounding of bias and accumulation.
func (p *product) tolerance(row int, x, want []float32, int8 bool) float64 {
	variance := 0.0
	for _, e := range p.w.errors(x, int8) {
		variance += e * e
	}
	parts := norm(want) + norm(p.bias)
	if p.accumulate {
		parts += norm(p.before[row*p.w.rows:][:p.w.rows])
	}
	t := math.Sqrt(variance)
	if int8 && p.w.kind.IsQuantized() {
		t *= deviations
	}
	return t + 2*unit*parts
}
