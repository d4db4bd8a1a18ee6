package sched

// stale ranks by the pass's way through the layers, after SpecMD's least-stale eviction: what the
// present layer and those before it hold will not be wanted until the next pass comes by, and of
// that, what this pass did not use is stale and goes first, the longest unused before others. What
// the layers ahead hold is wanted soonest and stays, the latest used longest.
type stale struct {
	layerOf []int32
	last    []uint64 // pass of the last use
	layer   int32    // of the last use of all
	pass    uint64
}

func newStale(o PolicyOptions) *stale {
	return &stale{layerOf: o.LayerOf, last: make([]uint64, o.Groups), layer: -1, pass: 1}
}

func (p *stale) Use(group int) {
	l := p.layerOf[group]
	if l < p.layer || l == p.layer && p.last[group] == p.pass {
		p.pass++
	}
	p.layer = l
	p.last[group] = p.pass
}

func (p *stale) Better(a, b int) bool {
	if x, y := p.layerOf[a] > p.layer, p.layerOf[b] > p.layer; x != y {
		return x
	}
	return p.last[a] > p.last[b]
}
