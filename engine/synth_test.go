package engine

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"
)

func TestSynthErrorsHaveTheirKinds(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.gguf")
	bad := SynthOptions{Heads: 3, KVHeads: 2}
	if err := Synth(t.Context(), path, bad, nil); !errors.Is(err, ErrUsage) {
		t.Errorf("heads that cannot be shared: %v", err)
	}
	missing := filepath.Join(dir, "missing", "m.gguf")
	if err := Synth(t.Context(), missing, SynthOptions{}, nil); !errors.Is(err, ErrIO) {
		t.Errorf("a directory that is not there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Synth(ctx, path, SynthOptions{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := (SynthOptions{Dim: -1}).Complete(); !errors.Is(err, ErrUsage) {
		t.Errorf("a negative dim: %v", err)
	}
	if o, err := (SynthOptions{Dim: 512}).Complete(); err != nil || o.Layers == 0 || o.Dim != 512 {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := SynthPreset("none"); !errors.Is(err, ErrUsage) {
		t.Errorf("unknown preset: %v", err)
	}
}

// A directory of any family opens and computes; its tensors and config are those of the published ones.
func TestSynthSafetensorsOpens(t *testing.T) {
	for _, family := range []string{"qwen3moe", "qwen2moe", "olmoe", "mixtral", "llama", "qwen3"} {
		dir := filepath.Join(t.TempDir(), family)
		o := SynthOptions{Family: family, Layers: 2, Dim: 64, Safetensors: true}
		if err := Synth(t.Context(), dir, o, nil); err != nil {
			t.Fatal(err)
		}
		e := open(t, dir, Options{Context: 64})
		if info := e.Info(); info.Family != family || info.Layers != 2 || info.Format != "safetensors" {
			t.Errorf("%s: %+v", family, info)
		}
		for i, v := range score(t, session(t, e), []int32{3, 1, 4, 1, 5}) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("%s: logit %d is %v", family, i, v)
			}
		}
	}
}
