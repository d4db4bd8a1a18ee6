package sched

import "math"

// Rates of use are kept over three spans of passes, halving after so many; together they span what
// a sentence, a paragraph and a text repeat. Other choices of three to five spans gave the same
// hits.
const (
	reuseSpans = 3
	reuseStep  = 0.003 // of the learned weights; 0.0003 to 0.003 gave the same hits within 0.5 %
	reuseLeast = 1e-4  // the least probability believed
	reuseBlur  = 0.05  // keeps the step finite where all rates are 0
)

// reuse ranks groups by the expected number of layers until they are used again: the distance to
// their layer, and a turn over all layers for each pass that is expected to go by without them. It
// is what Belady's optimum knows, estimated. The probability that a pass uses a group is a weighted
// sum of its rates over short, middle and long spans; the weights are learned from how well they
// predicted every group of every pass (normalised least mean squares), so that a model whose
// experts are faithful and one whose experts wander are both served.
//
// In a sweep that uses every group each pass all probabilities are equal, and any fixed subset gives as
// many hits as the optimum. But not as much speed: the groups that were there first are whole layers, in
// which the disk has nothing to read, before others in which there is nothing to compute. So after some
// passes that used nearly everything the first groups of every layer are preferred: each layer then has
// its share to compute while the rest of it is read. Cost: 60 ns a group and pass, and 15 ns a place
// when a victim is looked for.
type reuse struct {
	layerOf []int32
	first   []int32 // layer → its first group; one more than layers
	layers  float64
	layer   int32 // of the last use
	rates   [][reuseSpans]float64
	wait    []float64 // turns until the next use, times layers
	used    []bool    // in the present layer, by the pass under way
	swept   int       // layers left in a row of which nearly all groups had been used
	weights [reuseSpans]float64
	keep    [reuseSpans]float64
}

func newReuse(o PolicyOptions) *reuse {
	layers := int(o.LayerOf[o.Groups-1]) + 1
	p := &reuse{layerOf: o.LayerOf, first: make([]int32, layers+1), layers: float64(layers),
		rates: make([][reuseSpans]float64, o.Groups), wait: make([]float64, o.Groups),
		used: make([]bool, o.Groups)}
	for g, l := range o.LayerOf {
		p.first[l+1] = int32(g + 1)
	}
	for l := range layers { // layers without groups
		p.first[l+1] = max(p.first[l+1], p.first[l])
	}
	for i, passes := range [reuseSpans]float64{2, 16, 128} {
		p.weights[i], p.keep[i] = 1./reuseSpans, math.Exp2(-1/passes)
	}
	for g := range p.wait {
		p.wait[g] = p.turns(0)
	}
	return p
}

// turns is the expected wait beyond the next visit of a group's layer, in layers.
func (p *reuse) turns(probability float64) float64 {
	return p.layers * (1/min(max(probability, reuseLeast), 1) - 1)
}

func (p *reuse) probability(rates *[reuseSpans]float64) (sum float64) {
	for i, r := range rates {
		sum += p.weights[i] * r
	}
	return sum
}

func (p *reuse) Use(group int) {
	if l := p.layerOf[group]; l != p.layer || p.used[group] {
		p.leave()
		p.layer = l
	}
	p.used[group] = true
	next := p.rates[group]
	p.advance(&next, 1)
	p.wait[group] = p.turns(p.probability(&next))
}

func (p *reuse) advance(rates *[reuseSpans]float64, used float64) {
	for i := range rates {
		rates[i] = rates[i]*p.keep[i] + used*(1-p.keep[i])
	}
}

// leave closes the books of the layer that the pass has left.
func (p *reuse) leave() {
	uses, first, end := 0, p.first[p.layer], p.first[p.layer+1]
	for g := first; g < end; g++ {
		used, r := 0.0, &p.rates[g]
		if p.used[g] {
			used = 1
			uses++
		}
		miss, square := used-p.probability(r), reuseBlur
		for _, x := range r {
			square += x * x
		}
		for i, x := range r {
			p.weights[i] += reuseStep * miss * x / square
		}
		p.advance(r, used)
		p.wait[g] = p.turns(p.probability(r))
		p.used[g] = false
	}
	if float64(uses) < throughputShare*float64(end-first) {
		p.swept = 0
	} else if p.swept < sweepPasses*(len(p.first)-1) {
		p.swept++
	}
}

// sweepPasses is how many passes must use nearly everything until the cache is laid out for that: more
// than a prompt of usual length has, after which few rows follow.
const sweepPasses = 4

// sweeps reports whether passes use nearly every group.
func (p *reuse) sweeps() bool { return p.swept == sweepPasses*(len(p.first)-1) }

// index is a group's place in its layer.
func (p *reuse) index(group int) int32 { return int32(group) - p.first[p.layerOf[group]] }

// until is the expected number of layers until the next use.
func (p *reuse) until(group int) float64 {
	d := p.layerOf[group] - p.layer
	if d <= 0 {
		d += int32(len(p.first)) - 1
	}
	return float64(d) + p.wait[group]
}

func (p *reuse) Better(a, b int) bool {
	if p.sweeps() {
		return p.index(a) < p.index(b)
	}
	return p.until(a) < p.until(b)
}
