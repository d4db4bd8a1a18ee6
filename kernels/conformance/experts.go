package conformance

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// routeTrial has logits on a grid of 1/64: they are equal, and then the lower index goes first, or
// so far apart that no rounding can exchange them.
var routeTrial maker = func(rng *rand.Rand) trial {
	rows, experts := batch(rng), 1+rng.IntN(130)
	topK := 1 + rng.IntN(min(experts, 10))
	grid := [...]int{2, 16, 512}[rng.IntN(3)] // few values tie often
	shift := float32([...]int{0, 0, 1000, -1000}[rng.IntN(4)])
	logits := make([]float32, rows*experts)
	for i := range logits {
		logits[i] = float32(rng.IntN(2*grid)-grid)/64 + shift
	}
	normalize := rng.IntN(2) == 0
	return trial{
		shape: fmt.Sprintf("rows %d, experts %d, top %d, normalize %v, grid %d, shift %v", rows,
			experts, topK, normalize, grid, shift),
		rows: rows,
		run: func(m *machine, pick []int) [][]float32 {
			n := len(pick) * topK
			ids, weights := m.output("IDs", n), m.output("Weights", n)
			m.run(&kernels.Route{Logits: m.floats("Logits", rowsOf(logits, experts, pick)), IDs: ids,
				Weights: weights, Rows: len(pick), Experts: experts, TopK: topK,
				Normalize: normalize})
			return [][]float32{m.readInts(ids), m.read(weights)}
		},
		// An exponential (8 units) and the sum over the experts, which are all positive.
		tolerance: func(k, _ int, want []float32) float64 {
			if k == 0 {
				return 0
			}
			return (8*unit + summing(experts)) * norm(want)
		},
	}
}

var combineTrial maker = func(rng *rand.Rand) trial {
	rows, dim, topK := batch(rng), 1+rng.IntN(100), rng.IntN(9)
	shared, gated := rng.IntN(2) == 0 || topK == 0, rng.IntN(2) == 0
	plain := topK == 1 && rng.IntN(2) == 0 // a weight of one
	x, y := gaussian(rng, rows*dim, 1), gaussian(rng, rows*topK*dim, 1)
	s, gate := gaussian(rng, rows*dim, 1), gaussian(rng, rows, 2)
	weights, ids := gaussian(rng, rows*topK, 0.3), make([]int32, 0, rows*topK)
	for range rows {
		for _, id := range rng.Perm(topK + 5)[:topK] {
			ids = append(ids, int32(id))
		}
	}
	return trial{
		shape: fmt.Sprintf("rows %d, dim %d, top %d, shared %v, gated %v, plain %v", rows, dim, topK,
			shared, gated, plain),
		rows: rows,
		run: func(m *machine, pick []int) [][]float32 {
			op := &kernels.Combine{X: m.changing("X", rowsOf(x, dim, pick)), Rows: len(pick), Dim: dim,
				TopK: topK}
			if topK > 0 {
				op.Y = m.floats("Y", rowsOf(y, topK*dim, pick))
			}
			if topK > 0 && !plain {
				op.IDs = m.ints("IDs", rowsOf(ids, topK, pick))
				op.Weights = m.floats("Weights", rowsOf(weights, topK, pick))
			}
			if shared {
				op.Shared = m.floats("Shared", rowsOf(s, dim, pick))
			}
			if shared && gated {
				op.SharedGate = m.floats("SharedGate", rowsOf(gate, 1, pick))
			}
			m.run(op)
			return [][]float32{m.read(op.X)}
		},
		// The order and each rounding are prescribed, so bits are equal; but not of the exponential in
		// the shared expert's gate (8 units, and what they change in two sums).
		tolerance: func(_, row int, want []float32) float64 {
			if !shared || !gated {
				return 0
			}
			return 12 * unit * (norm(want) + norm(s[row*dim:][:dim]) + norm(x[row*dim:][:dim]))
		},
	}
}

// feed is a layer of experts and the rows that chose them: row t has the slots t*topK .. +topK-1.
type feed struct {
	dim, width, topK int
	gate, up, down   []*hostWeight // of each expert
	chosen           []int         // (rows, topK) experts
	x                []float32
}

func newFeed(rng *rand.Rand, kind quant.Type) *feed {
	rows, experts := min(batch(rng), 9), 1+rng.IntN(4)
	f := &feed{dim: columns(rng, kind), width: columns(rng, kind), topK: 1 + rng.IntN(min(experts, 3))}
	for range experts {
		f.gate = append(f.gate, newWeight(rng, kind, f.width, f.dim))
		f.up = append(f.up, newWeight(rng, kind, f.width, f.dim))
		f.down = append(f.down, newWeight(rng, kind, f.dim, f.width))
	}
	for range rows {
		f.chosen = append(f.chosen, rng.Perm(experts)[:f.topK]...)
	}
	f.x = gaussian(rng, rows*f.dim, 1)
	return f
}

func expertsTrial(kind quant.Type, exact bool) maker {
	return func(rng *rand.Rand) trial {
		f := newFeed(rng, kind)
		rows := len(f.chosen) / f.topK
		return trial{
			shape: fmt.Sprintf("rows %d, dim %d, width %d, experts %d, top %d, exact %v", rows, f.dim,
				f.width, len(f.gate), f.topK, exact),
			rows: rows, optional: !isRequired(kind),
			run: func(m *machine, pick []int) [][]float32 { return f.run(m, pick, exact) },
			tolerance: func(_, row int, _ []float32) float64 {
				variance := 0.0
				for _, e := range f.chosen[row*f.topK:][:f.topK] {
					variance += f.variance(e, f.x[row*f.dim:][:f.dim], !exact)
				}
				return deviations * math.Sqrt(variance)
			},
		}
	}
}

// run gives every expert to the op, those without rows too.
func (f *feed) run(m *machine, pick []int, exact bool) [][]float32 {
	out := m.output("Out", len(pick)*f.topK*f.dim)
	op := &kernels.ExpertFFN{X: m.floats("X", rowsOf(f.x, f.dim, pick)), Out: out, Dim: f.dim,
		Width: f.width, Exact: exact}
	for e := range f.gate {
		x := kernels.Expert{Gate: m.weight("Gate", f.gate[e]), Up: m.weight("Up", f.up[e]),
			Down: m.weight("Down", f.down[e])}
		for i, row := range pick {
			for j, c := range f.chosen[row*f.topK:][:f.topK] {
				if c == e {
					x.Rows = append(x.Rows, int32(i))
					x.Slots = append(x.Slots, int32(i*f.topK+j))
				}
			}
		}
		op.Experts = append(op.Experts, x)
	}
	m.run(op)
	return [][]float32{m.read(out)}
}

// variance follows the errors of the two products through silu(g)*u, whose derivatives are at most
// 1.1*u and silu(g), adds that of an exponential (8 units) and of rounding the hidden values, and
// takes the sum through the last product.
func (f *feed) variance(e int, x []float32, int8 bool) float64 {
	hidden, errs := make([]float32, f.width), make([]float64, f.width)
	ofGate, ofUp := f.gate[e].errors(x, int8), f.up[e].errors(x, int8)
	for r := range f.width {
		g, u := f.gate[e].dot(r, x), f.up[e].dot(r, x)
		silu := g / (1 + math.Exp(-g))
		a, b, c := 1.1*u*ofGate[r], silu*ofUp[r], 8*unit*silu*u
		hidden[r] = float32(silu * u)
		errs[r] = a*a + b*b + c*c
	}
	sum := 0.0
	for o, err := range f.down[e].errors(hidden, int8) {
		sum += err * err
		for r, w := range f.down[e].row(o) {
			sum += float64(w) * float64(w) * errs[r]
		}
	}
	return sum
}
