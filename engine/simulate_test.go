package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/moering/moering/sched"
)

// streamingOptions are those under which ring and cache hold so many of tiny's experts.
func streamingOptions(t *testing.T, sections int, o Options) Options {
	t.Helper()
	o.HostMemory = 1 << 30
	_, p, err := Inspect(tiny, o)
	if err != nil {
		t.Fatal(err)
	}
	section := p.Ring / int64(p.Sections)
	o.HostMemory = p.Stay + p.Work + p.Reserve + p.KV + p.Dense + int64(sections)*section
	if _, p, err = Inspect(tiny, o); err != nil || p.Sections+p.CacheSlots != sections {
		t.Fatalf("%d sections and %d, want %d in all; %v", p.Sections, p.CacheSlots, sections, err)
	}
	return o
}

// heldoutTokens are tokens of the text that tiny was not trained on.
func heldoutTokens(t *testing.T, e *Engine, n int) []int32 {
	t.Helper()
	text, err := os.ReadFile("../tests/testdata/tiny/heldout.txt")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := e.Encode(string(text), false)
	if err != nil || len(ids) < n {
		t.Fatalf("%d tokens, %v", len(ids), err)
	}
	return ids[:n]
}

// recordedRun feeds tokens, so many a pass, and returns the trace and the engine's own figures.
func recordedRun(t *testing.T, o Options, tokens, rows int) (*RoutingTrace, Stats) {
	t.Helper()
	var out bytes.Buffer
	o.RoutingTrace = &out
	e := open(t, tiny, o)
	s := session(t, e)
	ids := heldoutTokens(t, e, tokens)
	for chunk := range slices.Chunk(ids, rows) {
		if err := s.Feed(context.Background(), chunk); err != nil {
			t.Fatal(err)
		}
	}
	stats := e.Stats()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	trace, err := ReadRoutingTrace(&out)
	if err != nil {
		t.Fatal(err)
	}
	return trace, stats
}

// The simulator is held against the engine: a run on the tiny model with a quarter of its experts in
// memory records its routing, and the replay of that finds what the run found. Without reading ahead
// nothing depends on time but the order in which reads arrive, which moves a few uses in a thousand: the
// two agree within a point of the 2400 uses of a run long enough to tell. With
// it, whether a guess is begun, and whether it is there or on its way when the router speaks, depends on
// the speed of disk and arithmetic at that moment: 1 to 5 points of hits apart have been seen, more where
// others use the machine. These figures, and those of speed, are printed and not judged (go test -v).
func TestReplayFindsWhatTheRunFound(t *testing.T) {
	tokens := 200
	if !haveCPU {
		tokens = 60
	}
	for name, c := range map[string]struct {
		prefetch Toggle
		policy   string
		rows     int
		bound    float64 // 0: time decides, and nothing is judged
	}{
		"demand":     {Off, "", 1, 0.01},
		"lru":        {Off, "lru", 1, 0.01},
		"guesses":    {On, "", 1, 0},
		"auto":       {Auto, "", 1, 0},
		"few rows":   {On, "", 3, 0},
		"throughput": {Off, "", 32, 0},
	} {
		o := streamingOptions(t, 24, Options{Context: 512, Sequences: 1, Chunk: 32,
			Prefetch: c.prefetch, Policy: c.policy})
		trace, stats := recordedRun(t, o, tokens, c.rows)
		r := trace.Recorded(0)
		if r.Hits != stats.Hits || r.Late != stats.Late || r.Uses != stats.Hits+stats.Late+stats.Misses ||
			r.Tokens != int64(tokens) || r.Sections+r.Places != 24 || r.Seconds <= 0 {
			t.Errorf("%s: the trace has %+v, the engine %+v", name, r, stats)
		}
		s, err := Simulate(trace, trace.Options())
		if err != nil {
			t.Fatal(err)
		}
		uses := float64(r.Uses)
		t.Logf("%s: run %.4f ready, %.4f late, %.1f tokens/s (%.0f%% waiting, %.0f MB/s); replay %.4f, "+
			"%.4f, %.1f (%.0f%%)", name, r.HitRate, float64(r.Late)/uses, r.TokensPerS,
			100*r.WaitSeconds/r.Seconds, r.ReadBytesPerS/1e6, s.HitRate, float64(s.Late)/uses, s.TokensPerS,
			100*s.WaitSeconds/s.Seconds)
		measured, replayed := float64(r.Hits+r.Late)/uses, float64(s.Ready+s.Late)/uses
		if haveCPU && c.bound > 0 && math.Abs(measured-replayed) > c.bound {
			t.Errorf("%s: the run found %.4f (%.4f in memory), its replay %.4f (%.4f)", name, measured,
				r.HitRate, replayed, s.HitRate)
		}
		if c.prefetch == On && s.Predictor.IssuedBytes == 0 {
			t.Errorf("%s: the replay read nothing ahead", name)
		}
	}
}

// A timeline keeps to the format that Perfetto reads ("Trace Event Format"): every event has a phase and
// a process; complete events a name, a thread that has one, a time and a duration; and since events of
// one thread must lie within each other or apart, no two of a lane overlap.
func TestTimelineKeepsToTheFormat(t *testing.T) {
	var out bytes.Buffer
	o := streamingOptions(t, 12, Options{Context: 512, Sequences: 1, Chunk: 32, Prefetch: On})
	o.Trace = &out
	e := open(t, tiny, o)
	s := session(t, e)
	ids := heldoutTokens(t, e, 64)
	if err := s.Feed(context.Background(), ids[:32]); err != nil {
		t.Fatal(err)
	}
	for i := range ids[32:] {
		if err := s.Feed(context.Background(), ids[32+i:33+i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	type event struct {
		Phase string `json:"ph"`
		Name  string
		PID   *int
		TID   *int
		TS    *float64
		Dur   *float64
		Args  struct{ Name string }
	}
	var got struct {
		Unit   string  `json:"displayTimeUnit"`
		Events []event `json:"traceEvents"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	threads, lanes := map[int]string{}, map[int][]event{}
	for _, e := range got.Events {
		switch {
		case e.PID == nil || e.Name == "":
			t.Fatalf("%+v", e)
		case e.Phase == "M":
			if e.Name == "thread_name" {
				threads[*e.TID] = e.Args.Name
			}
		case e.Phase != "X" || e.TID == nil || e.TS == nil || e.Dur == nil || *e.TS < 0 || *e.Dur < 0:
			t.Fatalf("%+v", e)
		default:
			lanes[*e.TID] = append(lanes[*e.TID], e)
		}
	}
	if got.Unit != "ms" {
		t.Errorf("unit %q", got.Unit)
	}
	seen := map[string]bool{}
	for lane, events := range lanes {
		seen[threads[lane]] = true
		slices.SortFunc(events, func(a, b event) int {
			if *a.TS < *b.TS {
				return -1
			}
			return 1
		})
		for i := 1; i < len(events); i++ { // times are rounded to nanoseconds
			if a, b := events[i-1], events[i]; *b.TS < *a.TS+*a.Dur-0.002 {
				t.Errorf("%s: %s at %v for %v overlaps %s at %v", threads[lane], a.Name, *a.TS, *a.Dur, b.Name,
					*b.TS)
			}
		}
	}
	for _, lane := range []string{"passes", "compute", "waits for weights", "expert reads 1"} {
		if !seen[lane] {
			t.Errorf("nothing in lane %q of %v", lane, threads)
		}
	}
}

// A trace of what cannot be has no figures to replay.
func TestOldTracesHaveTheSimulatorsDefaults(t *testing.T) {
	f, err := os.Open("../sched/testdata/tiny-heldout.trace")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	trace, err := ReadRoutingTrace(f)
	if err != nil {
		t.Fatal(err)
	}
	if o := trace.Options(); o.Recorded || o.Bandwidth != 0 || o.Ring != 0 || o.Predict ||
		trace.Recorded(0).TraceRun != (sched.TraceRun{}) {
		t.Errorf("%+v", o)
	}
}
