package conformance

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// extremesTrial multiplies rows that are no ordinary numbers, each beside ordinary rows:
// infinities and NaNs, which must leave outputs that are not finite, subnormal numbers, numbers
// near the ends of float32, zeros. One row of the matrix may be infinite, where the format has
// infinities: so are its outputs, and no others.
func extremesTrial(kind quant.Type, exact bool) maker {
	return func(rng *rand.Rand) trial {
		cols := columns(rng, kind)
		w := newWeight(rng, kind, outputs(rng), cols)
		spoiled := w.spoil(rng)
		x, what := extremes(rng, cols)
		return trial{
			shape: fmt.Sprintf("%v x %d, infinite row %d; inputs %d, exact %v: %v", kind, w.rows, spoiled, cols,
				exact, what),
			rows: len(what), optional: !isRequired(kind),
			run: func(m *machine, pick []int) [][]float32 {
				out := m.output("Out", len(pick)*w.rows)
				m.run(&kernels.MatMul{X: m.floats("X", rowsOf(x, cols, pick)), Rows: len(pick), Exact: exact,
					Terms: []kernels.Term{{W: m.weight("W", w), Out: out}}})
				return [][]float32{m.read(out)}
			},
			tolerance: func(_, row int, want []float32) float64 {
				finite := make([]float32, len(want))
				for i, v := range want {
					if isFinite(v) {
						finite[i] = v
					}
				}
				p := product{w: w}
				// Of zeros nothing is left but NaNs beside infinite weights, whose bits are free.
				return p.tolerance(0, x[row*cols:][:cols], finite, !exact) + flushed
			},
		}
	}
}

// extremes draws a row of each kind, in any order.
func extremes(rng *rand.Rand, cols int) (x []float32, what []string) {
	fill := map[string]func(row []float32){
		"ordinary": func([]float32) {},
		"infinite": func(row []float32) { row[rng.IntN(cols)] = float32(math.Inf(1 - 2*rng.IntN(2))) },
		"NaN":      func(row []float32) { row[rng.IntN(cols)] = float32(math.NaN()) },
		"zero":     func(row []float32) { clear(row) },
		"subnormal": func(row []float32) {
			for i := range row {
				row[i] = math.Float32frombits(rng.Uint32() & 0x807FFFFF)
			}
		},
		"least": func(row []float32) { // whose scale would be below every subnormal number
			for i := range row {
				row[i] = math.Float32frombits(uint32(rng.IntN(3)))
			}
		},
		"huge": func(row []float32) {
			for i := range row {
				row[i] *= 1e30
			}
		},
		"one of 1e30": func(row []float32) { row[rng.IntN(cols)] = 1e30 },
	}
	names := []string{"ordinary", "infinite", "NaN", "zero", "subnormal", "least", "huge", "one of 1e30",
		"ordinary"}
	for _, i := range rng.Perm(len(names)) {
		row := gaussian(rng, cols, 1)
		fill[names[i]](row)
		x, what = append(x, row...), append(what, names[i])
	}
	return x, what
}

// spoil makes a row of the matrix infinite, in places, and returns which; -1 if the format, or
// chance, has none. What the row would add to tolerances is left out.
func (w *hostWeight) spoil(rng *rand.Rand) int {
	if w.rows < 2 || len(halves(w.kind)) == 0 && !w.kind.IsFloat() || rng.IntN(3) == 0 {
		return -1
	}
	r := rng.IntN(w.rows)
	size, block := w.kind.BlockBytes(), w.kind.BlockSize()
	i := rng.IntN(w.cols / block)
	b := w.data[(r*w.cols/block+i)*size:][:size]
	switch w.kind {
	case quant.F32:
		binary.LittleEndian.PutUint32(b, math.Float32bits(float32(math.Inf(1))))
	case quant.BF16:
		binary.LittleEndian.PutUint16(b, 0x7F80)
	case quant.F16:
		binary.LittleEndian.PutUint16(b, 0x7C00)
	default:
		binary.LittleEndian.PutUint16(b[halves(w.kind)[0]:], 0x7C00)
	}
	_ = quant.Decode(w.kind, w.row(r), w.data[r*w.cols/block*size:][:w.cols/block*size])
	clear(w.squares[r*w.chunks():][:w.chunks()])
	return r
}

func isFinite(v float32) bool { return v-v == 0 }
