//go:build cgo

package tests

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/moering/moering/engine"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

const (
	// integerCostMax is what integer activations may add to perplexity, as a share of it.
	integerCostMax = 0.005
	// qualityTokens of the held-out text are enough for a default run to see four-bit activations.
	qualityTokens = 4096
	qualityWindow = 256
)

// quality is one line of docs/benchmarks/*-quality.jsonl.
type quality struct {
	Weights     string  `json:"weights"`
	KV          string  `json:"kv"`
	Activations string  `json:"activations"`
	Perplexity  float64 `json:"perplexity"`
	Error       float64 `json:"standard_error"`
	Tokens      int     `json:"tokens_scored"`
	Window      int     `json:"window_tokens"`
	// OverF32 is by how much the perplexity is above that of the float32 weights, exact, as a share;
	// OverExact above that of the same weights, exact, with a float32 cache.
	OverF32   float64 `json:"over_f32,omitempty"`
	OverExact float64 `json:"over_exact"`
}

// measureQuality runs the held-out text, or its first tokens, through a model.
func measureQuality(t *testing.T, path string, exact bool, kv string, tokens int) quality {
	t.Helper()
	text, err := os.ReadFile("testdata/tiny/heldout.txt")
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.Open(path, engine.Options{Device: "cpu", Context: qualityWindow,
		Exact: exact, KVType: kv})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	ids, err := e.Encode(string(text), true)
	if err != nil {
		t.Fatal(err)
	}
	if tokens > 0 {
		ids = ids[:tokens]
	}
	r, err := engine.Perplexity(t.Context(), e, ids, qualityWindow, nil)
	if err != nil {
		t.Fatal(err)
	}
	q := quality{KV: kv, Activations: "int8", Perplexity: r.Perplexity, Error: r.Error,
		Tokens: r.Scored, Window: r.Window}
	if exact {
		q.Activations = "float32"
	}
	return q
}

// Integer activations hardly change what a model predicts: the shipped one, and, where
// MOERING_QUALITY names a file for the lines (tests/quality.sh), one of every format, and caches
// of every type.
func TestIntegerActivationsCostLittlePerplexity(t *testing.T) {
	const shipped = "testdata/tiny/tiny.gguf"
	log := os.Getenv("MOERING_QUALITY")
	if log == "" {
		exact := measureQuality(t, shipped, true, "f32", qualityTokens)
		checkIntegers(t, "shipped", measureQuality(t, shipped, false, "f32", qualityTokens), exact)
		return
	}
	original := os.Getenv("MOERING_QUALITY_MODEL")
	if original == "" {
		original = filepath.Join(t.TempDir(), "F32.gguf")
		widen(t, shipped, original)
	}
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	base := measureQuality(t, original, true, "f32", 0)
	write := func(weights string, q, exact quality) {
		q.Weights = weights
		q.OverF32, q.OverExact = q.Perplexity/base.Perplexity-1, q.Perplexity/exact.Perplexity-1
		line, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s", line)
	}
	write("F32", base, base)
	for _, kv := range []string{"f16", "q8_0"} {
		write("F32", measureQuality(t, original, true, kv, 0), base)
	}
	for _, name := range []string{"shipped", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0",
		"Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4", "Q3_K", "Q2_K"} {
		model := shipped
		if name != "shipped" {
			model = filepath.Join(t.TempDir(), name+".gguf")
			if _, err := engine.Pack(t.Context(), original, model,
				engine.PackOptions{ExpertType: name, DenseType: name}); err != nil {
				t.Fatal(err)
			}
		}
		exact := measureQuality(t, model, true, "f32", 0)
		write(name, exact, exact)
		if name == "F16" || name == "BF16" { // whose products are in float32 in any case
			continue
		}
		for _, kv := range []string{"f32", "f16", "q8_0"} {
			q := measureQuality(t, model, false, kv, 0)
			write(name, q, exact)
			if kv == "f32" {
				checkIntegers(t, name, q, exact)
			}
		}
	}
}

func checkIntegers(t *testing.T, name string, q, exact quality) {
	t.Helper()
	cost := q.Perplexity/exact.Perplexity - 1
	t.Logf("%s: perplexity %.4f with int8 activations, %.4f with float32: %+.3f %%", name, q.Perplexity,
		exact.Perplexity, 100*cost)
	if !(math.Abs(cost) < integerCostMax) {
		t.Errorf("%s: integer activations change perplexity by %+.3f %%, at most %.1f %%", name, 100*cost,
			100*integerCostMax)
	}
	if q.Perplexity == exact.Perplexity {
		t.Errorf("%s: the same to the bit: no activation was rounded", name)
	}
}

// widen writes a model with all its weights in float32.
func widen(t *testing.T, from, to string) {
	t.Helper()
	m, err := store.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	w, err := store.NewGGUFWriter(to, store.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Abort() }()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	for _, key := range m.Metadata().Keys() {
		v, err := m.Metadata().Value(key)
		check(err)
		if key == "general.alignment" || store.IsPackKey(key) {
			continue
		}
		if key == "general.file_type" {
			v = store.Scalar(uint32(0)) // LLAMA_FTYPE_ALL_F32
		}
		check(w.SetMetadata(key, v))
	}
	for _, s := range m.Tensors() {
		check(w.Declare(s.Name, quant.F32, s.Shape))
	}
	for _, s := range m.Tensors() {
		data, err := m.ReadTensor(s.Name, 1<<30)
		check(err)
		values := make([]float32, s.Elements())
		check(quant.Decode(s.Type, values, data))
		wide := make([]byte, 4*len(values))
		check(quant.Encode(quant.F32, wide, values))
		check(w.WriteTensor(s.Name, bytes.NewReader(wide)))
	}
	check(w.Commit())
}
