package engine

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/moering/moering/engine/internal/sample"
)

func heldout(t *testing.T, e *Engine, tokens int) []int32 {
	t.Helper()
	text, err := os.ReadFile("../tests/testdata/tiny/heldout.txt")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := e.Encode(string(text[:16*tokens]), true)
	if err != nil {
		t.Fatal(err)
	}
	return ids[:tokens]
}

func TestPerplexityOfCertaintiesAndGuesses(t *testing.T) {
	var m meter
	for range 8 {
		if err := m.add(math.Log(16)); err != nil {
			t.Fatal(err)
		}
	}
	// The square of a logarithm has 53 bits; its root in the error, half of them.
	if r := m.result(); math.Abs(r.Perplexity-16) > 1e-12 || r.Error > 1e-6 || r.Scored != 8 {
		t.Errorf("one of 16, always: %+v", r)
	}
	m = meter{}
	for _, nats := range []float64{1, 3} {
		if err := m.add(nats); err != nil {
			t.Fatal(err)
		}
	}
	// Mean 2, variance 1 over 2 values: error of the mean 1/sqrt(2-1).
	want := math.Exp(2)
	if r := m.result(); math.Abs(r.Perplexity-want) > 1e-12 || math.Abs(r.Error-want) > 1e-12 {
		t.Errorf("%+v, want %v", r, want)
	}
	for _, nats := range []float64{math.NaN(), math.Inf(1)} {
		if err := m.add(nats); !errors.Is(err, ErrFormat) {
			t.Errorf("%v nats: %v", nats, err)
		}
	}
}

// TestPerplexityScoresTheSecondHalves does the same token by token, with a session for each window.
func TestPerplexityScoresTheSecondHalves(t *testing.T) {
	const window, windows = 24, 3
	e := open(t, tiny, Options{Context: 64, Sequences: 2})
	ids := heldout(t, e, window*windows+7)
	calls := 0
	r, err := Perplexity(t.Context(), e, ids, window, func(done, total int) {
		if calls++; done != calls || total != windows {
			t.Errorf("progress %d of %d at call %d", done, total, calls)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	sum, n := 0.0, 0
	for w := range windows {
		s, err := e.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		part := ids[w*window : (w+1)*window]
		for i, id := range part[:window-1] {
			if err := s.Feed(t.Context(), []int32{id}); err != nil {
				t.Fatal(err)
			}
			if i >= window/2 {
				sum, n = sum-sample.LogProb(s.Logits(), part[i+1]), n+1
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if r.Scored != n || r.Windows != windows || r.Window != window || calls != windows {
		t.Errorf("%+v, want %d tokens scored", r, n)
	}
	// The logits are bit-identical however they are fed; only the order of additions could differ.
	if want := math.Exp(sum / float64(n)); math.Abs(r.Perplexity/want-1) > 1e-12 {
		t.Errorf("perplexity %v, token by token %v", r.Perplexity, want)
	}
}

// TestPerplexityIsThatOfLlamaCpp compares with testdata/perplexity.json, which the script beside it
// makes.
func TestPerplexityIsThatOfLlamaCpp(t *testing.T) {
	b, err := os.ReadFile("testdata/perplexity.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Window, Windows, Scored int
		Perplexity, Error       float64
		IDs                     []int32
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	e := open(t, tiny, Options{Context: want.Window, Sequences: 1})
	if ids := heldout(t, e, len(want.IDs)); !slices.Equal(ids, want.IDs) {
		t.Error("the text has other ids than in llama.cpp")
	}
	r, err := Perplexity(t.Context(), e, want.IDs, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Scored != want.Scored || r.Windows != want.Windows {
		t.Errorf("%+v, want %d tokens in %d windows", r, want.Scored, want.Windows)
	}
	// Both round activations to int8, in blocks, but not at the same places: about 1 part in 100 of
	// noise in a product, which changes the mean over 1000 tokens far less.
	if math.Abs(r.Perplexity/want.Perplexity-1) > 0.01 || math.Abs(r.Error/want.Error-1) > 0.02 {
		t.Errorf("perplexity %v +- %v, in llama.cpp %v +- %v", r.Perplexity, r.Error, want.Perplexity,
			want.Error)
	}
}

func TestPerplexityRefusesWindowsThatDoNotFit(t *testing.T) {
	e := open(t, tiny, Options{Context: 64, Sequences: 1})
	ids := heldout(t, e, 50)
	for _, window := range []int{-1, 1, 3, 65, 51, 0} {
		if _, err := Perplexity(t.Context(), e, ids, window, nil); !errors.Is(err, ErrUsage) {
			t.Errorf("window %d of 50 tokens: %v", window, err)
		}
	}
}

func TestMediansAreTakenFigureByFigure(t *testing.T) {
	runs := []BenchRun{{DecodeTokensPerS: 3, HitRate: 0.1}, {DecodeTokensPerS: 1, HitRate: 0.3},
		{DecodeTokensPerS: 2, HitRate: 0.2}}
	before := slices.Clone(runs)
	if m := medians(runs); m.DecodeTokensPerS != 2 || m.HitRate != 0.2 {
		t.Errorf("%+v", m)
	}
	if !slices.Equal(runs, before) {
		t.Error("the runs were reordered")
	}
}

func TestBenchMeasuresWhatItWasAskedFor(t *testing.T) {
	progress := 0
	r, err := Bench(t.Context(), tiny, Options{Threads: 1}, BenchOptions{PromptTokens: 7,
		GenTokens: 5, Sequences: 3, Repetitions: 2, Warmup: 1, Prompt: []int32{1, 2, 3},
		Progress: func(done, total int) { progress = done*10 + total }})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 2 || r.BenchSetup.Sequences != 3 || r.Context < 13 || progress != 33 {
		t.Errorf("%+v, progress %d", r, progress)
	}
	if r.DecodeTokensPerS <= 0 || r.MemoryPeak <= 0 || r.Budget <= 0 {
		t.Errorf("%+v", r)
	}
	for _, b := range []BenchOptions{{PromptTokens: -1}, {Sequences: 1 << 20}, {Prompt: []int32{-1}},
		{Prompt: []int32{2048}}} {
		if _, err := Bench(t.Context(), tiny, Options{}, b); !errors.Is(err, ErrUsage) {
			t.Errorf("%+v: %v", b, err)
		}
	}
}
