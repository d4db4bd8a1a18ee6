package sched

import (
	"cmp"
	"slices"
)

// TierDemand is what a model wants of host and device memory where the device has its own. Bytes.
type TierDemand struct {
	HostBudget   int64
	DeviceBudget int64
	HostFixed    int64   // the program itself, weights that stay on the host
	DeviceFixed  int64   // context, activations, weights that always stay on the device
	Dense        []int64 // each layer's dense weights, as a section holds them
	KVToken      int64   // on the device
	KVTokensMin  int64
	KVTokensWant int64
	Section      int64 // an expert on the device
	Slab         int64 // an expert on the host, as it is read
	Groups       int64
	Sections     int64 // of the device's ring beside its cache; 0: chosen
	Staging      int64 // slabs for reads and copies under way; 0: as many as the device's ring
}

// TierPlacement is how two budgets are split.
type TierPlacement struct {
	Dense     DensePlacement // on the device
	DenseHost []bool         // layers whose streamed dense weights are kept on the host
	KVTokens  int64
	Ring      int64 // device sections that stream
	Cache     int64 // device sections that keep groups
	Staging   int64 // host slabs that stream
	HostCache int64 // host slabs that keep groups which the device does not
	HostFree  int64 // what is left over where everything fits
	// HostDense is the bytes of dense weights that the host keeps.
	HostDense int64
	// LeastHost and LeastDevice are the smallest budgets that work.
	LeastHost, LeastDevice int64
	FitsHost, FitsDevice   bool
}

// PlaceTiers splits both budgets. On the device as Place does. On the host: staging, then dense
// weights that stream, which every token wants, then a cache of experts that are not on the device;
// what does not fit is read from disk when it is wanted.
func PlaceTiers(d TierDemand) TierPlacement {
	on := Place(Demand{Budget: d.DeviceBudget, Fixed: d.DeviceFixed, KVToken: d.KVToken,
		KVTokensMin: d.KVTokensMin, KVTokensWant: d.KVTokensWant, Section: d.Section,
		Groups: d.Groups, Sections: d.Sections, Dense: d.Dense})
	p := TierPlacement{Dense: on.Dense, KVTokens: on.KVTokens, Ring: on.Ring, Cache: on.Cache,
		LeastDevice: on.Least, FitsDevice: on.Fits, DenseHost: make([]bool, len(d.Dense))}
	stagingMin := min(int64(ringSectionsMin), d.Groups)
	p.Staging = max(d.Staging, stagingMin)
	// A dense layer that streams from disk is read into staging too.
	slab := d.Slab
	if on.Dense.Sections > 0 {
		slab = max(slab, on.Dense.Section)
	}
	p.LeastHost = d.HostFixed + p.Staging*slab
	p.FitsHost = d.HostBudget >= p.LeastHost
	if !p.FitsHost || !p.FitsDevice {
		return p
	}
	if d.Staging == 0 {
		p.Staging = min(max(stagingMin, p.Ring), max(stagingMin, (d.HostBudget-d.HostFixed)/slab/4))
	}
	free := d.HostBudget - d.HostFixed - p.Staging*slab
	for l, n := range d.Dense {
		if !on.Dense.Stays[l] && n <= free {
			p.DenseHost[l] = true
			p.HostDense += n
			free -= n
		}
	}
	p.HostCache = min(free/d.Slab, d.Groups-p.Cache)
	p.HostFree = free - p.HostCache*d.Slab
	return p
}

// Rates are what was measured at open of two devices and the bus between them. Seconds.
type Rates struct {
	BusBytesPerS       float64 // host to device, page-locked memory
	BusSeconds         float64 // of starting a copy
	DeviceGroupSeconds float64 // of touching an expert's weights on the device
	DeviceRowSeconds   float64 // of one row in it
	HostGroupSeconds   float64 // the same on the processor
	HostRowSeconds     float64
	RowBytes           float64 // of a row's activations to the host and of its result back
}

// bus is the time to bring bytes across.
func (r Rates) bus(bytes float64) float64 {
	if r.BusBytesPerS <= 0 {
		return r.BusSeconds
	}
	return r.BusSeconds + bytes/r.BusBytesPerS
}

// move is how long an expert that is moved keeps the pair of bus and device busy: a copy runs while
// the expert before it is computed, so that the longer of the two counts.
func (r Rates) move(bytes int64, rows int) float64 {
	return max(r.bus(float64(bytes)), r.DeviceGroupSeconds+float64(rows)*r.DeviceRowSeconds)
}

// compute is how long an expert that stays where it is keeps the processor busy.
func (r Rates) compute(rows int) float64 {
	return r.HostGroupSeconds + float64(rows)*r.HostRowSeconds +
		r.bus(float64(rows)*r.RowBytes)
}

// MoveOrCompute decides for one expert of so many bytes that lies in host memory and is wanted for
// so many rows: true to move it to the device, false to compute it on the processor. The queues are
// the seconds of work that bus and processor have before them.
func MoveOrCompute(r Rates, bytes int64, rows int, busQueue, hostQueue float64) (move bool) {
	moved := busQueue + r.move(bytes, rows) + r.DeviceGroupSeconds +
		float64(rows)*r.DeviceRowSeconds
	return moved <= hostQueue+r.compute(rows)
}

// Splitter divides a layer's experts between moving and computing. It reuses its memory, and is not
// safe for concurrent use.
type Splitter struct{ order []int }

// Split decides for the experts of a layer together, all of so many bytes, which lie in host memory
// and are wanted for rows[i] rows: move[i] is set for those to be moved, so that the later of the
// two ends is as early as can be. It returns the seconds until then. Since a move costs about the
// same whatever the rows, and computing on the processor grows with them, those with the most rows
// move: the best number of them is found by trying each.
func (s *Splitter) Split(r Rates, bytes int64, rows []int, move []bool) (seconds float64) {
	s.order = s.order[:0]
	host := 0.0
	for i, n := range rows {
		s.order = append(s.order, i)
		host += r.compute(n)
		move[i] = false
	}
	slices.SortFunc(s.order, func(a, b int) int {
		return cmp.Or(cmp.Compare(rows[b], rows[a]), cmp.Compare(a, b))
	})
	seconds, moved, bus := host, 0, 0.0
	for k, i := range s.order {
		bus += r.move(bytes, rows[i])
		host -= r.compute(rows[i])
		// The last one that moves is computed after its copy.
		end := max(bus+r.DeviceGroupSeconds+float64(rows[i])*r.DeviceRowSeconds, host)
		if end < seconds {
			seconds, moved = end, k+1
		}
	}
	for _, i := range s.order[:moved] {
		move[i] = true
	}
	return seconds
}
