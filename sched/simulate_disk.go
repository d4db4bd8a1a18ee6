package sched

import (
	"math/rand/v2"
	"slices"
)

// source is what a tier reads from, in simulated seconds.
type source interface {
	// submit asks for a group.
	submit(group int, c Class, now float64)
	// next is when something happens next; ok is false if nothing is under way.
	next() (at float64, ok bool)
	// pop lets that happen: a group came, or absent.
	pop() (group int)
	// drop takes back what was not started of a group, and reports whether that was all of it; part,
	// that it was some.
	drop(group int, now float64) (all, part bool)
	// promote makes what was not started of a group demand.
	promote(group int)
}

// waiting is groups that were asked for and not started, by class.
type waiting [ClassPredicted + 1][]int32

// first is the next group to start.
func (w *waiting) first() (group int, ok bool) {
	for c := range w {
		if len(w[c]) > 0 {
			return int(w[c][0]), true
		}
	}
	return absent, false
}

// remove reports whether the group waited.
func (w *waiting) remove(group int) bool {
	for c := range w {
		if i := slices.Index(w[c], int32(group)); i >= 0 {
			w[c] = slices.Delete(w[c], i, i+1)
			return true
		}
	}
	return false
}

func (w *waiting) promote(group int) {
	if w.remove(group) {
		w[ClassDemand] = append(w[ClassDemand], int32(group))
	}
}

// disk is a store of groups in simulated seconds: one stream of bytes, with a number of reads under
// way, demand first. A read that was started ends behind those before it.
type disk struct {
	bandwidth, latency float64
	bytes              int64 // of a group
	depth              int
	last               float64 // end of the last read
	waiting
	reading []reading // in the order of their ends
}

// reading is a group on its way.
type reading struct {
	group int32
	end   float64
}

// submit asks for a group, and starts it if there is room.
func (d *disk) submit(group int, c Class, now float64) {
	d.waiting[c] = append(d.waiting[c], int32(group))
	d.dispatch(now)
}

func (d *disk) dispatch(now float64) {
	for len(d.reading) < d.depth {
		group, ok := d.first()
		if !ok {
			return
		}
		d.remove(group)
		d.last = max(now+d.latency, d.last)
		if d.bandwidth > 0 {
			d.last += float64(d.bytes) / d.bandwidth
		}
		d.reading = append(d.reading, reading{int32(group), d.last})
	}
}

func (d *disk) next() (at float64, ok bool) {
	if len(d.reading) == 0 {
		return 0, false
	}
	return d.reading[0].end, true
}

func (d *disk) pop() (group int) {
	r := d.reading[0]
	d.reading = slices.Delete(d.reading, 0, 1)
	d.dispatch(r.end)
	return int(r.group)
}

func (d *disk) drop(group int, _ float64) (all, part bool) { return d.remove(group), false }

// shared is a store that reads groups in pieces: those under way, at most depth, share its time, so
// that of n each takes latency + n * piece. Pieces of demand start first. Reads are not all alike: each
// group takes a random multiple of that, without which none of those that mostly come too late would
// ever be in time.
type shared struct {
	latency, piece float64
	depth, pieces  int
	waiting
	left   map[int32]int     // pieces of a group that were not started
	flying map[int32]int     // and that are under way
	work   map[int32]float64 // of each of a group's pieces: 1 on average
	under  []part
	at     float64 // when the parts were last moved on
	random *rand.Rand
	slow   float64 // than on average, now
}

// spread is how many exponential times a read's time is the mean of: of six that
// were tried, the one whose replay came closest to a recorded pair of runs (with and without reading
// ahead) of the shipped model on a virtual NVMe disk. A fit to one machine, not a law.
const spread = 3

// part is a piece under way, and how much of its work is to come.
type part struct {
	group int32
	left  float64
}

func newShared(o SimulateOptions, bytes int64) *shared {
	s := &shared{latency: o.Latency, depth: o.Depth, pieces: o.Pieces, left: map[int32]int{},
		flying: map[int32]int{}, work: map[int32]float64{}, slow: 1, random: rand.New(rand.NewPCG(1, 2))}
	if o.Bandwidth > 0 {
		s.piece = float64(bytes) / o.Bandwidth / float64(o.Pieces)
	}
	return s
}

func (s *shared) submit(group int, c Class, now float64) {
	s.move(now)
	g, work := int32(group), 0.0
	for range spread {
		work += s.random.ExpFloat64() / spread
	}
	s.waiting[c] = append(s.waiting[c], g)
	s.left[g], s.work[g] = s.pieces, work*s.slow
	s.dispatch()
}

func (s *shared) dispatch() {
	for len(s.under) < s.depth {
		group, ok := s.first()
		if !ok {
			return
		}
		g := int32(group)
		s.under = append(s.under, part{g, s.work[g]})
		s.flying[g]++
		if s.left[g]--; s.left[g] == 0 {
			s.remove(group)
		}
	}
}

// whole is what a piece takes with so many under way.
func (s *shared) whole() float64 { return s.latency + float64(len(s.under))*s.piece }

// move lets pieces come nearer until now.
func (s *shared) move(now float64) {
	if w := s.whole(); w > 0 && now > s.at {
		for i := range s.under {
			s.under[i].left -= (now - s.at) / w
		}
	}
	s.at = max(s.at, now)
}

// nearest is the piece that ends next.
func (s *shared) nearest() int {
	n := 0
	for i := range s.under {
		if s.under[i].left < s.under[n].left {
			n = i
		}
	}
	return n
}

func (s *shared) next() (at float64, ok bool) {
	if len(s.under) == 0 {
		return 0, false
	}
	return s.at + max(s.under[s.nearest()].left, 0)*s.whole(), true
}

func (s *shared) pop() (group int) {
	at, _ := s.next()
	i := s.nearest()
	s.move(at)
	g := s.under[i].group
	s.under = slices.Delete(s.under, i, i+1)
	s.dispatch()
	if s.flying[g]--; s.flying[g] > 0 || s.left[g] > 0 {
		return absent
	}
	delete(s.flying, g)
	delete(s.left, g)
	delete(s.work, g)
	return int(g)
}

func (s *shared) drop(group int, now float64) (all, part bool) {
	s.move(now)
	if part = s.remove(group); part {
		s.left[int32(group)] = 0
	}
	if s.flying[int32(group)] > 0 {
		return false, part
	}
	delete(s.left, int32(group))
	delete(s.work, int32(group))
	return true, true
}
