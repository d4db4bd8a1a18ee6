package batch

import "math/bits"

// Histogram counts values by powers of two: bucket 0 holds 0, bucket i from 2^(i-1) to 2^i - 1. The
// zero value is empty.
type Histogram struct {
	Counts [33]int
	Sum    int64
	Max    int
}

// Add counts a value of at least 0.
func (h *Histogram) Add(v int) {
	h.Counts[min(bits.Len(uint(max(v, 0))), len(h.Counts)-1)]++
	h.Sum += int64(v)
	h.Max = max(h.Max, v)
}

// Total is how many values were counted.
func (h *Histogram) Total() (n int) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}
