package weights

import (
	"slices"
	"testing"
	"time"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
	"github.com/moering/moering/offload/store"
	"github.com/moering/moering/sched"
)

// manual is a source whose fills end when the test says so.
type manual struct {
	memory kernels.Span
	bytes  int64
	begun  []*fill
}

func (m *manual) start(f *fill) { m.begun = append(m.begun, f) }

func (m *manual) finish(f *fill) error {
	f.weights = f.tier.o.Groups[f.group].In(m.memory.Slice(int64(f.section)*m.bytes, m.bytes),
		f.weights[:0])
	return nil
}

func (m *manual) urge(*fill)      {}
func (m *manual) drop(*fill) bool { return false }
func (m *manual) holds(int) bool  { return false }
func (m *manual) close()          {}

// inOrder is a policy that remembers what was used.
type inOrder struct{ used []int }

func (p *inOrder) Use(group int)        { p.used = append(p.used, group) }
func (p *inOrder) Better(a, b int) bool { return a < b }

// pair is a tier of a device above one in host memory, for two layers of three experts.
type pair struct {
	t          *testing.T
	source     *manual
	below, top *Tier
	policy     *inOrder // of top
	outcomes   []sched.Outcome
}

func newPair(t *testing.T, hostSections, deviceSections int) *pair {
	var groups []Group
	for g := range 6 {
		part := arch.Part{Type: quant.F32, Rows: 8, Cols: 8, Extent: store.Extent{Size: 256}}
		groups = append(groups, Group{Layer: g / 3, Index: g % 3, Parts: []arch.Part{part}})
	}
	p := &pair{t: t, policy: &inOrder{}}
	d := ref.Open(ref.Options{Discrete: true})
	host, err := d.Pin(int64(hostSections) * 256)
	if err != nil {
		t.Fatal(err)
	}
	device, err := d.Alloc(int64(deviceSections) * 256)
	if err != nil {
		t.Fatal(err)
	}
	copies, err := d.NewStream("copies")
	if err != nil {
		t.Fatal(err)
	}
	p.source = &manual{memory: host.All(), bytes: 256}
	p.below = newTier(Options{Groups: groups, Sections: hostSections, Policy: &inOrder{}}, p.source)
	p.top = NewDeviceTier(Options{Groups: groups, Memory: device.All(), Bytes: 256,
		Sections: deviceSections, Policy: p.policy, OnOutcome: func(_ int, o sched.Outcome, _ int64) {
			p.outcomes = append(p.outcomes, o)
		}}, p.below, copies)
	t.Cleanup(func() {
		if t.Failed() { // what is under way may never end
			return
		}
		for _, tier := range []*Tier{p.top, p.below} {
			if err := tier.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// eventually waits for what other goroutines bring about.
func (p *pair) eventually(what string, is func() bool) {
	p.t.Helper()
	for range 2000 {
		if is() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	p.t.Fatalf("in vain waiting for this: %s", what)
}

// arrive ends the fill of a group in host memory, once it has begun.
func (p *pair) arrive(group int) {
	p.t.Helper()
	var f *fill
	p.eventually("the group is read", func() bool {
		p.below.mu.Lock()
		defer p.below.mu.Unlock()
		if i := slices.IndexFunc(p.source.begun, func(f *fill) bool { return f.group == group }); i >= 0 {
			f = p.source.begun[i]
			p.source.begun = slices.Delete(p.source.begun, i, i+1)
		}
		return f != nil
	})
	f.arrived()
}

// take hands out an acquisition to its end, and releases it.
func (p *pair) take(a *Acquisition, groups ...int) {
	p.t.Helper()
	var got []int
	for range groups {
		leases, err := a.Next(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		for _, l := range leases {
			got = append(got, l.Group)
		}
		a.Computed(nil)
	}
	a.Release()
	if slices.Sort(got); !slices.Equal(got, groups) {
		p.t.Errorf("got groups %v, want %v", got, groups)
	}
}

// A group is a guess of the device's, not begun as demand is read, when it is asked for in host memory alone: the device
// gives the guess up, and the group is read all the same, for both.
func TestTwoWaitForOneGroup(t *testing.T) {
	p := newPair(t, 2, 4)
	a := p.top.Acquire(0, []int{0, 1}) // host memory is full of what is on its way
	p.top.Ahead([]int{3}, sched.ClassPredicted, 1, nil)
	a.Release()
	beside := p.below.Acquire(1, []int{3})
	p.top.Acquire(1, nil).Release()
	if len(p.top.pins) != 0 || !slices.Equal(p.outcomes, []sched.Outcome{sched.Cancelled}) {
		t.Errorf("%d guesses are kept, outcomes %v", len(p.top.pins), p.outcomes)
	}
	p.arrive(0)
	p.arrive(1)
	p.arrive(3)
	p.take(beside, 3)
	p.take(p.top.Acquire(1, []int{3}), 3)
}

// An acquisition in host memory that ends early leaves the device what it waits for.
func TestAReleaseBelowKeepsWhatIsWantedAbove(t *testing.T) {
	p := newPair(t, 2, 4)
	p.below.Acquire(0, []int{0, 1}).Release() // on their way
	above := p.top.Acquire(1, []int{3})
	p.below.Acquire(1, []int{3}).Release()
	p.arrive(0)
	p.arrive(1)
	p.arrive(3)
	p.take(above, 3)
}

func TestBeneathIsInHostMemoryAlone(t *testing.T) {
	p := newPair(t, 4, 4)
	a := p.top.Acquire(0, []int{0})
	p.arrive(0)
	p.take(a, 0)
	a = p.below.Acquire(0, []int{1})
	p.arrive(1)
	p.take(a, 1)
	a = p.top.Acquire(1, []int{3}) // on its way
	marks := make([]bool, 4)
	p.top.Beneath([]int{0, 1, 2, 3}, marks)
	if !slices.Equal(marks, []bool{false, true, false, false}) {
		t.Errorf("marks %v", marks)
	}
	p.arrive(3)
	p.take(a, 3)
	before := len(p.policy.used)
	p.top.Used([]int{1})
	if !slices.Equal(p.policy.used[before:], []int{1}) {
		t.Errorf("the policy heard of %v", p.policy.used[before:])
	}
}
