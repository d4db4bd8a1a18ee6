// Package sched decides and touches nothing: which groups of weights stay, which are read next, how
// a budget is split. It has no clock, no I/O and no goroutines, so that a recorded trace replays
// exactly. Groups are small integers; what they are is the caller's business.
package sched

import "fmt"

// Policy ranks groups for a cache. The number of places bounds memory; a policy never does.
// It is not safe for concurrent use.
type Policy interface {
	// Use records that a group was wanted, whether it was there or not.
	Use(group int)
	// Better reports that a deserves a place more than b does.
	Better(a, b int) bool
}

// NewPolicy returns the policy of that name for a number of groups: "lfu" (also ""), "lru",
// "clock". The last is the ring's own second chance, for which nothing is ranked: it is meant for a
// ring that moors nothing.
func NewPolicy(name string, groups int) (Policy, error) {
	switch name {
	case "", "lfu":
		return &lfu{counts: make([]uint32, groups)}, nil
	case "lru", "clock":
		return &lru{last: make([]uint64, groups)}, nil
	}
	return nil, fmt.Errorf("unknown cache policy %q; use lfu, lru or clock", name)
}

// agePeriod is how many uses a group, on average, until counts are halved, so that old traffic is
// forgotten.
const agePeriod = 16

// lfu counts uses; counts survive eviction, without which frequency cannot beat recency. Among
// equals the resident stays, so that a cyclic sweep keeps a fixed subset and does not flood.
type lfu struct {
	counts []uint32
	uses   int
}

func (p *lfu) Use(g int) {
	p.counts[g]++
	if p.uses++; p.uses >= agePeriod*len(p.counts) {
		p.uses = 0
		for i := range p.counts {
			p.counts[i] /= 2
		}
	}
}

func (p *lfu) Better(a, b int) bool { return p.counts[a] > p.counts[b] }

// lru prefers what was used last. It floods when a token's cycle over the layers exceeds the cache.
type lru struct {
	last []uint64
	now  uint64
}

func (p *lru) Use(g int)            { p.now++; p.last[g] = p.now }
func (p *lru) Better(a, b int) bool { return p.last[a] > p.last[b] }
