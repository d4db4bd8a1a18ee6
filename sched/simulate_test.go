package sched

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// makeTrace builds a trace of one row a pass from each pass's choices, layer by layer.
func makeTrace(t testing.TB, s TraceShape, passes [][][]int32, predicted [][][]int32) *Trace {
	t.Helper()
	var all []TracePass
	for i, layers := range passes {
		p := TracePass{Rows: 1, Sequences: 1}
		for l, ids := range layers {
			layer := TraceLayer{Layer: l, IDs: ids}
			if predicted != nil {
				layer.Predicted = predicted[i][l]
			}
			p.Layers = append(p.Layers, layer)
		}
		all = append(all, p)
	}
	return traceOf(t, s, all)
}

// traceOf writes passes and reads them.
func traceOf(t testing.TB, s TraceShape, passes []TracePass) *Trace {
	t.Helper()
	trace, err := ReadTrace(bytes.NewReader(writeTrace(t, s, passes)))
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

// skewed makes a trace whose tokens prefer some experts and repeat themselves.
func skewed(t testing.TB, seed uint64, passes int) *Trace {
	rng := rand.New(rand.NewPCG(seed, 9))
	s := TraceShape{Layers: 4, Experts: 16, TopK: 2, GroupBytes: 1000}
	var all, predicted [][][]int32
	last := make([][]int32, s.Layers)
	for range passes {
		var layers, named [][]int32
		for l := range s.Layers {
			ids := []int32{int32(min(rng.ExpFloat64()*3, 15)), int32(rng.IntN(16))}
			if last[l] != nil && rng.IntN(3) == 0 {
				ids[0] = last[l][0]
			}
			if ids[1] == ids[0] {
				ids[1] = (ids[1] + 1) % 16
			}
			last[l] = ids
			layers = append(layers, ids)
		}
		for l := range s.Layers { // the next layer's first is known, its second is a guess
			named = append(named, []int32{layers[(l+1)%s.Layers][0], rng.Int32N(16)})
		}
		all, predicted = append(all, layers), append(predicted, named)
	}
	return makeTrace(t, s, all, predicted)
}

func simulate(t testing.TB, trace *Trace, o SimulateOptions) SimulateResult {
	t.Helper()
	r, err := Simulate(trace, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// best is the most hits that any choice of victims gives, by trying all of them.
func best(uses []int32, cache []int32, places int) int {
	if len(uses) == 0 {
		return 0
	}
	g := uses[0]
	if slices.Contains(cache, g) {
		return 1 + best(uses[1:], cache, places)
	}
	if len(cache) < places {
		return best(uses[1:], append(slices.Clone(cache), g), places)
	}
	most := 0
	for i := range cache {
		next := slices.Clone(cache)
		next[i] = g
		most = max(most, best(uses[1:], next, places))
	}
	return most
}

// Belady's policy reaches the optimum that exhaustive search finds, and no other exceeds it.
func TestBeladyIsTheOptimum(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 10))
		s := TraceShape{Layers: 2, Experts: 4, TopK: 1, GroupBytes: 1}
		var passes [][][]int32
		for range 6 {
			passes = append(passes, [][]int32{{rng.Int32N(4)}, {rng.Int32N(4)}})
		}
		trace := makeTrace(t, s, passes, nil)
		places := 2 + rng.IntN(3)
		want := best(trace.uses, nil, places)
		got := simulate(t, trace, SimulateOptions{Policy: Optimum, Places: places - 1, Ring: 1})
		if got.Hits != int64(want) {
			t.Errorf("seed %d: %d hits, want %d of %d", seed, got.Hits, want, len(trace.uses))
		}
	}
	trace := skewed(t, 1, 400)
	for _, places := range []int{4, 8, 16, 32, 63} {
		bound := simulate(t, trace, SimulateOptions{Policy: Optimum, Places: places}).HitRate
		for _, name := range PolicyNames() {
			r := simulate(t, trace, SimulateOptions{Policy: name, Places: places})
			if r.HitRate > bound {
				t.Errorf("%s with %d places: hit rate %.3f, the optimum %.3f", name, places, r.HitRate,
					bound)
			}
		}
	}
}

// The policy that learns beats recency and plain frequency where traffic has both.
func TestReuseBeatsRecencyAndFrequency(t *testing.T) {
	trace := skewed(t, 2, 4000)
	for _, places := range []int{8, 16, 32} {
		reuse := simulate(t, trace, SimulateOptions{Policy: "reuse", Places: places})
		for _, name := range []string{"lru", "lfu", "tinylfu", "clock", "stale"} {
			r := simulate(t, trace, SimulateOptions{Policy: name, Places: places})
			if r.HitRate > reuse.HitRate {
				t.Errorf("%d places: %s %.3f, reuse %.3f", places, name, r.HitRate, reuse.HitRate)
			}
		}
	}
}

// everyExpert lists all experts of a layer.
func everyExpert(n int) []int32 {
	all := make([]int32, n)
	for e := range all {
		all[e] = int32(e)
	}
	return all
}

// Where every pass uses every group, policies that do not flood keep a subset, and recency nothing.
func TestSweepsDoNotFlood(t *testing.T) {
	s := TraceShape{Layers: 3, Experts: 32, TopK: 32, GroupBytes: 1}
	layer := everyExpert(32)
	var passes [][][]int32
	for range 50 {
		passes = append(passes, [][]int32{layer, layer, layer})
	}
	trace := makeTrace(t, s, passes, nil)
	for _, name := range append(PolicyNames(), Optimum) {
		r := simulate(t, trace, SimulateOptions{Policy: name, Places: 40, Ring: 8, Skip: 5,
			NoSweep: true, Bandwidth: 1})
		floods := name == "lru" || name == "clock" || name == "stale"
		// What is on its way takes up to FillsMax of the places.
		if least := float64(40-FillsMax) / 96; !floods && r.HitRate < least {
			t.Errorf("%s: hit rate %.2f, want %.2f", name, r.HitRate, least)
		}
		if floods && name != "stale" && r.HitRate > 0 {
			t.Errorf("%s: hit rate %.2f, want none", name, r.HitRate)
		}
	}
}

// The clock of a replay agrees with arithmetic: reads one after another behind a shared latency,
// hits computed meanwhile.
func TestSimulatedSecondsAreTheArithmetic(t *testing.T) {
	s := TraceShape{Layers: 1, Experts: 8, TopK: 4, GroupBytes: 1000}
	trace := makeTrace(t, s, [][][]int32{{{0, 1, 2, 3}}, {{0, 1, 2, 3}}, {{0, 1, 4, 5}}}, nil)
	o := SimulateOptions{Policy: "lru", Places: 4, Ring: 4, Bandwidth: 1000, Latency: 0.25, Depth: 4,
		PassSeconds: 0.5, GroupSeconds: 0.125}
	// Pass 1: router at 0.5; four reads end at 1.75, 2.75, 3.75, 4.75, the last computed by 4.875.
	// Pass 2: 0.5 and four hits. Pass 3: router at 0.5, reads end 1.25 and 2.25 later.
	r := simulate(t, trace, o)
	want := 4.875 + 1.0 + (0.5 + 2.25 + 0.125)
	if math.Abs(r.Seconds-want) > 1e-9 || r.BytesRead != 6000 || r.Hits != 6 || r.Uses != 12 {
		t.Errorf("%.4f s, want %.4f: %+v", r.Seconds, want, r)
	}
	o.Depth, o.Skip = 1, 2
	r = simulate(t, trace, o) // one read at a time pays the latency twice
	if want := 0.5 + 2.5 + 0.125; math.Abs(r.Seconds-want) > 1e-9 || r.Tokens != 1 {
		t.Errorf("depth 1: %.4f s, want %.4f: %+v", r.Seconds, want, r)
	}
}

// Prediction turns waiting into reading ahead where the disk is idle, and stops where it is not.
func TestPredictionSavesTimeWhereTheDiskIsIdle(t *testing.T) {
	trace := skewed(t, 3, 3000)
	o := SimulateOptions{Policy: "reuse", Places: 24, Ring: 6, Bandwidth: 1e6, PassSeconds: 8e-3,
		GroupSeconds: 1e-4}
	without := simulate(t, trace, o)
	o.Prefetch(PrefetchAuto)
	with := simulate(t, trace, o)
	saved := without.Seconds - with.Seconds // a useful byte saves nearly all of its reading
	if saved < 0.8*float64(with.Predictor.UsefulBytes)/o.Bandwidth || saved < 0.5 {
		t.Errorf("idle disk: %.2f s with prediction, %.2f without; %+v", with.Seconds,
			without.Seconds, with.Predictor)
	}
	if p := with.GuessPrecision; p < 0.5 || p > 1 {
		t.Errorf("precision %.2f", p)
	}
	demanded := (with.Uses - with.Ready - with.Late) * 1000
	if d := with.Predictor.IssuedBytes + demanded - with.BytesRead; d != 0 {
		t.Errorf("%d bytes are not accounted for", d)
	}
	o.PassSeconds, o.GroupSeconds = 0, 0
	o.Predict = false
	without = simulate(t, trace, o)
	o.Predict = true
	with = simulate(t, trace, o)
	if with.Predictor.CancelledBytes == 0 { // a router speaks before all its guesses are read
		t.Errorf("nothing is cancelled: %+v", with.Predictor)
	}
	if with.Seconds > 1.02*without.Seconds {
		t.Errorf("saturated disk: %.2f s with prediction, %.2f without", with.Seconds, without.Seconds)
	}
}

func TestReadTraceGivesWhatWasNotCutOff(t *testing.T) {
	s := TraceShape{Layers: 2, Experts: 4, TopK: 1}
	layers := []TraceLayer{{Layer: 0, IDs: []int32{1}}, {Layer: 1, IDs: []int32{2}}}
	pass := TracePass{Rows: 1, Layers: layers}
	text := writeTrace(t, s, []TracePass{pass, pass, pass})
	trace, err := ReadTrace(bytes.NewReader(text[:len(text)-2]))
	if !errors.Is(err, io.ErrUnexpectedEOF) || trace == nil || trace.Passes() != 2 ||
		!slices.Equal(trace.Counts(), []uint32{0, 2, 0, 0, 0, 0, 2, 0}) {
		t.Errorf("%v, %+v", err, trace)
	}
	if _, err := ReadTrace(bytes.NewReader(text[3:])); !errors.Is(err, ErrTrace) {
		t.Error(err)
	}
	for _, o := range []SimulateOptions{{Policy: "none"}, {Places: -1}, {Places: 9}, {Bandwidth: -1},
		{Policy: "static", Counts: []uint32{1}}, {Predict: true, Ring: 2}} {
		if _, err := Simulate(trace, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// In the throughput regime reading never waits for a router: a pass takes as long as the busier of
// disk and arithmetic, and what is in the cache stays there.
func TestSweepKeepsTheDiskBusy(t *testing.T) {
	s := TraceShape{Layers: 4, Experts: 32, TopK: 32, GroupBytes: 1000}
	layer := everyExpert(32)
	var passes [][][]int32
	for range 20 {
		passes = append(passes, [][]int32{layer, layer, layer, layer})
	}
	trace := makeTrace(t, s, passes, nil)
	o := SimulateOptions{Policy: "reuse", Places: 64, Ring: 16, Bandwidth: 1e6, PassSeconds: 16e-3,
		GroupSeconds: 1e-4, Skip: 1}
	r := simulate(t, trace, o)
	// Half of 128 groups are read in a pass, 1 ms each, and a few that are on their way when others are
	// wanted; arithmetic takes 16 ms and 128 times 0.1 ms.
	want := float64(r.BytesRead) / o.Bandwidth
	if r.SweepPasses != 19 || r.CacheRate < 0.47 || r.Seconds > 1.02*want || r.Seconds < 0.98*want {
		t.Errorf("%.4f s, want %.4f: %+v", r.Seconds, want, r)
	}
	o.NoSweep = true
	if n := simulate(t, trace, o); n.Seconds < 1.1*r.Seconds || n.SweepPasses != 0 {
		t.Errorf("by demand %.4f s, read ahead %.4f", n.Seconds, r.Seconds)
	}
}

// Reading ahead is bounded by the ring, of which two sections are left to demand: with four, two groups
// are there when a router has spoken; with two, none.
func TestSweepIsBoundedByTheRing(t *testing.T) {
	s := TraceShape{Layers: 2, Experts: 8, TopK: 8, GroupBytes: 1000}
	all := []int32{0, 1, 2, 3, 4, 5, 6, 7}
	pass := [][]int32{all, all}
	trace := makeTrace(t, s, [][][]int32{pass, pass, pass}, nil)
	for ring, want := range map[int]float64{4: 2 * 2 * (4e-3 + 6e-3), 2: 2 * 2 * (4e-3 + 8e-3)} {
		r := simulate(t, trace, SimulateOptions{Ring: ring, Bandwidth: 1e6, PassSeconds: 8e-3, Skip: 1})
		if math.Abs(r.Seconds-want) > 1e-9 {
			t.Errorf("ring of %d: %.4f s, want %.4f", ring, r.Seconds, want)
		}
	}
}

// A sweep after passes of the latency regime begins to read when it begins.
func TestSweepDoesNotReadInThePast(t *testing.T) {
	s := TraceShape{Layers: 1, Experts: 8, TopK: 4, GroupBytes: 1000}
	one := TracePass{Rows: 1, Layers: []TraceLayer{{IDs: []int32{0, 1, 2, 3}}}}
	ids := []int32{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7}
	many := TracePass{Rows: 4, Layers: []TraceLayer{{IDs: ids}}}
	trace, err := ReadTrace(bytes.NewReader(writeTrace(t, s, []TracePass{one, one, many})))
	if err != nil {
		t.Fatal(err)
	}
	// 1 ms and four reads; 1 ms; 1 ms and four reads.
	r := simulate(t, trace, SimulateOptions{Places: 4, Bandwidth: 1e6, PassSeconds: 1e-3})
	if want := 11e-3; math.Abs(r.Seconds-want) > 1e-9 || r.SweepPasses != 1 || r.Hits != 8 {
		t.Errorf("%.4f s, want %.4f: %+v", r.Seconds, want, r)
	}
}

// uniform is a trace of passes of so many rows, each of which chooses at random.
func uniform(t testing.TB, s TraceShape, passes, rows int) *Trace {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 11))
	var all []TracePass
	for range passes {
		p := TracePass{Rows: rows, Sequences: rows}
		for l := range s.Layers {
			layer := TraceLayer{Layer: l}
			for range rows {
				for _, e := range rng.Perm(s.Experts)[:s.TopK] {
					layer.IDs = append(layer.IDs, int32(e))
				}
			}
			p.Layers = append(p.Layers, layer)
		}
		all = append(all, p)
	}
	return traceOf(t, s, all)
}

// In the throughput regime, where a pass uses every expert of every layer, the default policy finds as
// large a share of them as it has places, as the optimum does: nothing floods, whatever is read ahead.
// And it finds as many in one layer as in another, so that there is something to compute while the rest
// of a layer is read: a pass takes as long as the longer of the two.
func TestThroughputFindsWhatTheCacheHolds(t *testing.T) {
	s := TraceShape{Layers: 8, Experts: 64, TopK: 8, GroupBytes: 1000}
	trace := uniform(t, s, 12, 64)
	for _, c := range []struct {
		places, ring int
		group        float64 // seconds of arithmetic
	}{{128 - 16, 16, 2e-4}, {256 - 16, 16, 2e-4}, {256 - 16, 16, 6e-4}, {128, 4, 2e-4}} {
		o := SimulateOptions{Places: c.places, Ring: c.ring, Skip: 8, Bandwidth: 1e6, PassSeconds: 16e-3,
			GroupSeconds: c.group}
		r := simulate(t, trace, o)
		o.Policy, o.NoSweep = Optimum, true
		best := simulate(t, trace, o)
		kept := 1 - float64(r.BytesRead)/float64(r.Uses*s.GroupBytes)
		load := float64(r.BytesRead) / o.Bandwidth
		longer := max(load, 4*o.PassSeconds+float64(r.Uses)*c.group)
		t.Logf("%d + %d: kept %.4f (found %.4f), optimum %.4f; %.4f s, load or arithmetic %.4f", c.places,
			c.ring, kept, r.CacheRate, best.HitRate, r.Seconds, longer)
		// The ring's sections are in use, and hold nothing for the next pass; and nor do those of the
		// cache that what is on its way, or waits to be computed, takes while the ring is full.
		if least := 0.9 * float64(c.places) / float64(trace.Groups()); kept < least ||
			r.CacheRate < least || r.SweepPasses != 4 {
			t.Errorf("%d + %d: kept %.4f, found %.4f, want %.4f; %+v", c.places, c.ring, kept, r.CacheRate,
				least, r)
		}
		if c.ring == 16 && r.Seconds > 1.03*longer {
			t.Errorf("%d + %d: %.4f s, load or arithmetic takes %.4f", c.places, c.ring, r.Seconds, longer)
		}
	}
}

// What a prompt's passes use changes nothing: a cache that has learned is laid out for sweeps only after
// several in a row, and for few rows again at the first pass of few.
func TestSweepsAreBelievedAfterSome(t *testing.T) {
	layerOf := []int32{0, 0, 0, 0, 1, 1, 1, 1}
	p := newReuse(PolicyOptions{Groups: 8, LayerOf: layerOf})
	pass := func(groups ...int) {
		for _, g := range groups {
			p.Use(g)
		}
	}
	for range 20 {
		pass(3, 7)
	}
	for n := range sweepPasses + 1 {
		if p.sweeps() || p.Better(0, 3) || p.Better(4, 7) {
			t.Errorf("after %d sweeps: %v, %v, %v", n, p.sweeps(), p.Better(0, 3), p.Better(4, 7))
		}
		pass(0, 1, 2, 3, 4, 5, 6, 7)
	}
	if p.Use(0); !p.sweeps() || !p.Better(0, 3) || !p.Better(4, 3) || p.Better(4, 0) || p.Better(0, 4) {
		t.Error("the first groups of every layer are not preferred")
	}
	if pass(4); p.sweeps() {
		t.Error("a pass of few is a sweep")
	}
}

// What a run measured of its reads gives back the disk that it was measured on.
func TestFitFindsTheDisk(t *testing.T) {
	for _, c := range []struct{ latency, each float64 }{{0, 1e-3}, {1e-3, 1e-3}, {2e-4, 3e-4}} {
		trace := &Trace{Shape: TraceShape{Layers: 1, Experts: 8, TopK: 1, GroupBytes: 1000,
			Run: TraceRun{Depth: 4, Pieces: 2}}}
		rng := rand.New(rand.NewPCG(4, 4))
		for range 200 { // of as many seconds as each number of groups came in
			var p tracedPass
			p.figures.Reads.Reads = 0
			for n := range 4 {
				k, under := rng.Int64N(100), min(2*float64(n+1), 4)
				p.figures.Reads.Reads += k
				each := (c.latency + under*c.each/2) / under * 2
				p.figures.Reads.At[n] = int64(float64(k) * each * 1e9)
			}
			trace.passes = append(trace.passes, p)
		}
		latency, each := trace.fit()
		if math.Abs(latency-c.latency) > 0.1*c.latency+1e-9 || math.Abs(each-c.each) > 0.1*c.each { // a grid
			t.Errorf("%g s and %g, want %g and %g", latency, each, c.latency, c.each)
		}
		if slow := trace.slowness(0, latency, each); math.Abs(slow-1) > 0.1 {
			t.Errorf("slow by %g", slow)
		}
	}
}

// Pieces under way share the disk: groups that are read together take as long as one after the other,
// but for the latency; demand comes first, and what was not started can be taken back.
func TestSharedDiskIsShared(t *testing.T) {
	o := SimulateOptions{Latency: 1e-3, Bandwidth: 1e6, Depth: 4, Pieces: 2}
	end := func(groups int) (sum float64) {
		const rounds = 4000
		d := newShared(o, 1000)
		for range rounds {
			for g := range groups {
				d.submit(g, ClassDemand, d.at)
			}
			for n := 0; n < groups; {
				if d.pop() != absent {
					n++
				}
			}
		}
		return d.at / rounds
	}
	// Alone: 1 ms of latency and 1 ms of bytes. Two: 1 ms and 2 ms, and what is left of the longer one.
	if one := end(1); math.Abs(one-2e-3) > 1e-4 {
		t.Errorf("%g s", one)
	}
	if two := end(2); two < 3e-3 || two > 4.2e-3 {
		t.Errorf("%g s", two)
	}
	d := newShared(o, 1000)
	for g, c := range []Class{ClassDemand, ClassPredicted, ClassPredicted, ClassDemand} {
		d.submit(g, c, 0)
	}
	if all, part := d.drop(2, 0); !all || !part { // both of its pieces waited
		t.Errorf("%v, %v", all, part)
	}
	if all, _ := d.drop(1, 0); all {
		t.Error("what is under way is taken back")
	}
	var order []int
	for {
		if _, ok := d.next(); !ok {
			break
		}
		if g := d.pop(); g != absent {
			order = append(order, g)
		}
	}
	if slices.Sort(order); !slices.Equal(order, []int{0, 1, 3}) {
		t.Errorf("%v", order)
	}
}

// claimed claims a section and ends its reading.
func claimed(c *places, group int) int {
	i := c.claim(group)
	c.ready(i)
	return i
}

// The hand gives a second chance to what was used again, and passes over what is leased or on its way.
func TestPlacesGiveASecondChance(t *testing.T) {
	c := newPlaces(3, 0, 9, &lru{last: make([]uint64, 9)})
	for g := range 4 { // 3 evicts 0
		c.lease(claimed(c, g))
		c.release(c.find(g))
	}
	c.sections[c.find(1)].hot = true
	claimed(c, 4)
	if c.find(0) != absent || c.find(1) == absent || c.find(2) != absent {
		t.Errorf("%+v", c.sections)
	}
	for i := range c.sections {
		c.lease(i)
	}
	if c.claim(5) != absent {
		t.Errorf("%+v", c.sections)
	}
	c.release(1)
	if i := c.claimSpare(6); i != 1 || c.claim(7) != absent {
		t.Errorf("%d, %+v", i, c.sections)
	}
}

// A leased group is not cast off, and what was read ahead takes no moored section.
func TestWhatIsLeasedIsNotCastOff(t *testing.T) {
	p := &lru{last: make([]uint64, 9)}
	c := newPlaces(2, 1, 9, p)
	p.Use(0)
	c.lease(claimed(c, 0))
	p.Use(1)
	claimed(c, 1)
	if i := c.find(0); !c.sections[i].moored || c.sections[c.find(1)].moored {
		t.Errorf("%+v", c.sections)
	}
	c.release(c.find(0))
	if c.claimSpare(2) == absent || c.find(1) != absent || c.claimSpare(3) != absent {
		t.Errorf("%+v", c.sections)
	}
	if c.claim(4) == absent || c.find(0) != absent { // demand may
		t.Errorf("%+v", c.sections)
	}
}
