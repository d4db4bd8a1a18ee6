package sched

import (
	"math/rand/v2"
	"slices"
	"testing"
)

const planGroups = 60

// naive is the plan as a list that is searched.
type naive struct {
	waiting []naiveWant
	flying  []naiveWant
	order   uint64
}

type naiveWant struct {
	group       int
	class       Class
	deadline    int64
	probability float64
	order       uint64
}

func (n *naive) find(list []naiveWant, group int) int {
	return slices.IndexFunc(list, func(w naiveWant) bool { return w.group == group })
}

func (n *naive) want(group int, c Class, deadline int64, probability float64) {
	if i := n.find(n.flying, group); i >= 0 {
		n.flying[i].class = min(n.flying[i].class, c)
		return
	}
	n.order++
	if i := n.find(n.waiting, group); i >= 0 {
		w := &n.waiting[i]
		w.class, w.deadline = min(w.class, c), min(w.deadline, deadline)
		w.probability = max(w.probability, probability)
		n.order--
		return
	}
	n.waiting = append(n.waiting, naiveWant{group, c, deadline, probability, n.order})
}

func (n *naive) predicted() (count int) {
	for _, w := range n.flying {
		if w.class == ClassPredicted {
			count++
		}
	}
	return count
}

// next sorts everything by the stated order.
func (n *naive) next(inFlight, predicted, allowed int) (int, bool) {
	slices.SortFunc(n.waiting, func(a, b naiveWant) int {
		less := a.class < b.class || a.class == b.class && (a.deadline < b.deadline ||
			a.deadline == b.deadline && (a.probability > b.probability ||
				a.probability == b.probability && a.order < b.order))
		if less {
			return -1
		}
		return 1
	})
	if len(n.waiting) == 0 || len(n.flying) >= inFlight {
		return 0, false
	}
	w := n.waiting[0]
	if p := n.predicted(); w.class == ClassPredicted && (len(n.flying) > p || p >= predicted || allowed <= 0) {
		return 0, false
	}
	return w.group, true
}

// The plan does what a list that is sorted every time does, over random operations.
func TestPlanEqualsASortedList(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 4))
		inFlight, predicted := 1+rng.IntN(5), rng.IntN(4)
		p, n := NewPlan(planGroups, inFlight, predicted), &naive{}
		allowed := 0
		for step := range 600 {
			group := rng.IntN(planGroups)
			switch rng.IntN(10) {
			case 0, 1, 2:
				c, d, pr := Class(rng.IntN(3)), rng.Int64N(6), float64(rng.IntN(4))/4
				if rng.IntN(10) < int(seed%10) { // with some seeds nearly all are guesses
					c = ClassPredicted
				}
				p.Want(group, c, d, pr)
				n.want(group, c, d, pr)
			case 3, 7, 8:
				if len(n.flying) > 0 && rng.IntN(4) > 0 {
					group = n.flying[rng.IntN(len(n.flying))].group
				}
				p.Done(group)
				if i := n.find(n.flying, group); i >= 0 {
					n.flying = slices.Delete(n.flying, i, i+1)
				}
			case 4:
				allowed = rng.IntN(5)
				p.Allow(allowed)
			case 5, 9:
				want := n.find(n.waiting, group) >= 0
				if got := p.Cancel(group); got != want {
					t.Fatalf("seed %d, step %d: cancelled %v, want %v", seed, step, got, want)
				}
				n.waiting = slices.DeleteFunc(n.waiting, func(w naiveWant) bool {
					return w.group == group
				})
			case 6:
				end := group + rng.IntN(min(planGroups-group, 4))
				before := len(n.waiting)
				n.waiting = slices.DeleteFunc(n.waiting, func(w naiveWant) bool {
					return w.class == ClassPredicted && w.group >= group && w.group < end
				})
				if got := p.Spoken(group, end); got != before-len(n.waiting) {
					t.Fatalf("seed %d, step %d: cancelled %d, want %d", seed, step, got,
						before-len(n.waiting))
				}
			}
			got, _, ok := p.Next()
			want, wantOK := n.next(inFlight, predicted, allowed)
			if ok != wantOK || ok && got != want || p.Waiting() != len(n.waiting) ||
				p.InFlight() != len(n.flying) {
				t.Fatalf("seed %d, step %d: next %d %v, want %d %v", seed, step, got, ok, want, wantOK)
			}
			if ok && rng.IntN(2) == 0 {
				p.Start(got)
				if n.waiting[0].class == ClassPredicted {
					allowed--
				}
				n.flying = append(n.flying, n.waiting[0])
				n.waiting = n.waiting[1:]
			}
		}
		p.Clear()
		if _, _, ok := p.Next(); ok || p.Waiting() != 0 {
			t.Fatalf("seed %d: something is left", seed)
		}
	}
}

func TestPlanAllocatesNothing(t *testing.T) {
	p := NewPlan(100, 4, 2)
	if n := testing.AllocsPerRun(50, func() {
		for g := range 100 {
			p.Want(g, Class(g%3), int64(g), 0.5)
		}
		p.Allow(4)
		for range 100 {
			if g, _, ok := p.Next(); ok {
				p.Start(g)
				p.Done(g)
			}
		}
		p.Spoken(0, 100)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The switch point is the first number of rows that hits nine tenths of the experts.
func TestSwitchPoint(t *testing.T) {
	for _, c := range [][2]int{{128, 8}, {16, 2}, {60, 4}, {8, 2}, {256, 8}, {2, 1}} {
		n, all := SwitchRows(c[0], c[1]), float64(c[0])
		if Distinct(c[0], c[1], n) < 0.9*all || n > 1 && Distinct(c[0], c[1], n-1) >= 0.9*all {
			t.Errorf("%v: %d rows", c, n)
		}
		if RegimeOf(n, c[0], c[1]) != Throughput || n > 1 && RegimeOf(n-1, c[0], c[1]) != Latency {
			t.Errorf("%v: regimes", c)
		}
	}
	if SwitchRows(4, 4) != 1 || SwitchRows(1, 1) != 1 {
		t.Error("one expert of one needs more than a row")
	}
}
