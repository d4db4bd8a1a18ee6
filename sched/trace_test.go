package sched

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/iotest"
)

// randomTrace makes passes of a shape.
func randomTrace(rng *rand.Rand) (TraceShape, []TracePass) {
	s := TraceShape{Layers: 1 + rng.IntN(6), Experts: 2 + rng.IntN(300),
		GroupBytes: rng.Int64N(1 << 30), DenseBytes: rng.Int64N(1 << 30)}
	s.TopK = 1 + rng.IntN(min(s.Experts, 9))
	if rng.IntN(2) == 0 {
		s.Run = TraceRun{Sections: rng.IntN(9), Places: rng.IntN(99), Policy: "reuse"[:rng.IntN(6)],
			Prefetch: Prefetch(rng.IntN(3)), BytesPerSecond: rng.Int64N(1 << 40),
			Depth: rng.IntN(9), Pieces: rng.IntN(9)}
	}
	ids := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(rng.IntN(s.Experts))
		}
		return out
	}
	passes := make([]TracePass, rng.IntN(20))
	for i := range passes {
		rows := 1 + rng.IntN(5)
		p := TracePass{Rows: rows, Sequences: 1 + rng.IntN(rows)}
		if rng.IntN(2) == 0 {
			p.Figures = PassFigures{rng.Int64N(1e9), rng.Int64N(1e9), rng.Int64N(1e9),
				ReadFigures{rng.Int64N(9), [FillsMax]int64{rng.Int64N(1e9), rng.Int64N(9)}}}
		}
		for l := range s.Layers {
			switch rng.IntN(4) {
			case 0:
			case 1:
				p.Layers = append(p.Layers, TraceLayer{Layer: l, IDs: ids(rows)})
			default:
				p.Layers = append(p.Layers, TraceLayer{Layer: l, IDs: ids(rows * s.TopK),
					Predicted: ids(rows * s.TopK),
					Figures:   LayerFigures{rng.Int64N(1e9), rng.Int64N(1e9), rng.Int64N(2), 1, 0}})
			}
		}
		passes[i] = p
	}
	return s, passes
}

func writeTrace(t testing.TB, s TraceShape, passes []TracePass) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewTraceWriter(&out, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range passes {
		if err := w.Pass(p.Rows, p.Sequences); err != nil {
			t.Fatal(err)
		}
		for _, l := range p.Layers {
			if err := w.Layer(l); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Done(p.Figures); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// readTrace returns the passes before the first error, and that error unless it is io.EOF.
func readTrace(in io.Reader) (s TraceShape, passes []TracePass, err error) {
	r, err := NewTraceReader(in)
	if err != nil {
		return s, nil, err
	}
	for {
		var p TracePass
		if err := r.Next(&p); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return r.Shape(), passes, err
		}
		passes = append(passes, p)
	}
}

// equalPasses compares what passes say, where an absent slice and an empty one are the same.
func equalPasses(a, b []TracePass) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Rows != b[i].Rows || a[i].Sequences != b[i].Sequences ||
			a[i].Figures != b[i].Figures || len(a[i].Layers) != len(b[i].Layers) {
			return false
		}
		for j, x := range a[i].Layers {
			y := b[i].Layers[j]
			if x.Layer != y.Layer || x.Figures != y.Figures || !reflect.DeepEqual(x.IDs, y.IDs) ||
				len(x.Predicted) != len(y.Predicted) ||
				len(x.Predicted) > 0 && !reflect.DeepEqual(x.Predicted, y.Predicted) {
				return false
			}
		}
	}
	return true
}

// What is written is read, whatever pieces the reader gives, and a trace that was cut off at any
// byte gives the passes before the cut.
func TestTracesComeBackWhole(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 2))
		s, passes := randomTrace(rng)
		text := writeTrace(t, s, passes)
		for _, in := range []io.Reader{bytes.NewReader(text), iotest.OneByteReader(bytes.NewReader(text)),
			iotest.DataErrReader(bytes.NewReader(text))} {
			shape, got, err := readTrace(in)
			if err != nil || shape != s || !equalPasses(got, passes) {
				t.Fatalf("seed %d: %v, %+v, %d passes of %d", seed, err, shape, len(got), len(passes))
			}
		}
		for range 20 {
			cut := rng.IntN(len(text))
			_, got, err := readTrace(bytes.NewReader(text[:cut]))
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) || len(got) > len(passes) ||
				!equalPasses(got, passes[:len(got)]) {
				t.Fatalf("seed %d, cut at %d: %v, %d passes", seed, cut, err, len(got))
			}
		}
	}
}

// ranUnknown is a trace's TraceRun where nothing is known of it, noFigures a pass's figures.
const (
	ranUnknown = "\x00\x00\x00\x00\x00\x00\x00"
	noFigures  = "\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00"
)

func TestTraceReaderPassesErrorsOn(t *testing.T) {
	s := TraceShape{Layers: 2, Experts: 4, TopK: 2}
	layers := []TraceLayer{{Layer: 1, IDs: []int32{3, 1}}}
	text := writeTrace(t, s, []TracePass{{Rows: 1, Layers: layers}})
	broken := errors.New("broken")
	_, got, err := readTrace(io.MultiReader(bytes.NewReader(text), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || len(got) != 1 {
		t.Errorf("%v, %d passes", err, len(got))
	}
	const one, two = "MRTRACE\x01\x01\x01\x01\x00\x00", "MRTRACE\x01\x02\x01\x01\x00\x00" // layers
	for _, bad := range []string{"", "MRTRACF\x01", "MRTRACE\x00\x01\x01\x01\x00\x00" + ranUnknown,
		"MRTRACE\x02\x01\x01\x01\x00\x00" + ranUnknown,                    // a later version
		one + "\x00\x00\x03\x00\x00\x00\x00",                              // prefetch 3
		one + "\x00\x00\x00\x00\x00\x00\x21",                              // a long name
		one + "\x00\x00\x00\x00\x00\x00\x05lru",                           // a name cut off
		one + ranUnknown + "\x01\x01\x01\x01\x02\x00\x00\x00\x00\x00\x00", // figures that say nothing
		"MRTRACE\x01\x01\x01\x02\x00\x00" + ranUnknown, "MRTRACE\x01\x00\x01\x01\x00\x00" + ranUnknown,
		"MRTRACE\x01\x81\x00\x01\x01\x00\x00" + ranUnknown, one + ranUnknown + "\x01\x02",
		one + ranUnknown + "\x01\x01\x01\x01\x00\x05\x00",
		two + ranUnknown + "\x01\x01\x02\x01\x00\x00\x01\x01\x00\x00\x00", // layers backwards
		"MRTRACE\x01\x80\x20\x80\x80\x01\x01\x00\x00" + ranUnknown} {      // 4096 layers of 16384
		if _, _, err := readTrace(bytes.NewReader([]byte(bad))); !errors.Is(err, ErrTrace) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTraceWriterRefusesWhatCannotBe(t *testing.T) {
	s := TraceShape{Layers: 2, Experts: 4, TopK: 2}
	for name, c := range map[string]struct {
		layer          int
		ids, predicted []int32
	}{
		"layer":            {2, []int32{1}, nil},
		"too many":         {0, []int32{1, 2, 3}, nil},
		"none":             {0, nil, nil},
		"an expert":        {0, []int32{4}, nil},
		"a negative one":   {0, []int32{-1}, nil},
		"predictions":      {0, []int32{1}, []int32{2}},
		"layers backwards": {-1, []int32{1}, nil},
	} {
		w, err := NewTraceWriter(io.Discard, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Pass(1, 1); err != nil {
			t.Fatal(err)
		}
		err = w.Layer(TraceLayer{Layer: c.layer, IDs: c.ids, Predicted: c.predicted})
		if !errors.Is(err, ErrTrace) || !errors.Is(w.Flush(), ErrTrace) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range [][2]int{{0, 0}, {2, 3}, {2, -1}, {traceRowsMax + 1, 1}} {
		w, err := NewTraceWriter(io.Discard, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Layer(TraceLayer{IDs: []int32{1, 2}}); !errors.Is(err, ErrTrace) {
			t.Errorf("a layer before a pass: %v", err)
		}
		if err := w.Pass(n[0], n[1]); !errors.Is(err, ErrTrace) {
			t.Errorf("%v: %v", n, err)
		}
	}
	if _, err := NewTraceWriter(io.Discard, TraceShape{}); !errors.Is(err, ErrTrace) {
		t.Error(err)
	}
}

func TestTraceWriterAllocatesNothing(t *testing.T) {
	w, err := NewTraceWriter(io.Discard, TraceShape{Layers: 2, Experts: 300, TopK: 2})
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int32, 2*512)
	if n := testing.AllocsPerRun(200, func() {
		w.Pass(512, 1)
		w.Layer(TraceLayer{Layer: 1, IDs: ids, Predicted: ids, Figures: LayerFigures{Before: 1}})
		w.Done(PassFigures{Outside: 1})
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
}

// fuzzedGroupsMax bounds what a fuzzed trace is replayed over, for speed.
const fuzzedGroupsMax = 1 << 12

// Whatever bytes there are, the reader ends in passes that can be written again and
// replayed, or in an error.
func FuzzTraceReader(f *testing.F) {
	for seed := range uint64(4) {
		s, passes := randomTrace(rand.New(rand.NewPCG(seed, 3)))
		f.Add(writeTrace(f, s, passes))
	}
	f.Add([]byte("MRTRACE\x01\xff\xff\xff\xff"))
	f.Add([]byte("MRTRACE\x01\x02\x04\x02\xe8\x07\x00" + ranUnknown +
		"\x01\x01\x01\x02\x01\x00\x01\x02\x03\x00" + noFigures))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, passes, err := readTrace(bytes.NewReader(text))
		if err != nil {
			return
		}
		again := writeTrace(t, s, passes)
		if shape, got, err := readTrace(bytes.NewReader(again)); err != nil || shape != s ||
			!equalPasses(got, passes) {
			t.Errorf("%v: %q comes back as %q", err, text, again)
		}
		if !bytes.Equal(again, text) {
			t.Errorf("%q is written as %q", text, again)
		}
		trace, err := ReadTrace(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if n := trace.Groups(); n <= fuzzedGroupsMax {
			for _, policy := range []string{"", Optimum} {
				r := simulate(t, trace, SimulateOptions{Policy: policy, Places: n / 2, Predict: n > 2,
					Ring: min(n, 3), Bandwidth: 1e9, Latency: 1e-4})
				if r.Hits > r.Uses || r.Tokens != trace.Tokens || r.WaitSeconds > r.Seconds*(1+1e-9) {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}
