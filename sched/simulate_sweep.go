package sched

// sweeper is the throughput regime in the simulator: what is in the cache stays and is computed
// first, everything else of every layer streams through the ring, whether a router will want it or
// not, read as soon as a section is free; nothing is admitted.
type sweeper struct {
	free []float64 // when each ring section can be read into, a ring of its own
	at   int
	used []bool // of the layer: an expert was chosen
	on   bool   // the pass before was a sweep too
}

// sweepPass replays one pass of the throughput regime.
func (s *simulation) sweepPass(layers []tracedLayer) {
	for i := range s.sweep.free {
		if !s.sweep.on { // until now the ring was the latency regime's
			s.sweep.free[i] = s.now
		}
	}
	s.sweep.on = true
	for i := range layers {
		s.now += s.o.PassSeconds / float64(len(layers))
		s.sweepLayer(&layers[i])
	}
	s.guessLayer = -1
}

func (s *simulation) sweepLayer(l *tracedLayer) {
	uses, experts := s.t.uses[l.usesAt:l.usesEnd], s.t.Shape.Experts
	work := s.o.GroupSeconds + float64(l.slots)/float64(len(uses))*s.o.RowSeconds
	clear(s.sweep.used)
	for _, g := range uses {
		s.r.Uses++
		s.policy.Use(int(g))
		s.sweep.used[int(g)%experts] = true
		if s.cache.find(int(g)) != absent {
			s.r.Hits++
			s.r.Ready++
			s.now += work
		}
	}
	for e, used := range s.sweep.used {
		group := int(l.layer)*experts + e
		if s.cache.find(group) != absent {
			continue
		}
		section := &s.sweep.free[s.sweep.at]
		s.sweep.at = (s.sweep.at + 1) % len(s.sweep.free)
		ready := s.disk.read(*section, s.t.Shape.GroupBytes)
		s.r.BytesRead += s.t.Shape.GroupBytes
		*section = ready
		if used {
			s.r.WaitSeconds += max(ready-s.now, 0)
			s.now = max(s.now, ready) + work
			*section = s.now
		}
		if s.cache.moored < s.cache.mooredMax {
			s.cache.load(group)
		}
	}
	s.predictor.Observe(int(l.layer), s.ids(uses))
}
