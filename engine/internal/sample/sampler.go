package sample

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// pcgStream is the second half of the generator's seed; any fixed number does.
const pcgStream = 0x6d6f6572696e6721

// Sampler chooses tokens. It draws exactly one random number a call of Sample, greedy or not, so
// that the seed and the number of calls before determine the draw. In steady state nothing is
// allocated. A Sampler is not safe for concurrent use.
type Sampler struct {
	p       Params
	random  rand.PCG
	scratch *Scratch
}

// Scratch is room for the candidates of one call, as large as the vocabulary; the zero value works.
// Samplers that one goroutine uses may share one.
type Scratch struct{ candidates []candidate }

// candidate is a token that may still be chosen.
type candidate struct {
	weight float64 // probability, but for a common factor; the best token has 1
	score  float32 // logit after the repetition penalty
	id     int32
}

// before is the order of candidates: greater scores first, among equals the lower id.
func (c candidate) before(d candidate) bool {
	return c.score > d.score || c.score == d.score && c.id < d.id
}

// New returns a Sampler, or an error that wraps ErrParams and names the parameter.
func New(p Params) (*Sampler, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if p.RepetitionWindow == 0 {
		p.RepetitionWindow = WindowDefault
	}
	if p.RepetitionPenalty == 0 {
		p.RepetitionPenalty = 1
	}
	if p.TopP == 0 {
		p.TopP = 1
	}
	s := &Sampler{p: p, scratch: &Scratch{}}
	s.random.Seed(p.Seed, pcgStream)
	return s, nil
}

// Share makes s use a scratch that other samplers use too, never at the same time.
func (s *Sampler) Share(scratch *Scratch) { s.scratch = scratch }

// Skip spends the draws of n calls of Sample, for a sequence whose first n tokens are known.
func (s *Sampler) Skip(n int) {
	for range n {
		s.random.Uint64()
	}
}

// Sample returns the token that follows history, whose last tokens the repetition penalty looks at;
// ids in it that are no index of logits are passed over. Logits are not modified. -Inf excludes a
// token. Greedy choice, and every cut between equals, prefers the lower id. NaN, +Inf, and logits
// that exclude every token give an error that wraps ErrLogits; a draw is spent on those too.
func (s *Sampler) Sample(logits []float32, history []int32) (int32, error) {
	u := float64(s.random.Uint64()>>11) * 0x1p-53
	if err := check(logits); err != nil {
		return 0, err
	}
	if s.p.Temperature == 0 && s.p.RepetitionPenalty == 1 {
		return greedy(logits), nil
	}
	c := s.penalised(logits, history)
	best := first(c)
	if s.p.Temperature == 0 {
		return best.id, nil
	}
	if k := s.p.TopK; k > 0 && k < len(c) {
		selectFirst(c, k)
		c = c[:k]
	}
	total := weigh(c, best.score, s.p.Temperature)
	if s.p.TopP < 1 {
		c, total = nucleus(c, float64(s.p.TopP)*total)
	}
	if s.p.MinP > 0 {
		c, total = atLeast(c, float64(s.p.MinP))
	}
	return draw(c, u*total), nil
}

func check(logits []float32) error {
	possible := false
	for i, v := range logits {
		if v != v || v > math.MaxFloat32 {
			return fmt.Errorf("%w: logit of token %d is %v", ErrLogits, i, v)
		}
		possible = possible || v >= -math.MaxFloat32
	}
	if !possible {
		return fmt.Errorf("%w: none of %d tokens is possible", ErrLogits, len(logits))
	}
	return nil
}

func greedy(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best)
}

// penalised fills the candidates, in order of id, with the logits; those of recent tokens are
// lowered, once, however often the token occurs (Keskar et al. 2019, CTRL, section 4.1, with the
// sign rule of transformers).
func (s *Sampler) penalised(logits []float32, history []int32) []candidate {
	if cap(s.scratch.candidates) < len(logits) {
		s.scratch.candidates = make([]candidate, len(logits))
	}
	c := s.scratch.candidates[:len(logits)]
	for i, v := range logits {
		c[i] = candidate{score: v, id: int32(i)}
	}
	if s.p.RepetitionPenalty == 1 {
		return c
	}
	recent := history[max(0, len(history)-s.p.RepetitionWindow):]
	for _, id := range recent {
		if id < 0 || int(id) >= len(logits) {
			continue
		}
		v := logits[id]
		if v < 0 {
			v *= s.p.RepetitionPenalty
		} else {
			v /= s.p.RepetitionPenalty
		}
		// A tiny penalty must not make an infinity out of a number.
		c[id].score = min(v, math.MaxFloat32)
	}
	return c
}

func first(c []candidate) candidate {
	best := c[0]
	for _, d := range c[1:] {
		if d.before(best) {
			best = d
		}
	}
	return best
}

// weigh sets the weights and returns their sum. The difference is divided, not the logits, so that
// no temperature overflows.
func weigh(c []candidate, best, temperature float32) float64 {
	total := 0.0
	for i := range c {
		// The best itself has weight 1 even where 0/temperature would be 0/0 or best is -Inf.
		w := 1.0
		if c[i].score != best {
			w = math.Exp((float64(c[i].score) - float64(best)) / float64(temperature))
		}
		c[i].weight = w
		total += w
	}
	return total
}

// nucleus keeps the candidates before which, in order, there is less than mass; at least one
// (Holtzman et al. 2020). It returns them, in any order, and the sum of their weights.
func nucleus(c []candidate, mass float64) ([]candidate, float64) {
	low, high, sum := 0, len(c), 0.0 // c[:low] stays and weighs sum; c[high:] goes
	for low < high {
		mid := partition(c[low:high]) + low
		upper := sum
		for _, d := range c[low:mid] {
			upper += d.weight
		}
		if upper >= mass { // the cut lies among the heavier ones
			high = mid
			continue
		}
		low, sum = mid+1, upper+c[mid].weight
	}
	if low == 0 { // mass is 0 to rounding
		selectFirst(c, 1)
		return c[:1], c[0].weight
	}
	return c[:low], sum
}

// atLeast keeps the candidates that weigh a share of the best one (Nguyen et al. 2024, min-p).
func atLeast(c []candidate, share float64) (kept []candidate, total float64) {
	best := 0.0
	for _, d := range c {
		best = max(best, d.weight)
	}
	kept = c[:0]
	for _, d := range c {
		if d.weight >= share*best {
			kept = append(kept, d)
			total += d.weight
		}
	}
	return kept, total
}

// draw returns the candidate at which the running sum of weights passes target.
func draw(c []candidate, target float64) int32 {
	last := int32(0)
	for _, d := range c {
		if d.weight == 0 {
			continue // target may be 0, and what is impossible must not be chosen
		}
		last = d.id
		if target -= d.weight; target < 0 {
			break
		}
	}
	return last
}
