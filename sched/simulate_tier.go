package sched

import "slices"

// Bounds on reads that are under way, for the engine and the simulator alike: demand may use the
// reader's whole depth and a little more, so that it never runs dry; guesses only what demand leaves
// idle.
const (
	FillsMax   = 8
	GuessesMax = 2
	// RingForDemand is how many sections of the ring are never given to what is read ahead, so that
	// reading ahead cannot stop demand.
	RingForDemand = 2
)

// tier is the engine's tier (engine/internal/weights) in simulated seconds, rule for rule: which
// group gets a section when, what is read ahead, dropped, pinned and let go. What differs is the disk.
type tier struct {
	places  *places
	plan    *Plan
	disk    source
	policy  Policy
	experts int
	now     float64

	ahead    []bool // group → it is in memory or on its way without having been asked for
	reading  []bool // group → it is on its way
	cut      []bool // group → a part of it was taken back, and the rest is worth nothing
	pinned   []int  // groups read ahead, whose sections are leased until their layer has been acquired
	pinsMax  int
	asked    []uint32 // group → the last acquisition that asked for it
	number   uint32
	pending  []int32 // groups that the layer waits for
	retiring []int32 // groups that were computed, and still hold their sections
	outcome  func(layer int, o Outcome)

	hits, ready, late, began int64
}

func newTier(groups, experts, sections, moored int, p Policy) *tier {
	return &tier{places: newPlaces(sections, moored, groups, p), policy: p, experts: experts,
		plan:  NewPlan(groups, FillsMax, GuessesMax),
		ahead: make([]bool, groups), reading: make([]bool, groups), cut: make([]bool, groups), asked: make([]uint32, groups),
		pinsMax: max(0, sections-moored-RingForDemand)}
}

// acquire asks for the groups of a layer: the router has spoken.
func (t *tier) acquire(layer int, groups []int32) {
	t.number++
	t.pending = append(t.pending[:0], groups...)
	for _, g := range groups {
		t.asked[g] = t.number
		t.ask(int(g))
	}
	t.spoken(layer)
	t.retire()
	t.pump()
}

func (t *tier) ask(g int) {
	t.policy.Use(g)
	i := t.places.find(g)
	if i == absent {
		t.plan.Want(g, ClassDemand, 0, 1)
		return
	}
	outcome := Useful
	if t.reading[g] {
		t.late++
		outcome = Late
		t.plan.Want(g, ClassDemand, 0, 1)
		t.disk.promote(g)
	} else {
		t.ready++
	}
	if !t.ahead[g] {
		if outcome == Useful {
			t.hits++
		}
		t.places.lease(i)
		return
	}
	t.outcome(g/t.experts, outcome)
	t.own(g) // the pin becomes the layer's lease
}

// own takes a group off the list of those read ahead.
func (t *tier) own(g int) {
	t.ahead[g] = false
	if k := slices.Index(t.pinned, g); k >= 0 {
		t.pinned[k] = t.pinned[len(t.pinned)-1]
		t.pinned = t.pinned[:len(t.pinned)-1]
	}
}

// spoken gives up what was wanted of a layer, or read ahead for it, and not asked for.
func (t *tier) spoken(layer int) {
	for g := layer * t.experts; g < (layer+1)*t.experts; g++ {
		if t.asked[g] != t.number && t.plan.Cancel(g) {
			t.outcome(layer, Cancelled)
		}
	}
	for k := len(t.pinned) - 1; k >= 0; k-- {
		g := t.pinned[k]
		if g/t.experts != layer {
			continue
		}
		i := t.places.find(g)
		t.own(g)
		all, part := false, false
		if t.reading[g] {
			all, part = t.disk.drop(g, t.now)
		}
		if all {
			t.outcome(layer, Cancelled)
			t.reading[g] = false
			t.began--
			t.plan.Done(g)
			t.places.empty(i)
			continue
		}
		t.cut[g] = part
		t.outcome(layer, Wasted)
		t.places.release(i)
	}
}

// want names groups that will be wanted.
func (t *tier) want(groups []int, c Class, deadline int64, probability []float64) {
	for k, g := range groups {
		if t.places.find(g) != absent {
			continue
		}
		p := 1.0
		if probability != nil {
			p = probability[k]
		}
		t.plan.Want(g, c, deadline, p)
	}
	t.plan.Allow(len(groups))
	t.pump()
}

// pump begins what the plan has next while there are sections.
func (t *tier) pump() {
	for {
		g, class, ok := t.plan.Next()
		if !ok {
			return
		}
		if t.places.find(g) != absent {
			t.plan.Cancel(g)
			continue
		}
		i := absent
		if class == ClassDemand {
			i = t.places.claim(g)
		} else if len(t.pinned) < t.pinsMax {
			i = t.places.claimSpare(g)
		}
		if i == absent {
			return
		}
		t.plan.Start(g)
		t.places.lease(i)
		if class != ClassDemand {
			t.ahead[g] = true
			t.pinned = append(t.pinned, g)
		}
		t.reading[g] = true
		t.began++
		t.disk.submit(g, class, t.now)
	}
}

// advance lets time pass, and reads end.
func (t *tier) advance(to float64) {
	for {
		end, ok := t.disk.next()
		if !ok || end > to {
			break
		}
		t.now = max(t.now, end)
		g := t.disk.pop()
		if g == absent {
			continue
		}
		t.reading[g] = false
		t.plan.Done(g)
		if i := t.places.find(g); i == absent { // the optimum may have given its section away
		} else if t.cut[g] {
			t.places.empty(i)
		} else {
			t.places.ready(i)
		}
		t.cut[g] = false
		t.pump()
	}
	t.now = max(t.now, to)
}

// take moves what is ready from pending to retiring, and says how many groups that was.
func (t *tier) take() (n int) {
	kept := t.pending[:0]
	for _, g := range t.pending {
		if !t.here(int(g)) {
			kept = append(kept, g)
			continue
		}
		t.retiring = append(t.retiring, g)
		n++
	}
	t.pending = kept
	return n
}

// here reports that a group that was asked for is not waited for any more. The optimum may have given
// its section away before it is computed; it is computed all the same.
func (t *tier) here(g int) bool { return t.plan.groups[g].at == absent }

// retire lets go of what was computed.
func (t *tier) retire() {
	for _, g := range t.retiring {
		if i := t.places.find(int(g)); i != absent && t.places.sections[i].leases > 0 {
			t.places.release(i)
		}
	}
	if len(t.retiring) > 0 {
		t.retiring = t.retiring[:0]
		t.pump()
	}
}
