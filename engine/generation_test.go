package engine

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

// Pulled tokens are those of the iterator, also when the pulling was interrupted again and again.
func TestGenerationGoesOnAfterInterruptions(t *testing.T) {
	e := open(t, tiny, Options{Context: 256, Chunk: 8})
	prompt := make([]int32, 90)
	for i := range prompt {
		prompt[i] = int32(7*i + 3)
	}
	o := Sampling{MaxTokens: 40, IgnoreEOS: true, Temperature: 1, Seed: 5}
	var want []int32
	for token, err := range session(t, e).GenerateTokens(context.Background(), prompt, o) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, token.ID)
	}
	s := session(t, e)
	g, err := s.Start(prompt, o)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var got []int32
	interrupted := 0
	for patience := time.Duration(0); ; patience += 200 * time.Microsecond {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		token, err := g.Next(ctx)
		cancel()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, context.DeadlineExceeded) {
			interrupted++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, token.ID)
	}
	if interrupted == 0 || !slices.Equal(got, want) {
		t.Errorf("%d interruptions: %v, want %v", interrupted, got, want)
	}
	if n := s.Len(); n != len(prompt)+len(want)-1 {
		t.Errorf("%d tokens in the context", n)
	}
	if err := g.Flush(context.Background()); err != nil || s.Len() != len(prompt)+len(want) {
		t.Errorf("after Flush: %d tokens, %v", s.Len(), err)
	}
}

// A fork and its origin go on as if the other were not there.
func TestForkedSessionsAreIndependent(t *testing.T) {
	e := open(t, tiny, Options{Context: 128, Sequences: 3})
	prompt := make([]int32, 40)
	for i := range prompt {
		prompt[i] = int32(11*i + 1)
	}
	alone := session(t, e)
	want := score(t, alone, slices.Concat(prompt, []int32{1, 2, 3}))
	want = want[40*len(alone.Logits()):]
	s := session(t, e)
	if err := s.Feed(context.Background(), prompt); err != nil {
		t.Fatal(err)
	}
	f, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !slices.Equal(f.Logits(), s.Logits()) || f.Len() != s.Len() {
		t.Error("the fork is not as its origin")
	}
	if got := score(t, f, []int32{9, 9, 9, 9}); slices.Equal(got, want) {
		t.Error("other tokens, same logits")
	}
	if got := score(t, s, []int32{1, 2, 3}); !slices.Equal(got, want) {
		t.Error("the fork disturbed its origin")
	}
	s.Close()
	if err := f.Truncate(40); err != nil {
		t.Fatal(err)
	}
	if got := score(t, f, []int32{1, 2, 3}); !slices.Equal(got, want) {
		t.Error("the fork, truncated, is not as its origin was")
	}
	if _, err := s.Fork(); !errors.Is(err, ErrClosed) {
		t.Errorf("fork of a closed session: %v", err)
	}
}
