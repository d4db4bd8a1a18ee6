package conformance

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels/quant"
)

// hostWeight is a matrix as it would lie in a file, and its values.
type hostWeight struct {
	kind       quant.Type
	rows, cols int
	data       []byte
	values     []float32
	squares    []float64 // (rows, chunks): the sum of squares of each 32 values of a row
}

// encodedOneIn is how often a row of a block type is encoded, which takes time; the others are
// random.
const encodedOneIn = 4

// newWeight draws a matrix. Block types have random bits in most rows, or in all without an
// encoder, so that every code appears (-128 in Q8_0, too); scales are finite, some of them
// negative, zero or subnormal.
func newWeight(rng *rand.Rand, kind quant.Type, rows, cols int) *hostWeight {
	size, ok := kind.RowBytes(int64(cols))
	if !ok {
		panic("conformance: columns are not whole blocks")
	}
	w := &hostWeight{kind: kind, rows: rows, cols: cols, data: make([]byte, size*int64(rows)),
		values: make([]float32, rows*cols)}
	for r := range rows {
		row := w.data[int64(r)*size:][:size]
		if kind.CanEncode() && (kind.IsFloat() || r%encodedOneIn == 0) {
			// Gaussian values are in range for every encoder.
			_ = quant.Encode(kind, row, gaussian(rng, cols, 0.05))
			continue
		}
		for ; len(row) > 0; row = row[kind.BlockBytes():] {
			randomBlock(rng, kind, row[:kind.BlockBytes()])
		}
	}
	_ = quant.Decode(kind, w.values, w.data) // of the right length by construction
	for r := range rows {
		for row := w.row(r); len(row) > 0; row = row[min(32, len(row)):] {
			w.squares = append(w.squares, square(row[:min(32, len(row))]))
		}
	}
	return w
}

// halves returns where the half-precision scales of a block lie.
func halves(kind quant.Type) []int {
	switch kind {
	case quant.Q4_1, quant.Q5_1, quant.Q4_K, quant.Q5_K:
		return []int{0, 2}
	case quant.Q2_K:
		return []int{80, 82}
	case quant.Q3_K:
		return []int{108}
	case quant.Q6_K:
		return []int{208}
	case quant.MXFP4:
		return nil
	}
	return []int{0}
}

// largestCode is the magnitude that a code times its small scale reaches, so that random blocks of
// all types have values of the same size.
func largestCode(kind quant.Type) float64 {
	switch kind {
	case quant.Q8_0, quant.IQ4NL:
		return 128
	case quant.Q2_K:
		return 15 * 3
	case quant.Q3_K:
		return 32 * 4
	case quant.Q4_K:
		return 63 * 15
	case quant.Q5_K:
		return 63 * 31
	case quant.Q6_K:
		return 128 * 32
	case quant.IQ4XS:
		return 32 * 127
	}
	return 16
}

func randomBlock(rng *rand.Rand, kind quant.Type, b []byte) {
	var bits [8]byte
	for rest := b; len(rest) > 0; rest = rest[min(8, len(rest)):] {
		binary.LittleEndian.PutUint64(bits[:], rng.Uint64())
		copy(rest, bits[:])
	}
	if kind == quant.Q8_0 && rng.IntN(4) == 0 {
		for i := 2; i < len(b); i++ {
			b[i] = 0x80 // -128, which a kernel that takes magnitudes gets wrong
		}
	}
	if kind == quant.MXFP4 {
		b[0] = byte(118 + rng.IntN(6))
		if rng.IntN(16) == 0 {
			b[0] = byte(rng.IntN(3))
		}
	}
	for _, at := range halves(kind) {
		scale := (0.5 + rng.Float64()) * 0.1 / largestCode(kind)
		switch rng.IntN(16) {
		case 0:
			scale = -scale
		case 1:
			scale = 0
		case 2:
			scale = math.Ldexp(1, -20)
		}
		binary.LittleEndian.PutUint16(b[at:], quant.F32ToF16(float32(scale)))
	}
}

// row returns the values of row r.
func (w *hostWeight) row(r int) []float32 { return w.values[r*w.cols:][:w.cols] }

// hasMinimum reports a type whose values are a product minus (or plus) an offset.
func hasMinimum(kind quant.Type) bool {
	switch kind {
	case quant.Q4_1, quant.Q5_1, quant.Q2_K, quant.Q4_K, quant.Q5_K:
		return true
	}
	return false
}

// minimumShare is how much larger than the values the two parts of a type with a minimum may be:
// the errors are those of the parts.
const minimumShare = 3

// errors returns the deviations to expect in the products of all rows with x, for a float32 sum
// and, in int8, for activations rounded in steps of 1/127 of the largest of each 32: a step's
// square / 12 is the variance of a rounding, and the roundings are independent.
func (w *hostWeight) errors(x []float32, int8 bool) []float64 {
	relative := summing(w.cols)
	sum := relative * relative * square(x) / float64(w.cols)
	var steps []float64 // the variance of a rounding in each 32
	if int8 && w.kind.IsQuantized() {
		for i := 0; i < w.cols; i += 32 {
			top := 0.0
			for _, v := range x[i : i+32] {
				top = max(top, math.Abs(float64(v)))
			}
			steps = append(steps, top*top/(127*127*12))
		}
	}
	out := make([]float64, w.rows)
	for r := range out {
		variance := 0.0
		for i, sq := range w.squares[r*w.chunks():][:w.chunks()] {
			variance += sq * sum
			if steps != nil {
				variance += sq * steps[i]
			}
		}
		if hasMinimum(w.kind) {
			variance *= minimumShare * minimumShare
		}
		out[r] = math.Sqrt(variance)
	}
	return out
}

// chunks returns how many times 32 inputs a row has, rounded up.
func (w *hostWeight) chunks() int { return (w.cols + 31) / 32 }

// dot is the product of row r with x.
func (w *hostWeight) dot(r int, x []float32) float64 {
	sum := 0.0
	for i, v := range w.row(r) {
		sum += float64(v) * float64(x[i])
	}
	return sum
}

// deviations is how many deviations an error may reach: the trials have some ten thousand rows, of
// which one lies beyond six in a billion.
const deviations = 6

// columns draws a number of inputs that the types divide.
func columns(rng *rand.Rand, kinds ...quant.Type) int {
	block := 1
	for _, k := range kinds {
		block = max(block, k.BlockSize())
	}
	switch block {
	case 1:
		return 1 + rng.IntN(150)
	case 32:
		return 32 * (1 + rng.IntN(7))
	}
	return block * (1 + rng.IntN(2))
}

// outputs draws a number of rows of a matrix: often a multiple of 16, often not.
func outputs(rng *rand.Rand) int {
	if rng.IntN(2) == 0 {
		return 16 * (1 + rng.IntN(4))
	}
	return 1 + rng.IntN(50)
}
