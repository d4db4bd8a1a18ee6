package conformance

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels"
)

// trial is one op with random inputs.
type trial struct {
	shape string // for messages
	rows  int
	// run executes the op for the picked rows, given in ascending order, and returns its outputs,
	// each row-major over the picked rows.
	run func(m *machine, pick []int) [][]float32
	// tolerance is the largest norm of the error of one row of output k, given the reference's row;
	// zero asks for equal bits.
	tolerance func(k, row int, want []float32) float64
	// whole marks an op whose output is not a function of each row: independence is not checked.
	whole bool
	// optional marks a weight type that the device may decline.
	optional bool
}

// maker draws a trial.
type maker func(rng *rand.Rand) trial

// flushed is the size below which a value may count as zero: a device may treat subnormal numbers
// as zero, and what is computed from them.
const flushed = 1e-30

// round compares the device with the reference for all rows, and then with itself for fewer.
func (mk maker) round(dev, oracle kernels.Device, rng *rand.Rand) error {
	tr := mk(rng)
	pick := make([]int, tr.rows)
	for i := range pick {
		pick[i] = i
	}
	want, err := tr.on(oracle, rng, pick)
	if err != nil {
		return fmt.Errorf("%s: reference: %w", tr.shape, err)
	}
	got, err := tr.on(dev, rng, pick)
	if tr.optional && errors.Is(err, kernels.ErrDevice) {
		return fmt.Errorf("%w: %w", errDeclined, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", tr.shape, err)
	}
	if err := tr.compare(got, want); err != nil {
		return fmt.Errorf("%s: %w", tr.shape, err)
	}
	if tr.whole || tr.rows < 2 {
		return nil
	}
	for _, pick := range subsets(tr.rows, rng) {
		some, err := tr.on(dev, rng, pick)
		if err == nil {
			err = sameBits(some, got, pick, tr.rows)
		}
		if err != nil {
			return fmt.Errorf("%s: rows %v alone: %w", tr.shape, pick, err)
		}
	}
	return nil
}

func (tr *trial) on(dev kernels.Device, rng *rand.Rand, pick []int) ([][]float32, error) {
	m := newMachine(dev, rng)
	out := tr.run(m, pick)
	return out, m.close()
}

// subsets draws sets of rows: the first, the last, one of any size.
func subsets(rows int, rng *rand.Rand) [][]int {
	var some []int
	for r := range rows {
		if rng.IntN(2) == 0 {
			some = append(some, r)
		}
	}
	sets := [][]int{{0}, {rows - 1}}
	if len(some) > 0 {
		sets = append(sets, some)
	}
	return sets
}

func (tr *trial) compare(got, want [][]float32) error {
	rows := tr.rows
	if tr.whole {
		rows = 1
	}
	for k := range want {
		dim := len(want[k]) / rows
		for r := range rows {
			g, w := got[k][r*dim:][:dim], want[k][r*dim:][:dim]
			if err := near(g, w, tr.tolerance(k, r, w)); err != nil {
				return fmt.Errorf("output %d, row %d: %w", k, r, err)
			}
		}
	}
	return nil
}

// near reports an error whose norm exceeds the tolerance. With a tolerance of zero bits are
// equal. What is not finite must not be finite, and no more: the sum of an infinity and its
// products with rounded numbers may be NaN.
func near(got, want []float32, tolerance float64) error {
	sum, worst, at := 0.0, -1.0, 0
	for i := range want {
		if math.Float32bits(got[i]) == math.Float32bits(want[i]) ||
			tolerance != 0 && !isFinite(got[i]) && !isFinite(want[i]) {
			continue
		}
		e := math.Abs(float64(got[i]) - float64(want[i]))
		if tolerance == 0 || !(e <= math.MaxFloat64) {
			return fmt.Errorf("element %d is %v, must be %v", i, got[i], want[i])
		}
		if sum += e * e; e > worst {
			worst, at = e, i
		}
	}
	most := tolerance + flushed*math.Sqrt(float64(len(want)))
	if err := math.Sqrt(sum); err > most {
		return fmt.Errorf("error %.3g, at most %.3g (norm of the row %.3g; worst element %d is %v, "+
			"must be %v)", err, most, norm(want), at, got[at], want[at])
	}
	return nil
}

// sameBits compares picked rows with the same ones among all. NaNs are alike.
func sameBits(some, all [][]float32, pick []int, rows int) error {
	for k := range all {
		dim := len(all[k]) / rows
		for i, r := range pick {
			a, b := some[k][i*dim:][:dim], all[k][r*dim:][:dim]
			for j := range a {
				if math.Float32bits(a[j]) != math.Float32bits(b[j]) && (a[j] == a[j] || b[j] == b[j]) {
					return fmt.Errorf("output %d, row %d, element %d is %v; among all rows %v", k, r,
						j, a[j], b[j])
				}
			}
		}
	}
	return nil
}

// unit is the largest relative error of rounding to float32.
const unit = 1.0 / (1 << 24)

// summing is the relative error allowed to a float32 sum of n random terms. Each of n additions
// errs by up to one unit of a partial sum; independent errors make about sqrt(n)/2 units of the
// result's expected size, and the factor is a margin for the tail of the distribution; the
// constant covers roundings of the terms and of what is done to the sum.
func summing(n int) float64 { return unit * (8 + 4*math.Sqrt(float64(n))) }

func norm(v []float32) float64 { return math.Sqrt(square(v)) }

func square(v []float32) float64 {
	sum := 0.0
	for _, e := range v {
		sum += float64(e) * float64(e)
	}
	return sum
}

// gaussian draws n values; scale is their deviation.
func gaussian(rng *rand.Rand, n int, scale float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64() * scale)
	}
	return v
}

// activations draws rows that look like a model's: most gaussian, some with outliers, of very small
// or large size, or zero.
func activations(rng *rand.Rand, rows, dim int) []float32 {
	v := gaussian(rng, rows*dim, 1)
	for r := range rows {
		row := v[r*dim:][:dim]
		switch rng.IntN(8) {
		case 0:
			for range 1 + dim/64 {
				row[rng.IntN(dim)] *= 12
			}
		case 1:
			scale := float32(math.Pow(10, float64(rng.IntN(24)-16)))
			for i := range row {
				row[i] *= scale
			}
		case 2:
			clear(row[:rng.IntN(dim+1)])
		}
	}
	return v
}

// rowsOf returns the picked rows of v.
func rowsOf[T any](v []T, dim int, pick []int) []T {
	out := make([]T, 0, len(pick)*dim)
	for _, r := range pick {
		out = append(out, v[r*dim:][:dim]...)
	}
	return out
}

// batch draws a number of rows: often one, sometimes more than any tile of a kernel.
func batch(rng *rand.Rand) int {
	return [...]int{1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33}[rng.IntN(12)]
}
