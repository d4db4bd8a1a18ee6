package engine

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// A session that is alone computes on the goroutine of its caller: no other is woken for a token.
func TestCallComputesOnItsOwnGoroutine(t *testing.T) {
	s := session(t, open(t, tiny, Options{Context: 64}))
	var stack string
	err := s.Score(t.Context(), []int32{5}, func(int, []float32) error {
		stack = string(debug.Stack())
		return nil
	})
	if err != nil || !strings.Contains(stack, "."+t.Name()+"(") {
		t.Errorf("%v; computed by\n%s", err, stack)
	}
}

// hold keeps passes from being computed until it is called again, as a batch job's long pass does.
func hold(e *Engine) (release func()) {
	e.runner.turn <- struct{}{}
	return func() { <-e.runner.turn }
}

// queued waits until n requests wait.
func queued(t *testing.T, r *runner, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		waiting := len(r.waiting)
		r.mu.Unlock()
		if waiting == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d requests wait, want %d", waiting, n)
		}
	}
}

// Whoever waits, the leader and others alike, is gone as soon as it is cancelled, even while a batch job
// computes; those behind it are computed.
func TestCancelledWhileOthersCompute(t *testing.T) {
	const n = 4
	e := open(t, tiny, Options{Context: 64, Sequences: n + 1})
	want := generate(t, session(t, e), []int32{3, 4}, 1)
	for first := range n { // who is cancelled first; 0 leads
		release := hold(e)
		var ended [n]chan error
		var cancel [n]context.CancelFunc
		var sessions [n]*Session
		for i := range n {
			var ctx context.Context
			ctx, cancel[i] = context.WithCancel(t.Context())
			sessions[i], ended[i] = session(t, e), make(chan error, 1)
			go func() { ended[i] <- sessions[i].Feed(ctx, []int32{3, 4}) }()
			queued(t, e.runner, i+1)
		}
		for k := range n - 1 {
			i := (first + k) % n
			cancel[i]()
			if err := <-ended[i]; !errors.Is(err, context.Canceled) {
				t.Errorf("%d, of those from %d: %v", i, first, err)
			}
		}
		release()
		last := (first + n - 1) % n
		if err := <-ended[last]; err != nil {
			t.Error(err)
		}
		cancel[last]()
		if got := sessions[last].Top(1)[0].ID; got != want[0] {
			t.Errorf("%d after the others were cancelled, %d alone", got, want[0])
		}
		for _, s := range sessions {
			s.Close()
		}
	}
}

// Leading is handed on: nobody computes for others after its own request, and none is forgotten.
func TestLeadIsHandedOn(t *testing.T) {
	const n, chunk = 6, 8
	e := open(t, tiny, Options{Context: 128, Sequences: n, Chunk: chunk})
	prompt := make([]int32, 3*chunk) // several passes each, so that not all end in one
	for i := range prompt {
		prompt[i] = int32(5*i + 2)
	}
	alone := session(t, e)
	if err := alone.Feed(t.Context(), prompt); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(alone.Logits())
	alone.Close()
	release := hold(e)
	var sessions [n]*Session
	ended := make(chan error, n)
	for i := range n {
		sessions[i] = session(t, e)
		go func() { ended <- sessions[i].Feed(t.Context(), prompt) }()
		queued(t, e.runner, i+1)
	}
	release()
	for range n {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for i, s := range sessions {
		if !slices.Equal(s.Logits(), want) {
			t.Errorf("session %d has other logits", i)
		}
	}
	e.runner.mu.Lock()
	defer e.runner.mu.Unlock()
	if e.runner.led || len(e.runner.waiting) > 0 {
		t.Errorf("somebody leads (%v), %d wait", e.runner.led, len(e.runner.waiting))
	}
}

// A panic in what a caller gave is that caller's; those that wait behind it are computed.
func TestPanicDoesNotStrandOthers(t *testing.T) {
	e := open(t, tiny, Options{Context: 64, Sequences: 2})
	s, other := session(t, e), session(t, e)
	release := hold(e)
	panicked, fed := make(chan any, 1), make(chan error, 1)
	go func() {
		defer func() { panicked <- recover() }()
		_ = s.Score(t.Context(), []int32{1}, func(int, []float32) error { panic("mine") })
	}()
	queued(t, e.runner, 1)
	go func() { fed <- other.Feed(t.Context(), []int32{1, 2}) }()
	queued(t, e.runner, 2)
	release()
	if got := <-panicked; got != "mine" {
		t.Errorf("%v", got)
	}
	if err := <-fed; err != nil || other.Len() != 2 {
		t.Errorf("%d tokens, %v", other.Len(), err)
	}
}

// Close ends those that wait for a turn, too.
func TestCloseEndsThoseThatWait(t *testing.T) {
	const n = 3
	e := open(t, tiny, Options{Context: 64, Sequences: n})
	release := hold(e)
	ended := make(chan error, n)
	for i := range n {
		s := session(t, e)
		go func() { ended <- s.Feed(context.Background(), []int32{1, 2}) }()
		queued(t, e.runner, i+1)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for range n {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	release()
}
