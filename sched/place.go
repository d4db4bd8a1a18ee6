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
}

// Placement is how a budget is split.
type Placement struct {
	KVTokens int64
	Ring     int64 // sections that stream
	Cache    int64 // sections that keep groups
	Least    int64 // the smallest budget that works
	Fits     bool
}

// Bounds of the chosen number of ring sections: two let reading and computing overlap; beyond
// sixteen, a section is worth more in the cache.
const (
	ringSectionsMin = 2
	ringSectionsMax = 16
	kvShare         = 4 // at most a quarter of what is free goes to the KV cache
)

// Place splits a budget: fixed parts first, then the least of everything, then the KV cache up to
// a quarter of what is left, and the rest to the ring and the expert cache.
func Place(d Demand) Placement {
	ringMin := min(max(d.Sections, ringSectionsMin), d.Groups)
	p := Placement{Least: d.Fixed + d.KVTokensMin*d.KVToken + ringMin*d.Section}
	if d.Budget < p.Least {
		return p
	}
	p.Fits = true
	free := d.Budget - d.Fixed
	p.KVTokens = min(d.KVTokensWant, max(d.KVTokensMin, free/kvShare/d.KVToken))
	p.KVTokens = max(d.KVTokensMin, min(p.KVTokens, (free-ringMin*d.Section)/d.KVToken))
	sections := min((free-p.KVTokens*d.KVToken)/d.Section, d.Groups)
	p.Ring = ringMin
	if d.Sections == 0 {
		p.Ring = min(sections, max(ringMin, min(sections/4, ringSectionsMax)))
	}
	p.Cache = sections - p.Ring
	return p
}
