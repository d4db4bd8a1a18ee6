package engine

import (
	"context"
	"errors"
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
