package sched

import (
	"cmp"
	"slices"
)

// Rates are what was measured at open of two devices and the bus between them. Seconds, of an expert of
// GroupBytes; the arithmetic of others is taken in proportion.
type Rates struct {
	GroupBytes         int64   `json:"group_bytes"`
	BusBytesPerS       float64 `json:"bus_bytes_per_s"`      // host to device, page-locked memory
	BusSeconds         float64 `json:"bus_seconds"`          // of starting a copy
	DeviceGroupSeconds float64 `json:"device_group_seconds"` // of touching the weights on the device
	DeviceRowSeconds   float64 `json:"device_row_seconds"`   // of one row
	HostGroupSeconds   float64 `json:"host_group_seconds"`   // the same on the processor
	HostRowSeconds     float64 `json:"host_row_seconds"`
	RowBytes           float64 `json:"row_bytes"` // of a row's activations to the host and of its result back
}

// of returns the rates of an expert of so many bytes.
func (r Rates) of(bytes int64) Rates {
	if r.GroupBytes > 0 {
		share := float64(bytes) / float64(r.GroupBytes)
		r.DeviceGroupSeconds *= share
		r.DeviceRowSeconds *= share
		r.HostGroupSeconds *= share
		r.HostRowSeconds *= share
		r.GroupBytes = bytes
	}
	return r
}

// bus is the time to bring bytes across.
func (r Rates) bus(bytes float64) float64 {
	if r.BusBytesPerS <= 0 {
		return r.BusSeconds
	}
	return r.BusSeconds + bytes/r.BusBytesPerS
}

// Move is how long an expert that is moved keeps the pair of bus and device busy: a copy runs while
// the expert before it is computed, so that the longer of the two counts.
func (r Rates) Move(bytes int64, rows int) float64 {
	return max(r.bus(float64(bytes)), r.DeviceGroupSeconds+float64(rows)*r.DeviceRowSeconds)
}

// Compute is how long an expert that stays where it is keeps the processor busy.
func (r Rates) Compute(rows int) float64 {
	return r.HostGroupSeconds + float64(rows)*r.HostRowSeconds +
		r.bus(float64(rows)*r.RowBytes)
}

// Chain divides n blocks of so many bytes, which lie in host memory, are wanted for so many rows each and are
// computed one after the other, as those of a dense model's layers are. It returns how many of them, the last,
// are moved: their copies run under what the processor computes before them. Of equal ends the one with the
// fewest moves counts.
func (r Rates) Chain(bytes int64, n, rows int) (moved int) {
	r = r.of(bytes)
	bus := r.bus(float64(bytes))
	device := r.DeviceGroupSeconds + float64(rows)*r.DeviceRowSeconds
	best := float64(n) * r.Compute(rows)
	for k := 1; k <= n; k++ {
		end := float64(n-k) * r.Compute(rows)
		for j := 1; j <= k; j++ {
			end = max(end, float64(j)*bus) + device
		}
		if end < best {
			best, moved = end, k
		}
	}
	return moved
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
	r = r.of(bytes)
	s.order = s.order[:0]
	host := 0.0
	for i, n := range rows {
		s.order = append(s.order, i)
		host += r.Compute(n)
		move[i] = false
	}
	slices.SortFunc(s.order, func(a, b int) int {
		return cmp.Or(cmp.Compare(rows[b], rows[a]), cmp.Compare(a, b))
	})
	seconds, moved, bus := host, 0, 0.0
	for k, i := range s.order {
		bus += r.Move(bytes, rows[i])
		host -= r.Compute(rows[i])
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
