package sched

import (
	"cmp"
	"slices"
)

// Sweep is the throughput regime's order: every pass goes through the layers and uses nearly every
// group of each, so that what is read when is known in advance. For such a cycle the best cache
// keeps a fixed subset; one that follows recency has thrown each group away just before it comes
// again.
//
// In a layer the groups that stay are computed first, while those that stream are read. The subset
// is spread evenly over the layers, so that each loads as much as any other while it computes.
type Sweep struct {
	experts int
	order   []int32 // groups, layer by layer, those that stay first
	stay    []bool
	after   []int32 // group → the next one that streams, round the cycle; -1: none does
}

// NewSweep plans a cycle over layers of experts each, group layer*experts+e being expert e, of
// which so many places stay. counts, if not nil, are uses of groups so far: each layer keeps its
// most used.
func NewSweep(layers, experts, places int, counts []uint32) *Sweep {
	s := &Sweep{experts: experts}
	n := layers * experts
	s.order, s.after, s.stay = make([]int32, n), make([]int32, n), make([]bool, n)
	places = min(max(places, 0), n)
	for l := range layers {
		of := s.order[l*experts : (l+1)*experts]
		for e := range of {
			of[e] = int32(l*experts + e)
		}
		if counts != nil {
			slices.SortStableFunc(of, func(a, b int32) int { return cmp.Compare(counts[b], counts[a]) })
		}
		for i := range of { // this layer's even share of the places
			s.stay[of[i]] = i < (l+1)*places/layers-l*places/layers
		}
	}
	next := int32(absent)
	for range 2 { // the second time round knows what follows the last layer
		for i := n - 1; i >= 0; i-- {
			s.after[s.order[i]] = next
			if !s.stay[s.order[i]] {
				next = s.order[i]
			}
		}
	}
	return s
}

// Layer is the order in which a layer's groups are computed, those that stay first.
func (s *Sweep) Layer(layer int) []int32 { return s.order[layer*s.experts : (layer+1)*s.experts] }

// Stays reports whether a group is of the fixed subset.
func (s *Sweep) Stays(group int) bool { return s.stay[group] }

// After is the group to read after another one, round the cycle and on into the next pass: the next
// in order that does not stay, or -1.
func (s *Sweep) After(group int) int { return int(s.after[group]) }
