// Package sched decides and touches nothing: which groups of weights stay, which are read next, how
// a budget is split. It has no clock, no I/O and no goroutines, so that a recorded trace replays
// exactly. Groups are small integers; what they are is the caller's business.
package sched

import (
	"fmt"
	"strings"
)

// Policy ranks groups for a cache. The number of places bounds memory; a policy never does. Among
// equals the resident stays, so that a cyclic sweep keeps a fixed subset and does not flood.
// Use and Better allocate nothing. It is not safe for concurrent use.
type Policy interface {
	// Use records that a group was wanted, whether it was there or not.
	Use(group int)
	// Better reports that a deserves a place more than b does.
	Better(a, b int) bool
}

// PolicyOptions describe what a policy ranks.
type PolicyOptions struct {
	Groups int
	// LayerOf is each group's layer, ascending from 0; a pass uses groups in that order. nil:
	// unknown.
	LayerOf []int32
	// Places is how many groups stay. TinyLFU forgets by it; 0: as many as there are groups.
	Places int
	// Counts is the profile of the static policy: how often each group was used elsewhere.
	Counts []uint32
}

// PolicyNames are the names that New knows, the default first.
func PolicyNames() []string {
	return []string{"reuse", "lfu", "tinylfu", "stale", "lru", "clock", "static"}
}

// New returns the policy of that name:
//
//	reuse    by the expected time until the next use, learned; needs LayerOf
//	lfu      by counts that survive eviction and are halved now and then
//	tinylfu  by a count-min sketch of bounded size that ages (W-TinyLFU, arXiv 1512.00727)
//	stale    what this pass has used already or passed by goes first; needs LayerOf
//	lru      by last use; floods when a token's cycle over the layers exceeds the cache
//	clock    the ring's own second chance, for which nothing is ranked: for a ring that moors nothing
//	static   by Counts, which it needs, whatever happens
//
// "" is reuse, or lfu where the layers are not known.
func (o PolicyOptions) New(name string) (Policy, error) {
	if name == "" {
		name = "lfu"
		if o.LayerOf != nil {
			name = "reuse"
		}
	}
	switch name {
	case "reuse", "stale":
		if len(o.LayerOf) != o.Groups || o.Groups == 0 {
			return nil, fmt.Errorf("cache policy %q needs the layer of each of %d groups", name, o.Groups)
		}
		if name == "stale" {
			return newStale(o), nil
		}
		return newReuse(o), nil
	case "lfu":
		return &lfu{counts: make([]uint32, o.Groups)}, nil
	case "tinylfu":
		return newTinyLFU(o), nil
	case "lru", "clock":
		return &lru{last: make([]uint64, o.Groups)}, nil
	case "static":
		if len(o.Counts) != o.Groups {
			return nil, fmt.Errorf("cache policy \"static\" needs a profile of %d groups, and has %d",
				o.Groups, len(o.Counts))
		}
		return static(o.Counts), nil
	}
	return nil, fmt.Errorf("unknown cache policy %q; use one of %s", name,
		strings.Join(PolicyNames(), ", "))
}

// NewPolicy is New for groups of which no more is known.
func NewPolicy(name string, groups int) (Policy, error) {
	return PolicyOptions{Groups: groups}.New(name)
}

// agePeriod is how many uses a group, on average, until counts are halved, so that old traffic is
// forgotten. Of 1 to 64, 2 to 4 gave the most hits on the traces of docs/decisions/0008.
const agePeriod = 4

// lfu counts uses; counts survive eviction, without which frequency cannot beat recency.
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

// lru prefers what was used last.
type lru struct {
	last []uint64
	now  uint64
}

func (p *lru) Use(g int)            { p.now++; p.last[g] = p.now }
func (p *lru) Better(a, b int) bool { return p.last[a] > p.last[b] }

// static prefers what a profile saw most, for ever.
type static []uint32

func (static) Use(int)                {}
func (p static) Better(a, b int) bool { return p[a] > p[b] }
