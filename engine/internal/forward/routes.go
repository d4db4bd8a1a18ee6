package forward

import "github.com/moering/moering/engine/internal/arch"

// routes is the token permutation of a layer: for each expert that was chosen, the rows that chose
// it and the slots (row*topK + rank) that receive its outputs. Buffers are reused.
type routes struct {
	base   int     // group of the layer's expert 0
	groups []int   // ascending
	start  []int32 // expert → first entry; one more than experts
	rows   []int32
	slots  []int32
	one    []int32 // not nil: every row goes to the only group
}

func (r *routes) init(chunk int, m *arch.Model) {
	r.groups = make([]int, 0, max(m.Experts, 1))
	r.start = make([]int32, max(m.Experts, 1)+1)
	r.rows = make([]int32, chunk*max(m.TopK, 1))
	r.slots = make([]int32, chunk*max(m.TopK, 1))
}

// build sorts the router's choices (rows, topK) by expert, stably: a counting sort.
func (r *routes) build(ids []int32, m *arch.Model, layer int) {
	r.base, r.one = m.ExpertAt(layer, 0), nil
	clear(r.start)
	for _, id := range ids {
		r.start[id+1]++
	}
	r.groups = r.groups[:0]
	for e := range m.Experts {
		if r.start[e+1] > 0 {
			r.groups = append(r.groups, r.base+e)
		}
		r.start[e+1] += r.start[e]
	}
	for slot, id := range ids {
		at := r.start[id]
		r.rows[at], r.slots[at] = int32(slot/m.TopK), int32(slot)
		r.start[id]++
	}
	// Each start now stands at its end, which is the next one's start.
	copy(r.start[1:], r.start)
	r.start[0] = 0
}

// everyone routes all rows to the layer's only group, groups[0]. The rows must not change: kernels of
// earlier layers may still read them.
func (r *routes) everyone(rows []int32) { r.one = rows }

func (r *routes) of(group int) (rows, slots []int32) {
	if r.one != nil {
		return r.one, r.one
	}
	a, b := r.start[group-r.base], r.start[group-r.base+1]
	return r.rows[a:b], r.slots[a:b]
}
