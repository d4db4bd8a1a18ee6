package engine

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func copyTiny(t *testing.T, change func([]byte) []byte) string {
	t.Helper()
	data, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "damaged.gguf")
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A file cut short is an error that names it, wherever it was cut.
func TestTruncatedModelIsAnError(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 8 {
		path := copyTiny(t, func(b []byte) []byte { return b[:rng.IntN(len(b)-1)] })
		e, err := Open(path, Options{Context: 64})
		if err == nil {
			e.Close()
			t.Fatal("a truncated file opens")
		}
		if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrIO) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v", err)
		}
		if !strings.Contains(err.Error(), path) {
			t.Errorf("the file is not named: %v", err)
		}
	}
}

// Bits flipped in the header give an error of a known kind or a model that opens; never a panic.
func TestFlippedHeaderBitsNeverPanic(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	trials := 40
	if testing.Short() {
		trials = 5
	}
	for range trials {
		var at int
		path := copyTiny(t, func(b []byte) []byte {
			at = rng.IntN(4000)
			b[at] ^= 1 << rng.IntN(8)
			return b
		})
		_, _, err := Inspect(path, Options{Context: 64})
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) &&
			!errors.Is(err, ErrIO) && !errors.Is(err, ErrBudget) {
			t.Errorf("byte %d: an error of no kind: %v", at, err)
		}
	}
}

// A file that shrinks while it is open ends the call with an error that names file, tensor and
// offset, and nothing stays leased; when its bytes are back, the engine goes on.
func TestFileShrinkingWhileOpen(t *testing.T) {
	path := copyTiny(t, func(b []byte) []byte { return b })
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, path, Options{Context: 64})
	s := session(t, e)
	if err := os.Truncate(path, 3<<20); err != nil {
		t.Fatal(err)
	}
	err = s.Feed(context.Background(), []int32{1, 2, 3})
	if !errors.Is(err, ErrIO) || !strings.Contains(err.Error(), path) ||
		!strings.Contains(err.Error(), "blk.") {
		t.Fatalf("%v", err)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := s.Feed(context.Background(), []int32{1, 2, 3}); err != nil {
		t.Errorf("after the file is whole again: %v", err)
	}
}

// A missing tensor, and one of a type that its role cannot have, are errors that name it.
func TestMissingTensorAndWrongTypeAreNamed(t *testing.T) {
	const name = "blk.3.ffn_norm.weight"
	for what, change := range map[string]func(b []byte, at int){
		"missing":   func(b []byte, at int) { b[at] = 'x' },
		"F16":       func(b []byte, at int) { b[at+len(name)+4+8] = 1 },     // one dimension, then the type
		"dimension": func(b []byte, at int) { b[at+len(name)+4] ^= 1 << 5 }, // 256 becomes 288
	} {
		path := copyTiny(t, func(b []byte) []byte {
			change(b, bytes.Index(b, []byte(name)))
			return b
		})
		_, _, err := Inspect(path, Options{Context: 64})
		if what == "F16" { // half the bytes, so the tensor is well formed: it opens, and is converted
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "blk.3.ffn_norm.weight") ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	path := copyTiny(t, func(b []byte) []byte {
		at := bytes.Index(b, []byte(name)) + len(name) + 4 + 8
		b[at] = 26 // I32: of the same size, and no weight
		return b
	})
	_, _, err := Inspect(path, Options{Context: 64})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), name) ||
		!strings.Contains(err.Error(), "I32") {
		t.Errorf("I32: %v", err)
	}
}
