package ref

import (
	"fmt"
	"math"

	"github.com/moering/moering/kernels"
)

func (x *executor) expertFFN(v *view, o *kernels.ExpertFFN) error {
	rows, slots := int(o.X.Bytes/4)/o.Dim, int(o.Out.Bytes/4)/o.Dim
	in, out := v.floats(o.X, rows*o.Dim), v.floats(o.Out, slots*o.Dim)
	seen := make([]bool, slots)
	for i := range o.Experts {
		e := &o.Experts[i]
		if len(e.Rows) == 0 {
			continue
		}
		gate, up, down := v.matrix(&e.Gate), v.matrix(&e.Up), v.matrix(&e.Down)
		if v.err != nil {
			return v.err
		}
		for _, s := range e.Slots {
			if seen[s] {
				return fmt.Errorf("%w: expert %d: slot %d twice", kernels.ErrDevice, i, s)
			}
			seen[s] = true
		}
		x.expert(o, e, gate, up, down, in, out)
	}
	return v.err
}

// expert computes one expert's rows. The hidden values stay in float64.
func (x *executor) expert(o *kernels.ExpertFFN, e *kernels.Expert, gate, up, down matrix,
	in, out []float32) {
	n, dim, width := len(e.Rows), o.Dim, o.Width
	hidden := make([]float64, n*width)
	x.parallel(width, 2*dim*(n+2), func(from, to int) {
		g, u := make([]float32, dim), make([]float32, dim)
		for r := from; r < to; r++ {
			gate.row(r, g)
			up.row(r, u)
			for i, t := range e.Rows {
				row := in[int(t)*dim:][:dim]
				hidden[i*width+r] = silu(dot(g, row)) * dot(u, row)
			}
		}
	})
	x.parallel(dim, width*(n+2), func(from, to int) {
		d := make([]float32, width)
		for r := from; r < to; r++ {
			down.row(r, d)
			for i, slot := range e.Slots {
				out[int(slot)*dim+r] = float32(dot(d, hidden[i*width:][:width]))
			}
		}
	})
}

func silu(x float64) float64 { return x * sigmoid(x) }

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func (x *executor) combine(v *view, o *kernels.Combine) error {
	n, k, dim := o.Rows, o.TopK, o.Dim
	to, y := v.floats(o.X, n*dim), v.floats(o.Y, n*k*dim)
	ids, weights := v.ints(o.IDs, n*k), v.floats(o.Weights, n*k)
	shared, gate := v.floats(o.Shared, n*dim), v.floats(o.SharedGate, n)
	if v.err != nil {
		return v.err
	}
	order, sum := make([]int, k), make([]float32, dim)
	for t := range n {
		clear(sum)
		if ids != nil {
			ascending(order, ids[t*k:][:k])
		}
		for _, j := range order {
			weight := float32(1)
			if weights != nil {
				weight = weights[t*k+j]
			}
			addScaled(sum, weight, y[(t*k+j)*dim:][:dim])
		}
		if shared != nil {
			weight := float32(1)
			if gate != nil {
				weight = float32(sigmoid(float64(gate[t])))
			}
			addScaled(sum, weight, shared[t*dim:][:dim])
		}
		for i, s := range sum {
			to[t*dim+i] += s
		}
	}
	return nil
}

// addScaled adds weight*y to sum, product and sum each rounded to float32.
func addScaled(sum []float32, weight float32, y []float32) {
	for i := range sum {
		sum[i] += float32(weight * y[i])
	}
}

// ascending fills order with the positions of ids, sorted by id; equal ids keep their order.
func ascending(order []int, ids []int32) {
	for j := range order {
		i := j
		for ; i > 0 && ids[order[i-1]] > ids[j]; i-- {
			order[i] = order[i-1]
		}
		order[i] = j
	}
}
