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
	// DenseSection is a section that holds any layer's dense weights (attention, shared experts).
	DenseSection int64
	Layers       int64 // that have dense weights; 0: they are part of Fixed
}

// Placement is how a budget is split.
type Placement struct {
	KVTokens int64
	Ring     int64 // sections that stream
	Cache    int64 // sections that keep groups
	Dense    int64 // sections of dense weights; fewer than layers: they stream
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

// DenseRing is the least number of sections for dense weights that do not all fit: the present
// layer's, the next one's on its way, and one whose kernels may still run.
const DenseRing = 3

// Place splits a budget: fixed parts first, then the least of everything, then dense weights, which
// every token uses, then the KV cache up to a quarter of what is left, and the rest to the ring and
// the expert cache.
func Place(d Demand) Placement {
	ringMin := min(max(d.Sections, ringSectionsMin), d.Groups)
	denseMin := min(DenseRing, d.Layers)
	least := d.Fixed + d.KVTokensMin*d.KVToken + ringMin*d.Section
	p := Placement{Least: least + denseMin*d.DenseSection}
	if d.Budget < p.Least {
		return p
	}
	p.Fits = true
	p.Dense = fitting(d.Budget-least, d.DenseSection, d.Layers)
	free := d.Budget - d.Fixed - p.Dense*d.DenseSection
	p.KVTokens = kvTokens(free, ringMin*d.Section, d.KVToken, d.KVTokensMin, d.KVTokensWant)
	sections := min((free-p.KVTokens*d.KVToken)/d.Section, d.Groups)
	p.Ring = ringSections(sections, ringMin, d.Sections)
	p.Cache = sections - p.Ring
	return p
}

// fitting is how many sections fit, at most so many.
func fitting(bytes, section, most int64) int64 {
	if section == 0 {
		return most
	}
	return min(bytes/section, most)
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

// HostDemand is what a device with memory of its own wants of the host's. Bytes throughout.
type HostDemand struct {
	Budget       int64
	Fixed        int64 // staging, the host's copies of inputs and results, the program itself
	Section      int64
	Groups       int64
	DenseSection int64
	Layers       int64
	DenseStreams bool // on the device: then every pass wants all of it
}

// HostPlacement is how the host's budget is split.
type HostPlacement struct {
	Sections int64 // for experts: those that stream, and the rest keep groups
	Dense    int64 // for dense weights
	Least    int64
	Fits     bool
}

// HostRing is the number of host sections through which groups pass on their way to a device.
const HostRing = 8

// PlaceHost splits the host's budget: what passes takes little; then dense weights, where the device
// has no room for them, since every token needs them; the rest caches experts.
func PlaceHost(d HostDemand) HostPlacement {
	ring, dense := min(HostRing, d.Groups), min(DenseRing, d.Layers)
	p := HostPlacement{Least: d.Fixed + ring*d.Section + dense*d.DenseSection}
	if d.Budget < p.Least {
		return p
	}
	p.Fits, p.Dense = true, dense
	if d.DenseStreams {
		p.Dense += fitting(d.Budget-p.Least, d.DenseSection, d.Layers-dense)
	}
	p.Sections = fitting(d.Budget-d.Fixed-p.Dense*d.DenseSection, d.Section, d.Groups)
	return p
}
