package sched

import "math"

// Class says how sure a wanted group is. Lower ones are read first.
type Class uint8

// Classes.
const (
	ClassDemand    Class = iota // the router has spoken, and a kernel waits
	ClassCertain                // it will be used: the sweep of the throughput regime
	ClassPredicted              // with a probability; only into idle bandwidth
)

// Plan is the list, in the order in which they are to be read, of groups that are wanted and not
// yet under way: demand before certain before predicted, then the earlier deadline, then the
// likelier, then the one that was wanted first. It knows groups as small integers and bytes not at
// all. It allocates nothing after NewPlan, and is not safe for concurrent use.
type Plan struct {
	groups       []planned
	heap         []int32 // of groups
	inFlightMax  int
	predictedMax int
	inFlight     int
	predicted    int // of those in flight
	allowed      int // predicted groups that idle time still has room for
	wants        uint64
}

// planned is a group's entry.
type planned struct {
	at          int32 // in the heap, or one of these:
	class       Class
	deadline    int64
	probability float64
	order       uint64
}

const (
	absent   = -1
	underWay = -2
)

// NewPlan is a plan for groups 0 to groups-1, of which at most inFlightMax are read at a time, at
// most predictedMax of them on a guess.
func NewPlan(groups, inFlightMax, predictedMax int) *Plan {
	p := &Plan{groups: make([]planned, groups), heap: make([]int32, 0, groups),
		inFlightMax: inFlightMax, predictedMax: predictedMax}
	for i := range p.groups {
		p.groups[i].at = absent
	}
	return p
}

// Want enters a group, or makes it more urgent: class and deadline only ever sharpen. The deadline
// is in any unit that ascends, the same for all: a count of layers, or nanoseconds. A group that is
// under way keeps its read; wanted for certain, it no longer counts as predicted.
func (p *Plan) Want(group int, c Class, deadline int64, probability float64) {
	g := &p.groups[group]
	switch {
	case g.at == underWay:
		if g.class == ClassPredicted && c < ClassPredicted {
			g.class = c
			p.predicted--
		}
	case g.at == absent:
		p.wants++
		*g = planned{at: int32(len(p.heap)), class: c, deadline: deadline, probability: probability,
			order: p.wants}
		p.heap = append(p.heap, int32(group))
		p.up(len(p.heap) - 1)
	default:
		g.class, g.deadline = min(g.class, c), min(g.deadline, deadline)
		g.probability = max(g.probability, probability)
		p.up(int(g.at))
	}
}

// Allow says how many predicted groups idle time has room for, from now on.
func (p *Plan) Allow(groups int) { p.allowed = groups }

// Next returns the group to read next, without taking it: ok is false when nothing is wanted, or
// the bounds on what is in flight are reached. A predicted group is next only while no read of
// another class waits or is in flight, of whose bandwidth it would take a share, and idle time allows
// it.
func (p *Plan) Next() (group int, c Class, ok bool) {
	if len(p.heap) == 0 || p.inFlight >= p.inFlightMax {
		return 0, 0, false
	}
	group = int(p.heap[0])
	c = p.groups[group].class
	if c == ClassPredicted && (p.inFlight > p.predicted || p.predicted >= p.predictedMax ||
		p.allowed <= 0) {
		return 0, 0, false
	}
	return group, c, true
}

// Start says that the reading of a group began.
func (p *Plan) Start(group int) {
	g := &p.groups[group]
	if g.at >= 0 {
		p.remove(int(g.at))
	} else if g.at == underWay {
		return
	}
	g.at = underWay
	p.inFlight++
	if g.class == ClassPredicted {
		p.predicted++
		p.allowed--
	}
}

// Done says that the reading of a group ended, well or not.
func (p *Plan) Done(group int) {
	g := &p.groups[group]
	if g.at != underWay {
		return
	}
	g.at = absent
	p.inFlight--
	if g.class == ClassPredicted {
		p.predicted--
	}
}

// Cancel takes a group off the plan that has not been started, and reports whether it did.
func (p *Plan) Cancel(group int) bool {
	g := &p.groups[group]
	if g.at < 0 {
		return false
	}
	p.remove(int(g.at))
	g.at = absent
	return true
}

// Spoken is called when a router has spoken, after its choice was wanted as ClassDemand: every
// guess among groups first to end-1 that has not been started is cancelled. It returns how many.
func (p *Plan) Spoken(first, end int) (cancelled int) {
	for group := first; group < end; group++ {
		if g := &p.groups[group]; g.at >= 0 && g.class == ClassPredicted {
			p.Cancel(group)
			cancelled++
		}
	}
	return cancelled
}

// Clear takes everything off the plan that has not been started.
func (p *Plan) Clear() {
	for _, g := range p.heap {
		p.groups[g].at = absent
	}
	p.heap = p.heap[:0]
}

// Waiting counts the groups that have not been started, InFlight those that are being read.
func (p *Plan) Waiting() int { return len(p.heap) }

// InFlight counts the groups that are being read.
func (p *Plan) InFlight() int { return p.inFlight }

// before reports whether the group at heap place i comes before the one at j.
func (p *Plan) before(i, j int) bool {
	a, b := &p.groups[p.heap[i]], &p.groups[p.heap[j]]
	switch {
	case a.class != b.class:
		return a.class < b.class
	case a.deadline != b.deadline:
		return a.deadline < b.deadline
	case a.probability != b.probability:
		return a.probability > b.probability
	}
	return a.order < b.order
}

func (p *Plan) swap(i, j int) {
	p.heap[i], p.heap[j] = p.heap[j], p.heap[i]
	p.groups[p.heap[i]].at, p.groups[p.heap[j]].at = int32(i), int32(j)
}

func (p *Plan) up(i int) {
	for i > 0 && p.before(i, (i-1)/2) {
		p.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (p *Plan) down(i int) {
	for {
		first := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(p.heap); child++ {
			if p.before(child, first) {
				first = child
			}
		}
		if first == i {
			return
		}
		p.swap(i, first)
		i = first
	}
}

func (p *Plan) remove(i int) {
	last := len(p.heap) - 1
	if i != last {
		p.swap(i, last)
	}
	p.heap = p.heap[:last]
	if i < last {
		p.up(i)
		p.down(i)
	}
}

// Regime is how a pass is scheduled.
type Regime uint8

// Regimes.
const (
	Latency    Regime = iota // few rows: demand, cache and prediction decide
	Throughput               // many rows: nearly every expert is hit, and the order is known
)

// String returns "latency" or "throughput".
func (r Regime) String() string {
	if r == Throughput {
		return "throughput"
	}
	return "latency"
}

// throughputShare is the share of a layer's experts that must be hit before reading all of them
// ahead of the router pays: a tenth of the bytes is then wasted at most, and the disk never waits
// for a router.
const throughputShare = 0.9

// SwitchRows is the switch point: the fewest rows of a pass from which on the throughput regime is
// used. It solves Distinct(experts, topK, rows) = 0.9 experts.
func SwitchRows(experts, topK int) int {
	if topK >= experts {
		return 1
	}
	miss := 1 - float64(topK)/float64(experts)
	return int(math.Ceil(math.Log(1-throughputShare) / math.Log(miss)))
}

// RegimeOf is the regime of a pass of so many rows.
func RegimeOf(rows, experts, topK int) Regime {
	if rows >= SwitchRows(experts, topK) {
		return Throughput
	}
	return Latency
}
