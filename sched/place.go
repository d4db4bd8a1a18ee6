package sched

// Demand is what a model wants of a memory budget. Bytes throughout.
type Demand struct {
	Budget       int64
	Fixed        int64 // weights that stay, working memory, the program itself
	KVToken      int64 // key-value cache a token
	KVTokensMin  int64 // the least that is useful: one sequence
	KVTokensWant int64
	Section      int64 // a ring section
	Groups       int64 // more sections than groups are of no use
	Sections     int64 // of the ring beside the cache; 0: chosen
	// Dense is what each layer's dense weights (attention, norms, router, shared experts) take in a
	// section. They stay if they can; else as many layers of them as fit, and the rest stream. nil:
	// they are part of Fixed.
	Dense []int64
}

// Placement is how a budget is split.
type Placement struct {
	KVTokens int64
	Ring     int64 // sections that stream
	Cache    int64 // sections that keep groups
	Least    int64 // the smallest budget that works
	Fits     bool
	Dense    DensePlacement
}

// DensePlacement says which layers' dense weights stay. Those that stream pass through sections of
// their own in the order of the layers, round and round: a fixed subset stays, spread evenly, so
// that every stretch of layers loads as much as any other while it computes.
type DensePlacement struct {
	Stays     []bool // of each layer
	StayBytes int64
	Streams   int64 // bytes that every pass reads
	Sections  int64 // 0: nothing streams
	Section   int64 // bytes
}

// Bounds of the chosen number of ring sections: two let reading and computing overlap; beyond
// sixteen, a section is worth more in the cache.
const (
	ringSectionsMin = 2
	ringSectionsMax = 16
	kvShare         = 4 // at most a quarter of what is free goes to the KV cache
	denseSections   = 2 // one computed, one read
)

// Place splits a budget: fixed parts first, then the least of everything, then dense weights, which
// every token uses, then the KV cache up to a quarter of what is left, and the rest to the ring and
// the expert cache.
func Place(d Demand) Placement {
	ringMin := min(max(d.Sections, ringSectionsMin), d.Groups)
	least := d.Fixed + d.KVTokensMin*d.KVToken + ringMin*d.Section
	dense := placeDense(d.Dense, d.Budget-least)
	p := Placement{Least: least + leastDense(d.Dense), Dense: dense}
	if d.Budget < p.Least {
		return p
	}
	p.Fits = true
	free := d.Budget - d.Fixed - dense.bytes()
	p.KVTokens = kvTokens(free, ringMin*d.Section, d.KVToken, d.KVTokensMin, d.KVTokensWant)
	sections := min((free-p.KVTokens*d.KVToken)/d.Section, d.Groups)
	p.Ring = ringSections(sections, ringMin, d.Sections)
	p.Cache = sections - p.Ring
	return p
}

// kvTokens is a quarter of what is free, between the least and what is wanted, if the ring's least
// remains.
func kvTokens(free, ring, token, least, want int64) int64 {
	if token == 0 {
		return max(least, want)
	}
	n := min(want, max(least, free/kvShare/token))
	return max(least, min(n, (free-ring)/token))
}

// ringSections divides sections between ring and cache.
func ringSections(sections, least, wanted int64) int64 {
	if wanted != 0 {
		return least
	}
	return min(sections, max(least, min(sections/4, ringSectionsMax)))
}

// bytes is what dense weights take: those that stay, and the sections of the others.
func (p DensePlacement) bytes() int64 { return p.StayBytes + p.Sections*p.Section }

// leastDense is the least that dense weights need: all that there is, or two sections.
func leastDense(dense []int64) int64 {
	all, most := int64(0), int64(0)
	for _, n := range dense {
		all, most = all+n, max(most, n)
	}
	return min(all, denseSections*most)
}

// placeDense keeps all layers in so many bytes, or as many as fit beside two sections.
func placeDense(dense []int64, bytes int64) DensePlacement {
	p := DensePlacement{Stays: make([]bool, len(dense))}
	all := int64(0)
	for _, n := range dense {
		all, p.Section = all+n, max(p.Section, n)
	}
	if all <= bytes || len(dense) == 0 {
		p.StayBytes = all
		for l := range p.Stays {
			p.Stays[l] = true
		}
		return p
	}
	p.Sections = denseSections
	for streams := 1; streams <= len(dense); streams++ {
		p.StayBytes, p.Streams = 0, 0
		for l, n := range dense {
			// One of every len/streams layers streams, the last of each stretch.
			p.Stays[l] = (l+1)*streams/len(dense) == l*streams/len(dense)
			if p.Stays[l] {
				p.StayBytes += n
			} else {
				p.Streams += n
			}
		}
		if p.bytes() <= bytes {
			break
		}
	}
	for l, n := range dense { // where layers differ, some more may fit
		if !p.Stays[l] && p.bytes()+n <= bytes {
			p.Stays[l] = true
			p.StayBytes, p.Streams = p.StayBytes+n, p.Streams-n
		}
	}
	return p
}
