package sched

import (
	"cmp"
	"slices"
)

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
