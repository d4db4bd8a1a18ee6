package engine

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// The built-in model gives the tokens of its file, and leaves no descriptor behind.
func TestBuiltinModelIsTheShippedFile(t *testing.T) {
	want := generate(t, session(t, open(t, tiny, Options{Context: 64})), []int32{1, 2}, 8)
	before := descriptors(t)
	e, err := Open(Builtin, Options{Context: 64})
	if err != nil {
		t.Fatal(err)
	}
	if got := generate(t, session(t, e), []int32{1, 2}, 8); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if e.Info().Path != Builtin {
		t.Errorf("path %q", e.Info().Path)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Inspect(Builtin, Options{}); err != nil {
		t.Error(err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if _, err := Open("mr:huge", Options{}); !errors.Is(err, ErrUsage) {
		t.Errorf("an unknown built-in model: %v", err)
	}
}

// A context that ends while weights are read ends the opening, with nothing left behind.
func TestOpenGivesUpWithTheContext(t *testing.T) {
	before := descriptors(t)
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	_, err := OpenContext(ctx, tiny, Options{Progress: func(done, total int64) {
		if calls++; calls == 2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || calls > 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
