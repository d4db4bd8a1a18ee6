package weights

import (
	"context"
	"slices"
	"time"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/trace"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/ring"
	"github.com/moering/moering/sched"
)

// Lease is a group in memory. It is valid until the event given to Computed has passed.
type Lease struct {
	Group   int
	Weights []kernels.Weight // in the order of Group.Parts
}

// Acquisition is groups on their way. A tier has one, reused.
type Acquisition struct {
	t       *Tier
	number  uint32
	pending []int // groups not handed out yet
	handed  []int // sections handed out, and not computed yet
	leases  []Lease
}

// Acquire asks for groups of a layer, or none of it. Those in memory come first from Next; the rest is
// read at once. Guesses for the layer that were not asked for are given up.
func (t *Tier) Acquire(layer int, groups []int) *Acquisition {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &t.acq
	a.number++
	a.pending = append(a.pending[:0], groups...)
	for _, g := range groups {
		t.asked[g] = a.number
		t.ask(g)
	}
	t.spoken(layer)
	t.retire(false)
	t.pump()
	return a
}

func (t *Tier) ask(g int) {
	t.ring.Use(g)
	i, ready := t.ring.Find(g)
	if i == ring.None {
		t.counters.Misses++
		t.plan.Want(g, sched.ClassDemand, 0, 1)
		return
	}
	f := &t.fills[i]
	outcome := sched.Useful
	if ready {
		t.counters.Hits++
	} else {
		t.counters.Late++
		outcome = sched.Late
		t.plan.Want(g, sched.ClassDemand, 0, 1)
		f.class = sched.ClassDemand
		t.source.urge(f)
	}
	if f.ahead {
		t.counters.AheadUseful++
		t.outcome(f.group, outcome)
		t.own(f)
	} else {
		t.ring.Lease(i)
	}
}

// spoken gives up what was wanted of a layer, or read ahead for it, and not asked for.
func (t *Tier) spoken(layer int) {
	for g := t.first[layer]; g < t.first[layer+1]; g++ {
		if t.asked[g] != t.acq.number && t.above[g] == nil && t.plan.Cancel(g) {
			t.outcome(g, sched.Cancelled)
		}
	}
	for k := len(t.pins) - 1; k >= 0; k-- {
		f := &t.fills[t.pins[k]]
		if t.o.Groups[f.group].Layer != layer {
			continue
		}
		if _, ready := t.ring.Find(f.group); !ready && t.source.drop(f) {
			t.outcome(f.group, sched.Cancelled)
			t.ended(f)
			f.err = errDropped
		} else {
			t.outcome(f.group, sched.Wasted)
		}
		t.unpin(f)
	}
}

func (t *Tier) outcome(group int, o sched.Outcome) {
	if t.o.OnOutcome != nil {
		g := &t.o.Groups[group]
		t.o.OnOutcome(g.Layer, o, g.Bytes())
	}
}

// Ahead names groups that will be wanted: for certain, or guessed with a probability each. They are
// read while no demand waits. The deadline counts layers.
func (t *Tier) Ahead(groups []int, c sched.Class, deadline int64, probability []float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, g := range groups {
		if i, _ := t.ring.Find(g); i != ring.None {
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

// Beneath marks the groups that are in the memory of the tier below, and neither in this one's nor on
// their way to it. Both tiers may change at once: whoever acts on a mark that is out of date waits longer,
// and no more.
func (t *Tier) Beneath(groups []int, marks []bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, g := range groups {
		i, _ := t.ring.Find(g)
		marks[k] = i == ring.None && t.source.holds(g)
	}
}

// Used tells the policy of groups that were wanted and are computed elsewhere.
func (t *Tier) Used(groups []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range groups {
		t.ring.Use(g)
	}
}

// Bytes is the size of a group's weights.
func (t *Tier) Bytes(group int) int64 { return t.o.Groups[group].Bytes() }

// Complete reports that every group is in memory, for good.
func (t *Tier) Complete() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.filled == len(t.o.Groups) && t.o.Sections >= len(t.o.Groups)
}

// Parts lists the matrices of a group, in the order of a lease's weights.
func (t *Tier) Parts(group int) []arch.Part { return t.o.Groups[group].Parts }

// Next returns groups that became ready, at least one, valid until the next call; nil when all were
// handed out. While it waits for reads it helps computing what was started. A context that ends is
// noticed when Wake is called.
func (a *Acquisition) Next(ctx context.Context) ([]Lease, error) {
	t := a.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t.retire(false)
		if err := a.take(); err != nil || len(a.leases) > 0 || len(a.pending) == 0 {
			return a.leases, err
		}
		start := time.Now()
		if len(t.retiring) > 0 {
			e := t.retiring[0].event
			t.mu.Unlock()
			err := e.Wait()
			t.mu.Lock()
			if err != nil {
				return nil, err
			}
			continue
		}
		t.changed.Wait()
		now := time.Now()
		t.counters.Wait += now.Sub(start)
		if t.o.Trace != nil {
			g := &t.o.Groups[a.pending[0]]
			t.o.Trace.Span(trace.Waits, "wait", g.Layer, g.Index, 0, start, now)
		}
	}
}

// waits reports whether the group was asked for and not handed out.
func (a *Acquisition) waits(group int) bool { return slices.Contains(a.pending, group) }

// take moves what is ready from pending to leases.
func (a *Acquisition) take() error {
	t := a.t
	a.leases = a.leases[:0]
	kept := a.pending[:0]
	var err error
	for _, g := range a.pending {
		i, ready := t.ring.Find(g)
		switch {
		case ready:
			a.leases = append(a.leases, Lease{Group: g, Weights: t.fills[i].weights})
			a.handed = append(a.handed, i)
			continue
		case i != ring.None && t.fills[i].err != nil && err == nil:
			err = t.fills[i].err
		}
		kept = append(kept, g)
	}
	a.pending = kept
	return err
}

// Computed says that the kernels which read the leases handed out so far precede the event.
func (a *Acquisition) Computed(e kernels.Event) {
	t := a.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range a.handed {
		t.retiring = append(t.retiring, retired{i, e})
	}
	a.handed = a.handed[:0]
}

// Release ends the acquisition, after success, error and cancellation alike. Leases that were handed
// out and not Computed must not be in use any more.
func (a *Acquisition) Release() {
	t := a.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range a.handed {
		t.release(i)
	}
	a.handed = a.handed[:0]
	for _, g := range a.pending {
		if i, _ := t.ring.Find(g); i != ring.None {
			t.release(i)
		} else if t.above[g] == nil {
			t.plan.Cancel(g)
		}
	}
	a.pending = a.pending[:0]
	t.retire(false)
	t.pump()
}
