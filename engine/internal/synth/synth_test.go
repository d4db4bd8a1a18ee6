package synth

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moering/moering/engine/internal/tokenizer"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

func fillable() []quant.Type {
	return []quant.Type{quant.F32, quant.F16, quant.BF16, quant.Q8_0, quant.Q4_0, quant.Q4_K,
		quant.Q5_K, quant.Q6_K}
}

// TestWeightsHaveTheirMoments decodes what fill made, block by block.
func TestWeightsHaveTheirMoments(t *testing.T) {
	const n, deviation = 1 << 18, 0.02
	for _, kind := range fillable() {
		p := make([]byte, n/kind.BlockSize()*kind.BlockBytes())
		fill(kind, p, rand.NewPCG(1, 2), deviation)
		x := make([]float32, n)
		if err := quant.Decode(kind, x, p); err != nil {
			t.Fatal(err)
		}
		sum, squares := 0.0, 0.0
		for _, v := range x {
			sum, squares = sum+float64(v), squares+float64(v)*float64(v)
		}
		// The mean of n weights has deviation deviation/sqrt(n), or with a sign a block a few times that;
		// half precision and a uniform sample of n make the deviation right to 1 in 500.
		if mean := sum / n; math.Abs(mean) > 8*deviation/math.Sqrt(n) {
			t.Errorf("%v: mean %v", kind, mean)
		}
		if got := math.Sqrt(squares / n); math.Abs(got/deviation-1) > 0.01 {
			t.Errorf("%v: deviation %v, want %v", kind, got, deviation)
		}
	}
}

func write(t *testing.T, o Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := Write(t.Context(), path, o, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEveryFamilyHasTheTensorsOfItsPublishedFile compares names with the oracle checkpoints, which
// llama.cpp loads.
func TestEveryFamilyHasTheTensorsOfItsPublishedFile(t *testing.T) {
	for _, family := range Families() {
		o := Options{Family: family, Layers: 2}
		if family == "qwen3moe" {
			o.Layers = 3
		}
		o.Tied = family == "qwen3" || family == "llama"
		m, err := store.Open(write(t, o))
		if err != nil {
			t.Fatal(err)
		}
		want, err := store.Open("../../../tests/testdata/families/" + family + "/model.gguf")
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want.Tensors() {
			if w.Name == "rope_freqs.weight" { // llama3 scaling, which is not made here
				continue
			}
			got, err := m.Tensor(w.Name)
			if err != nil {
				t.Errorf("%s: %v", family, err)
			} else if squeezed(got.Shape) != squeezed(w.Shape) {
				t.Errorf("%s: %s has shape %v, published %v", family, w.Name, got.Shape, w.Shape)
			}
		}
		for _, g := range m.Tensors() {
			if !want.Has(g.Name) {
				t.Errorf("%s: tensor %s is not in a published file", family, g.Name)
			}
		}
	}
}

// TestEveryFamilyHasTheTensorsOfItsPublishedDirectory does the same for Hugging Face directories.
func TestEveryFamilyHasTheTensorsOfItsPublishedDirectory(t *testing.T) {
	for _, family := range Families() {
		o := Options{Family: family, Layers: 2, Safetensors: true, Experts: 8}
		switch family {
		case "qwen3moe":
			o.Layers = 3
		case "qwen3", "llama":
			o.Tied, o.Experts = true, 0
		}
		dir := filepath.Join(t.TempDir(), "model")
		if err := Write(t.Context(), dir, o, nil); err != nil {
			t.Fatal(err)
		}
		m, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		want, err := store.Open("../../../tests/testdata/families/" + family + "/hf")
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want.Tensors() {
			if got, err := m.Tensor(w.Name); err != nil {
				t.Errorf("%s: %v", family, err)
			} else if len(got.Shape) != len(w.Shape) || got.DType != "BF16" {
				t.Errorf("%s: %s is %s %v, published %v", family, w.Name, got.DType, got.Shape, w.Shape)
			}
		}
		for _, g := range m.Tensors() {
			if !want.Has(g.Name) {
				t.Errorf("%s: tensor %s is not in a published directory", family, g.Name)
			}
		}
	}
}

// A directory appears complete or not at all, and none is written over.
func TestADirectoryIsWrittenWholeOrNotAtAll(t *testing.T) {
	parent := t.TempDir()
	dir, o := filepath.Join(parent, "model"), Options{Layers: 1, Safetensors: true}
	ctx, cancel := context.WithCancel(t.Context())
	err := Write(ctx, dir, o, func(done, total int64) {
		if done > total/2 {
			cancel()
		}
	})
	if left, e := os.ReadDir(parent); !errors.Is(err, context.Canceled) || e != nil || len(left) > 0 {
		t.Errorf("%v, and %v is left, %v", err, left, e)
	}
	if err := Write(t.Context(), dir, o, nil); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), dir, o, nil); !errors.Is(err, ErrOptions) {
		t.Errorf("over a directory that is there: %v", err)
	}
	o.ExpertType = "Q4_0"
	if err := Write(t.Context(), dir+"2", o, nil); !errors.Is(err, ErrOptions) {
		t.Errorf("blocks in safetensors: %v", err)
	}
}

// squeezed counts the dims of more than one.
func squeezed(shape []int64) (dims int) {
	for _, n := range shape {
		if n > 1 {
			dims++
		}
	}
	return dims
}

func TestSameOptionsGiveTheSameBytes(t *testing.T) {
	read := func(seed uint64) []byte {
		b, err := os.ReadFile(write(t, Options{Layers: 1, Seed: seed}))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := read(1)
	if !bytes.Equal(one, read(1)) {
		t.Error("two files of seed 1 differ")
	}
	if bytes.Equal(one, read(2)) {
		t.Error("seeds 1 and 2 give the same file")
	}
}

func TestVocabularyEncodesAnyText(t *testing.T) {
	for _, size := range []int{vocabularyMin, 300, 4096, 9000, 151936} {
		v := newVocabulary(size)
		if len(v.tokens) != size {
			t.Fatalf("%d tokens, want %d", len(v.tokens), size)
		}
		tok, err := tokenizer.FromGGUF(tokenizer.GGUFVocab{Model: "gpt2", Pre: "qwen2",
			Tokens: v.tokens, Types: v.types, Merges: v.merges, BOS: endOfText, EOS: endOfText,
			UNK: -1, PAD: endOfText, EOT: turnEnd})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"hello world", "a\x00\n\t  ", "Größe 漢字 🙂", letters} {
			ids, err := tok.Encode(text, tokenizer.EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Decode(ids, false); got != text {
				t.Errorf("vocabulary %d: %q came back as %q", size, text, got)
			}
		}
	}
}

func TestBadOptionsAreErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	for _, o := range []Options{{Family: "gpt"}, {Layers: -1}, {Dim: 1 << 30}, {Heads: 8, KVHeads: 3},
		{HeadDim: 5}, {Family: "llama", Experts: 4}, {Experts: 4, ExpertsUsed: 5}, {SharedWidth: 64},
		{Vocabulary: 3}, {Vocabulary: 1 << 30}, {ExpertType: "Q2_K"}, {DenseType: "?"}, {Dim: 200},
		{ExpertWidth: 100}, {Context: -1}} {
		err := Write(t.Context(), path, o, nil)
		if !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: error %v", o, err)
		}
	}
	huge := Options{Layers: 20, Dim: 1 << 16, Heads: 64, Experts: 4096, ExpertWidth: 1 << 16}
	if err := Write(t.Context(), path, huge, nil); !errors.Is(err, ErrSpace) {
		t.Errorf("a model of 600 TB: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, path, Options{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestYardstickIsWhatItSaysItIs(t *testing.T) {
	o, err := Preset("yardstick")
	if err != nil {
		t.Fatal(err)
	}
	if o, err = o.Complete(); err != nil {
		t.Fatal(err)
	}
	tensors, err := layout(o)
	if err != nil {
		t.Fatal(err)
	}
	total, experts := int64(0), int64(0)
	for _, x := range tensors {
		n := int64(x.kind.BlockBytes())
		for _, dim := range x.shape {
			n *= dim
		}
		n /= int64(x.kind.BlockSize())
		total += n
		if strings.Contains(x.name, "_exps.") {
			experts += n
		}
	}
	if want := int64(24 * 128 * 3 * 2048 * 768 / 32 * 18); experts != want {
		t.Errorf("experts have %d bytes, want %d", experts, want)
	}
	if rest := total - experts; rest < 3e8 || rest > 6e8 {
		t.Errorf("%d bytes are not experts", rest)
	}
	if _, err := Preset("x"); !errors.Is(err, ErrOptions) {
		t.Error(err)
	}
}

func BenchmarkFill(b *testing.B) {
	p := make([]byte, chunkBytes)
	for _, kind := range fillable() {
		b.Run(kind.String(), func(b *testing.B) {
			r := rand.NewPCG(1, 1)
			b.SetBytes(chunkBytes)
			for b.Loop() {
				fill(kind, p[:len(p)-len(p)%kind.BlockBytes()], r, 0.02)
			}
		})
	}
}
