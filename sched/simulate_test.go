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
	trace, err := ReadTrace(bytes.NewReader(writeTrace(t, s, all)))
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

// Where every pass uses every group, policies that do not flood keep a subset, and recency nothing.
func TestSweepsDoNotFlood(t *testing.T) {
	s := TraceShape{Layers: 3, Experts: 8, TopK: 8, GroupBytes: 1}
	layer := []int32{0, 1, 2, 3, 4, 5, 6, 7}
	var passes [][][]int32
	for range 50 {
		passes = append(passes, [][]int32{layer, layer, layer})
	}
	trace := makeTrace(t, s, passes, nil)
	for _, name := range append(PolicyNames(), Optimum) {
		r := simulate(t, trace, SimulateOptions{Policy: name, Places: 12, Skip: 5,
			NoSweep: true})
		floods := name == "lru" || name == "clock" || name == "stale"
		if least := 0.4; !floods && r.HitRate < least {
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
	o.Predict = true
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
	s := TraceShape{Layers: 4, Experts: 8, TopK: 8, GroupBytes: 1000}
	layer := []int32{0, 1, 2, 3, 4, 5, 6, 7}
	var passes [][][]int32
	for range 20 {
		passes = append(passes, [][]int32{layer, layer, layer, layer})
	}
	trace := makeTrace(t, s, passes, nil)
	o := SimulateOptions{Policy: "reuse", Places: 16, Ring: 4, Bandwidth: 1e6, PassSeconds: 4e-3,
		GroupSeconds: 1e-4, Skip: 1}
	r := simulate(t, trace, o)
	// 16 of 32 groups are read in a pass, 1 ms each; arithmetic takes 4 ms and 32 times 0.1 ms.
	if want := 19 * 16e-3; r.SweepPasses != 19 || r.HitRate != 0.5 || r.Seconds > 1.05*want ||
		r.Seconds < 0.95*want {
		t.Errorf("%.4f s, want %.4f: %+v", r.Seconds, want, r)
	}
	o.NoSweep = true
	if n := simulate(t, trace, o); n.Seconds < 1.1*r.Seconds || n.SweepPasses != 0 {
		t.Errorf("by demand %.4f s, read ahead %.4f", n.Seconds, r.Seconds)
	}
}

// Reading ahead is bounded by the ring: with two sections, two groups are there when a router has
// spoken, and each further one is read when one before it is computed.
func TestSweepIsBoundedByTheRing(t *testing.T) {
	s := TraceShape{Layers: 1, Experts: 8, TopK: 8, GroupBytes: 1000}
	pass := [][]int32{{0, 1, 2, 3, 4, 5, 6, 7}}
	trace := makeTrace(t, s, [][][]int32{pass, pass, pass}, nil)
	r := simulate(t, trace, SimulateOptions{Ring: 2, Bandwidth: 1e6, PassSeconds: 8e-3, Skip: 1})
	if want := 2 * (8e-3 + 6e-3); math.Abs(r.Seconds-want) > 1e-9 {
		t.Errorf("%.4f s, want %.4f", r.Seconds, want)
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
	// 1 ms and four reads; 1 ms; 1 ms, in which the first of four is read.
	r := simulate(t, trace, SimulateOptions{Places: 4, Bandwidth: 1e6, PassSeconds: 1e-3})
	if want := 10e-3; math.Abs(r.Seconds-want) > 1e-9 || r.SweepPasses != 1 || r.Hits != 8 {
		t.Errorf("%.4f s, want %.4f: %+v", r.Seconds, want, r)
	}
}

// The hand gives a second chance to what was used again, and passes over what is pinned.
func TestPlacesGiveASecondChance(t *testing.T) {
	c := newPlaces(3, 0, 9, &lru{last: make([]uint64, 9)})
	for g := range 4 { // 3 evicts 0, after every chance was taken away
		c.load(g)
	}
	c.sections[c.find(1)].hot = true
	c.load(4)
	if c.find(0) != absent || c.find(1) == absent || c.find(2) != absent {
		t.Errorf("%+v", c.sections)
	}
	for i := range c.sections {
		c.sections[i].pinned = true
	}
	if c.load(5) != absent {
		t.Errorf("%+v", c.sections)
	}
}

// A pinned group may be cast off, so that a better one takes its place, and stays until it is let
// go.
func TestWhatIsPinnedMayBeCastOff(t *testing.T) {
	p := &lru{last: make([]uint64, 9)}
	c := newPlaces(2, 1, 9, p)
	p.Use(0)
	c.sections[c.load(0)].pinned = true
	p.Use(1)
	c.load(1)
	if i := c.find(0); i == absent || c.sections[i].moored || !c.sections[c.find(1)].moored {
		t.Errorf("%+v", c.sections)
	}
}
