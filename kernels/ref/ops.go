package ref

import (
	"fmt"
	"math"

	"github.com/moering/moering/kernels"
)

func (x *executor) embed(v *view, o *kernels.Embed) error {
	table := v.matrix(&o.Table)
	dim := table.cols
	ids, out := v.ints(o.IDs, o.Rows), v.floats(o.Out, o.Rows*dim)
	if v.err != nil {
		return v.err
	}
	for t, id := range ids {
		if id < 0 || int(id) >= table.rows {
			return fmt.Errorf("%w: row %d: token %d of %d", kernels.ErrDevice, t, id, table.rows)
		}
		table.row(int(id), out[t*dim:][:dim])
	}
	return nil
}

func (x *executor) rmsNorm(v *view, o *kernels.RMSNorm) error {
	in, out := v.floats(o.X, o.Rows*o.Dim), v.floats(o.Out, o.Rows*o.Dim)
	gain := v.floats(o.Gain, o.Dim)
	if v.err != nil {
		return v.err
	}
	for t := range o.Rows {
		row, to := in[t*o.Dim:][:o.Dim], out[t*o.Dim:][:o.Dim]
		sum := 0.0
		for _, e := range row {
			sum += float64(e) * float64(e)
		}
		root := math.Sqrt(sum/float64(o.Dim) + float64(o.Eps))
		for i, e := range row {
			to[i] = float32(float64(e) / root * float64(gain[i]))
		}
	}
	return nil
}

func (x *executor) matMul(v *view, o *kernels.MatMul) error {
	for i := range o.Terms {
		term := &o.Terms[i]
		w := v.matrix(&term.W)
		in, out := v.floats(o.X, o.Rows*w.cols), v.floats(term.Out, o.Rows*w.rows)
		bias := v.floats(term.Bias, w.rows)
		if v.err != nil {
			return v.err
		}
		if o.Rows == 0 {
			continue
		}
		x.parallel(w.rows, w.cols*(o.Rows+2), func(from, to int) {
			row := make([]float32, w.cols)
			for r := from; r < to; r++ {
				w.row(r, row)
				for t := range o.Rows {
					p := dot(row, in[t*w.cols:][:w.cols])
					if bias != nil {
						p += float64(bias[r])
					}
					y := &out[t*w.rows+r]
					if term.Accumulate {
						*y += float32(p)
					} else {
						*y = float32(p)
					}
				}
			}
		})
	}
	return nil
}

func (x *executor) rope(v *view, o *kernels.RoPE) error {
	half, dim := o.Rotated/2, o.HeadDim
	in := v.floats(o.X, o.Rows*o.Heads*dim)
	cos, sin := v.floats(o.Cos, o.Rows*half), v.floats(o.Sin, o.Rows*half)
	if v.err != nil {
		return v.err
	}
	for t := range o.Rows {
		for h := range o.Heads {
			head := in[(t*o.Heads+h)*dim:][:dim]
			for i := range half {
				first, second := i, i+half
				if o.Interleaved {
					first, second = 2*i, 2*i+1
				}
				a, b := float64(head[first]), float64(head[second])
				c, s := float64(cos[t*half+i]), float64(sin[t*half+i])
				head[first], head[second] = float32(a*c-b*s), float32(b*c+a*s)
			}
		}
	}
	return nil
}

func (x *executor) route(v *view, o *kernels.Route) error {
	n, k := o.Experts, o.TopK
	logits := v.floats(o.Logits, o.Rows*n)
	ids, weights := v.ints(o.IDs, o.Rows*k), v.floats(o.Weights, o.Rows*k)
	if v.err != nil {
		return v.err
	}
	taken := make([]bool, n)
	for t := range o.Rows {
		row := logits[t*n:][:n]
		clear(taken)
		top := math.Inf(-1)
		for _, l := range row {
			top = max(top, float64(l))
		}
		all, chosen := 0.0, 0.0
		for _, l := range row {
			all += math.Exp(float64(l) - top)
		}
		for j := range k {
			// The softmax keeps order, so the logits are compared: they tie only where they are equal.
			id := largest(row, taken)
			taken[id] = true
			ids[t*k+j] = int32(id)
			chosen += math.Exp(float64(row[id]) - top)
		}
		if o.Normalize {
			all = chosen
		}
		for j := range k {
			weights[t*k+j] = float32(math.Exp(float64(row[ids[t*k+j]])-top) / all)
		}
	}
	return nil
}

// largest returns the first index of the greatest value that is not taken.
func largest(row []float32, taken []bool) int {
	best := -1
	for i, v := range row {
		if !taken[i] && (best < 0 || v > row[best]) {
			best = i
		}
	}
	return best
}

func (x *executor) gatherRows(v *view, o *kernels.GatherRows) error {
	n := int(o.X.Bytes / 4 / int64(o.Dim))
	in, index := v.floats(o.X, n*o.Dim), v.ints(o.Index, o.Rows)
	out := v.floats(o.Out, o.Rows*o.Dim)
	if v.err != nil {
		return v.err
	}
	for i, r := range index {
		if r < 0 || int(r) >= n {
			return fmt.Errorf("%w: index %d: row %d of %d", kernels.ErrDevice, i, r, n)
		}
		copy(out[i*o.Dim:][:o.Dim], in[int(r)*o.Dim:])
	}
	return nil
}
