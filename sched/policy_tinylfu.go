package sched

import "math/bits"

// Dimensions of TinyLFU's sketch: four rows, counters to 15, and a sample of ten uses a place after
// which they are halved, as the paper has them.
const (
	sketchRows    = 4
	sketchMost    = 15
	sampleFactor  = 10
	sketchLeast   = 64
	sketchPerSlot = 4
)

// tinyLFU estimates how often a group was used of late from a count-min sketch whose size depends
// on the cache and not on what passes through it (Einziger, Friedman, Manes: TinyLFU, arXiv
// 1512.00727). The ring is the window of W-TinyLFU: a new group is used there before it may
// displace another. The victim is the resident with the lowest estimate rather than the tail of a
// segmented LRU, since groups are few enough to look at all; of equals, the one whose use is longer
// ago.
type tinyLFU struct {
	rows   [sketchRows][]uint8
	mask   uint64
	uses   int
	sample int
}

func newTinyLFU(o PolicyOptions) *tinyLFU {
	places := o.Places
	if places == 0 {
		places = o.Groups
	}
	width := max(1<<bits.Len(uint(sketchPerSlot*places-1)), sketchLeast)
	p := &tinyLFU{mask: uint64(width - 1), sample: sampleFactor * places}
	for i := range p.rows {
		p.rows[i] = make([]uint8, width)
	}
	return p
}

// slot is a group's counter in a row: a multiplicative hash with a different odd number for each.
func (p *tinyLFU) slot(row, group int) *uint8 {
	h := (uint64(group) + 1) * (0x9e3779b97f4a7c15 + 2*uint64(row)*0xbf58476d1ce4e5b9)
	h ^= h >> 32
	return &p.rows[row][h*0x94d049bb133111eb>>20&p.mask]
}

func (p *tinyLFU) estimate(group int) uint8 {
	least := uint8(sketchMost)
	for row := range p.rows {
		least = min(least, *p.slot(row, group))
	}
	return least
}

// Use raises the lowest of the group's counters only (conservative update), and ages all of them
// when the sample is full.
func (p *tinyLFU) Use(group int) {
	if e := p.estimate(group); e < sketchMost {
		for row := range p.rows {
			if c := p.slot(row, group); *c == e {
				*c++
			}
		}
	}
	if p.uses++; p.uses < p.sample {
		return
	}
	p.uses /= 2
	for _, row := range p.rows {
		for i := range row {
			row[i] /= 2
		}
	}
}

func (p *tinyLFU) Better(a, b int) bool { return p.estimate(a) > p.estimate(b) }
