// Package weights is where the scheduler's decisions and the loader meet. A Tier is memory that holds
// groups of weights: its sections are a ring (offload/ring), what it reads next is a plan (sched.Plan),
// and where it reads from is its source: the disk, or a tier below. On a device that computes in host
// memory there is one tier, and a group is computed where it landed; a device with memory of its own has
// a tier there above one in host memory.
//
// Acquire asks for the groups of a layer and hands out leases on them as they become ready.
package weights

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moering/moering/engine/internal/trace"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/ring"
	"github.com/moering/moering/sched"
)

// Counters are a tier's figures since it was made.
type Counters struct {
	BytesRead, Reads, Hits, Late, Misses int64
	// Ahead counts groups whose reading began before they were asked for, AheadUseful those of them
	// that were then asked for.
	Ahead, AheadUseful int64
	Wait               time.Duration // Next stood still
	Fills              sched.ReadFigures
}

// source brings groups into sections. Its methods are called with the tier's lock held, except finish.
type source interface {
	// start begins to fill f's section with f.group; f.arrived is called once when that has ended.
	start(f *fill)
	// finish completes a fill on the tier's lander, before it is declared ready: f.weights are set.
	finish(f *fill) error
	// urge says that a fill begun on a guess is now waited for.
	urge(f *fill)
	// drop takes a fill back as far as it has not begun to move bytes. It reports whether all of it
	// was; arrived is then not called, and otherwise ends the fill with errDropped if part of it was.
	drop(f *fill) bool
	// holds reports whether the source has the group in memory.
	holds(group int) bool
	// close ends the source, when no fill is under way.
	close()
}

// classNames are what a timeline calls reads.
var classNames = [...]string{sched.ClassDemand: "demand", sched.ClassCertain: "certain",
	sched.ClassPredicted: "guess"}

// errDropped ends a fill that nobody wants any more.
var errDropped = errors.New("dropped")

// fill is one section's way from its source to ready. There is one a section, reused.
type fill struct {
	tier    *Tier
	section int
	group   int
	class   sched.Class
	// ahead is set while the group is in the section, or on its way, without having been asked for.
	// Such a section is pinned: a lease keeps it until its layer has been acquired.
	ahead   bool
	weights []kernels.Weight // of the group, once it is ready
	err     error            // why the fill ended without a group; guarded by the tier's lock

	disk  diskFill
	below int   // section of the tier below that the group is copied from
	fault error // what the tier below reports, between copier and lander
	above *fill // of the tier above, which waits for this fill
	event kernels.Event

	begun time.Time // for traces
	lane  int
}

// Options of a tier. What they refer to is the caller's, and outlives the tier.
type Options struct {
	Groups   []Group
	Memory   kernels.Span // of Sections sections of Bytes each, aligned to reader.Align
	Bytes    int64
	Sections int
	Moored   int // of these, sections that the policy may keep out of the ring
	Policy   ring.Policy
	Trace    *trace.Recorder // nil: none
	Lanes    trace.Lane      // the first of trace.FillLanes lanes for fills
	// OnOutcome, if set, hears what became of groups that were read ahead. It is called with the
	// tier's lock held, and must not call the tier.
	OnOutcome func(layer int, o sched.Outcome, bytes int64)
}

// Tier owns the sections of one memory. Acquire is called by one goroutine at a time, and not before the
// acquisition is released; the rest is internally locked. In a tier below another both may wait for the
// same group: the tier above, and an acquisition.
type Tier struct {
	o      Options
	source source

	mu       sync.Mutex
	changed  sync.Cond
	ring     *ring.Ring
	plan     *sched.Plan
	fills    []fill
	lanes    [trace.FillLanes]bool
	pins     []int // sections read ahead
	pinsMax  int
	retiring []retired
	above    []*fill // group → the fill of the tier above that waits for it to be begun
	upward   chan<- *fill
	asked    []uint32  // group → the last acquisition that asked for it
	first    []int     // layer → its first group; one more than layers
	busy     int       // fills under way
	since    time.Time // when busy was last counted
	filled   int       // fills that succeeded: groups in memory, if there is a section for each
	counters Counters
	closed   bool
	asRead   atomic.Bool // see AsRead
	landing  chan *fill
	landers  sync.WaitGroup
	acq      Acquisition
}

// retired is a section whose kernels precede an event; it is leased until then.
type retired struct {
	section int
	event   kernels.Event
}

func newTier(o Options, s source) *Tier {
	n := len(o.Groups)
	t := &Tier{o: o, source: s, ring: ring.New(o.Sections, o.Moored, n, o.Policy),
		plan: sched.NewPlan(n, sched.FillsMax, sched.GuessesMax), fills: make([]fill, o.Sections),
		landing: make(chan *fill, o.Sections), above: make([]*fill, n), asked: make([]uint32, n),
		pins: make([]int, 0, o.Sections), retiring: make([]retired, 0, o.Sections)}
	t.pinsMax = max(0, o.Sections-o.Moored-sched.RingForDemand)
	t.changed.L = &t.mu
	t.acq.t = t
	for g := range o.Groups {
		for len(t.first) <= o.Groups[g].Layer {
			t.first = append(t.first, g)
		}
	}
	t.first = append(t.first, n)
	parts := partsMax(o.Groups)
	for i := range t.fills {
		f := &t.fills[i]
		f.tier, f.section, f.below = t, i, ring.None
		f.weights = make([]kernels.Weight, 0, parts)
		f.disk.init(f, parts)
	}
	t.landers.Go(t.land)
	return t
}

// Close waits for fills under way and for kernels that read sections. Acquisitions must be released,
// and a tier above closed. It may be called twice.
func (t *Tier) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.plan.Clear()
	for t.busy > 0 {
		t.changed.Wait()
	}
	err := t.retire(true)
	for len(t.pins) > 0 {
		t.unpin(&t.fills[t.pins[0]])
	}
	leased := t.ring.Leased()
	t.mu.Unlock()
	close(t.landing)
	t.landers.Wait()
	t.source.close()
	if leased > 0 {
		err = errors.Join(err, fmt.Errorf("weights: %d leases are not back", leased))
	}
	return err
}

// Counters returns the figures so far.
func (t *Tier) Counters() Counters {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count()
	return t.counters
}

// Wake makes a Next that waits look at its context.
func (t *Tier) Wake() {
	t.mu.Lock()
	t.changed.Broadcast()
	t.mu.Unlock()
}

// AsRead says whether groups that arrive from now on are left as they are on disk, to be rearranged
// tile by tile as they are used. That is cheaper where a group is used once, with many rows, before it is
// replaced: it saves a way through memory. What stays in memory stays as it was read, and is slower to
// compute with few rows, until it is replaced. A tier that holds all groups rearranges them in any case.
// Results are the same bits.
func (t *Tier) AsRead(on bool) { t.asRead.Store(on && t.o.Sections < len(t.o.Groups)) }

// pump begins what the plan has next while there are sections.
func (t *Tier) pump() {
	for !t.closed {
		g, class, ok := t.plan.Next()
		if !ok {
			return
		}
		if i, _ := t.ring.Find(g); i != ring.None {
			t.plan.Cancel(g)
			continue
		}
		i := ring.None
		if class == sched.ClassDemand {
			i = t.ring.Claim(g)
		} else if len(t.pins) < t.pinsMax {
			i = t.ring.ClaimSpare(g)
		}
		if i == ring.None {
			return
		}
		t.plan.Start(g)
		t.begin(&t.fills[i], g, class)
	}
}

// begin hands a claimed section to the source. It is leased for each of those who wait for it, the
// acquisition and the tier above, or pinned.
func (t *Tier) begin(f *fill, group int, class sched.Class) {
	f.group, f.class, f.err, f.event = group, class, nil, nil
	f.above, t.above[group] = t.above[group], nil
	asked := t.acq.waits(group)
	if class != sched.ClassDemand {
		t.counters.Ahead++
	}
	if f.above != nil {
		t.ring.Lease(f.section)
	}
	if asked {
		t.ring.Lease(f.section)
	}
	if f.above == nil && !asked {
		t.ring.Lease(f.section)
		f.ahead = true
		t.pins = append(t.pins, f.section)
	}
	t.count()
	t.busy++
	if t.o.Trace != nil {
		f.begun = t.o.Trace.Now()
		for f.lane = 0; f.lane < trace.FillLanes-1 && t.lanes[f.lane]; f.lane++ {
		}
		t.lanes[f.lane] = true
	}
	t.source.start(f)
}

// arrived hands the fill to the lander. The channel has room for every section.
func (f *fill) arrived() { f.tier.landing <- f }

// land completes fills and declares them ready.
func (t *Tier) land() {
	for f := range t.landing {
		err := t.source.finish(f)
		if t.o.Trace != nil {
			g := &t.o.Groups[f.group]
			t.mu.Lock()
			name := classNames[f.class] // which changes when the group is asked for
			t.mu.Unlock()
			t.o.Trace.Span(t.o.Lanes+trace.Lane(f.lane), name, g.Layer, g.Index,
				g.Bytes(), f.begun, t.o.Trace.Now())
		}
		t.mu.Lock()
		t.landed(f, err)
		t.mu.Unlock()
	}
}

func (t *Tier) landed(f *fill, err error) {
	leases := t.ring.Leases(f.section)
	if errors.Is(err, errDropped) && leases > 0 { // wanted again while it was being dropped
		t.source.start(f)
		return
	}
	t.ended(f)
	t.counters.Fills.Reads++
	f.err = err
	switch {
	case err == nil:
		t.filled++
		t.ring.Ready(f.section)
	case f.ahead:
		t.unpin(f)
	case leases == 0:
		t.forget(f)
	}
	if u := f.above; u != nil { // the lease goes over to the tier above
		f.above = nil
		u.below = f.section
		t.upward <- u
	}
	t.pump()
	t.changed.Broadcast()
}

// count books the time since the last call under the number of fills that were under way. It precedes
// every change of it.
func (t *Tier) count() {
	now := time.Now()
	if t.busy > 0 {
		t.counters.Fills.At[min(t.busy, sched.FillsMax)-1] += now.Sub(t.since).Nanoseconds()
	}
	t.since = now
}

// ended takes a fill off the books of those under way.
func (t *Tier) ended(f *fill) {
	t.count()
	t.busy--
	t.lanes[f.lane] = false
	t.plan.Done(f.group)
}

// unpin takes a section off the list of those read ahead, and its lease back.
func (t *Tier) unpin(f *fill) {
	t.own(f)
	t.release(f.section)
}

// own makes the pin of a section a lease of the caller's.
func (t *Tier) own(f *fill) {
	f.ahead = false
	for k, i := range t.pins {
		if i == f.section {
			t.pins[k] = t.pins[len(t.pins)-1]
			t.pins = t.pins[:len(t.pins)-1]
			return
		}
	}
}

// release takes a lease back. A fill that failed is forgotten with its last lease.
func (t *Tier) release(i int) {
	if f := &t.fills[i]; t.ring.Release(i) == 0 && f.err != nil {
		t.forget(f)
	}
}

// forget empties the section of a fill that failed, so that the next who wants the group tries again;
// while the system holds its memory it is out of use.
func (t *Tier) forget(f *fill) {
	f.err = nil
	if f.disk.held() {
		t.ring.Abandon(f.section)
	} else {
		t.ring.Fail(f.section)
	}
}

// returned says that the system has let go of an abandoned section.
func (t *Tier) returned(f *fill) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ring.Abandoned(f.section) {
		t.ring.Fail(f.section)
		t.pump()
	}
}

// retire gives sections back whose kernels are done; with wait, all of them.
func (t *Tier) retire(wait bool) error {
	n := 0
	var err error
	for ; n < len(t.retiring); n++ {
		r := t.retiring[n]
		if wait && r.event != nil {
			err = errors.Join(err, r.event.Wait())
		} else if r.event != nil && !r.event.Done() {
			break
		}
		t.release(r.section)
	}
	if n > 0 {
		t.retiring = t.retiring[:copy(t.retiring, t.retiring[n:])]
		t.pump()
	}
	return err
}
