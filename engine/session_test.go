package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func text(t *testing.T, s *Session, prompt string, o Sampling) (all string, last Token) {
	t.Helper()
	for token, err := range s.Generate(context.Background(), prompt, o) {
		if err != nil {
			t.Fatal(err)
		}
		all, last = all+token.Text, token
	}
	return all, last
}

// A stop string ends the text before it, also where it spans tokens, and nothing of it is emitted.
func TestStopStringEndsBeforeItself(t *testing.T) {
	e := open(t, tiny, Options{Context: 256})
	const prompt = "package main\n\nimport ("
	whole, last := text(t, session(t, e), prompt, Sampling{MaxTokens: 40, IgnoreEOS: true})
	if last.Finish != "length" || len(whole) < 20 {
		t.Fatalf("%q, %+v", whole, last)
	}
	stop := whole[9:16]
	got, last := text(t, session(t, e), prompt, Sampling{MaxTokens: 40, IgnoreEOS: true,
		Stop: []string{"not in the text", stop}})
	if want := whole[:strings.Index(whole, stop)]; got != want || last.Finish != "stop" {
		t.Errorf("%q, want %q, finish %s", got, want, last.Finish)
	}
}

// A seed determines the tokens; another seed gives others; log-probabilities are the model's.
func TestSeedDeterminesTokens(t *testing.T) {
	e := open(t, tiny, Options{Context: 128})
	sample := func(seed uint64) (ids []int32) {
		for token, err := range session(t, e).Generate(context.Background(), "func ",
			Sampling{Temperature: 1, Seed: seed, MaxTokens: 30, IgnoreEOS: true, LogProbs: 3}) {
			if err != nil {
				t.Fatal(err)
			}
			if len(token.Alternatives) != 3 || token.LogProb > 0 ||
				token.LogProb > token.Alternatives[0].LogProb {
				t.Fatalf("%+v", token)
			}
			ids = append(ids, token.ID)
		}
		return ids
	}
	a := sample(1)
	if !slices.Equal(a, sample(1)) || slices.Equal(a, sample(2)) {
		t.Error("the seed does not determine the tokens")
	}
}

// Wrong use is an error that says so, and leaves the session usable.
func TestWrongUse(t *testing.T) {
	e := open(t, tiny, Options{Context: 64, Sequences: 1})
	s := session(t, e)
	ctx := context.Background()
	for name, err := range map[string]error{
		"id":       s.Feed(ctx, []int32{-1}),
		"truncate": s.Truncate(3),
		"sampling": Sampling{Temperature: -1}.Validate(),
	} {
		if !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Feed(ctx, make([]int32, 65)); !errors.Is(err, ErrContext) {
		t.Errorf("longer than the context: %v", err)
	}
	if _, err := e.NewSession(); !errors.Is(err, ErrContext) {
		t.Errorf("more sessions than sequences: %v", err)
	}
	if err := s.Feed(ctx, []int32{1}); err != nil || len(s.Logits()) != e.Info().Vocabulary {
		t.Errorf("%v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Feed(ctx, []int32{1}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// The template writes its own special tokens; the conversation's ids begin with them.
func TestChatTemplateOfTheModel(t *testing.T) {
	e := open(t, tiny, Options{Context: 64})
	ids, err := e.EncodeChat([]Message{{Role: "user", Content: "hi <b>"}})
	if err != nil {
		t.Fatal(err)
	}
	got := e.Decode(ids)
	want := "<|im_start|>user\nhi <b><|im_end|>\n<|im_start|>assistant\n"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A cancelled session ends alone: those that shared its passes give the tokens that they give alone.
func TestCancelDoesNotDisturbNeighbours(t *testing.T) {
	e := open(t, tiny, Options{Context: 128, Sequences: 3})
	alone := generate(t, session(t, e), []int32{9, 8, 7}, 60)
	for i := range 8 {
		s, other := session(t, e), session(t, e)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() {
			var last error
			n := 0
			for _, err := range other.GenerateTokens(ctx, []int32{1, 2}, Sampling{IgnoreEOS: true}) {
				if last = err; n == 3*i {
					go cancel()
				}
				n++
			}
			ended <- last
		}()
		if got := generate(t, s, []int32{9, 8, 7}, 60); !slices.Equal(got, alone) {
			t.Errorf("%v beside a cancelled session, %v alone", got, alone)
		}
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		cancel()
		s.Close()
		other.Close()
	}
}
