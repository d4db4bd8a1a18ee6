package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moering/moering/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, sequences int, poll Poll) *Engine {
	t.Helper()
	o := engine.Options{Context: 128, Sequences: sequences}
	e, err := Open(context.Background(), engine.Builtin, o, Traces{}, poll)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func newest(t *testing.T, e *Engine, o engine.Sampling) *Session {
	t.Helper()
	s, err := e.NewSession(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// finish generates to the end, through cancellations, and returns the text.
func finish(s *Session) (string, error) {
	var all strings.Builder
	for {
		err := s.Do(func(ctx context.Context) error {
			token, err := s.Next(ctx)
			all.WriteString(token.Text)
			return err
		})
		switch {
		case errors.Is(err, ErrEnd):
			return all.String(), nil
		case err != nil && !errors.Is(err, context.Canceled):
			return all.String(), err
		}
	}
}

func feed(s *Session, text string) error {
	return s.Do(func(ctx context.Context) error { return s.FeedText(ctx, text) })
}

// A handle leads to its value until it is closed, and never to another's.
func TestHandlesAreNeverMistaken(t *testing.T) {
	table, other := NewTable[int](KindSession), NewTable[int](KindEngine)
	open, closed := map[uint64]int{}, map[uint64]bool{}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		if rng.IntN(2) == 0 {
			h, err := table.Add(i)
			if err != nil {
				t.Fatal(err)
			}
			if _, reused := open[h]; reused || closed[h] || h == 0 {
				t.Fatalf("handle %#x was given before", h)
			}
			open[h] = i
		} else {
			for h, want := range open {
				if got, err := table.Take(h); err != nil || got != want {
					t.Fatalf("%d, %v", got, err)
				}
				delete(open, h)
				closed[h] = true
				break
			}
		}
		if _, err := table.Get(rng.Uint64()); !errors.Is(err, ErrHandle) {
			t.Fatalf("rubbish: %v", err)
		}
	}
	for h, want := range open {
		if got, err := table.Get(h); err != nil || got != want {
			t.Fatalf("%d, %v", got, err)
		}
		if _, err := other.Get(h); !errors.Is(err, ErrHandle) {
			t.Fatalf("of another kind: %v", err)
		}
	}
	for h := range closed {
		if _, err := table.Get(h); !errors.Is(err, ErrHandle) {
			t.Fatalf("closed: %v", err)
		}
	}
	if table.Len() != len(open) {
		t.Errorf("%d open, want %d", table.Len(), len(open))
	}
}

// Every status is that of the kinds of error behind it, and what is unknown is a defect.
func TestStatusOfErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int32
	}{{nil, OK}, {ErrEnd, End}, {ErrAgain, Again}, {errors.New("?"), EInternal},
		{fmt.Errorf("a %w: %w", engine.ErrFormat, engine.ErrIO), EFormat},
		{fmt.Errorf("a %w", context.Canceled), ECanceled}, {engine.ErrBudget, ENoMem},
		{engine.ErrContext, ELimit}, {ErrSpace, ELimit}, {ErrBusy, EBusy}, {ErrHandle, EClosed},
		{errors.Join(engine.ErrClosed, engine.ErrIO), EClosed}, {engine.ErrDevice, EDevice},
		{engine.ErrUsage, EInval}, {engine.ErrUnsupported, EUnsupported}, {engine.ErrIO, EIO},
		{Guard(func() error { panic("no") }), EInternal}} {
		if got := Status(c.err); got != c.want {
			t.Errorf("%v: status %d, want %d", c.err, got, c.want)
		}
	}
}

// The engine goes with the last that holds it, whatever the order.
func TestEngineOutlivesItsHandle(t *testing.T) {
	e := open(t, 2, nil)
	s, f := newest(t, e, engine.Sampling{MaxTokens: 3}), (*Session)(nil)
	if err := feed(s, "func"); err != nil {
		t.Fatal(err)
	}
	if err := e.Release(); err != nil {
		t.Fatal(err)
	}
	err := s.Do(func(ctx context.Context) (err error) { f, err = s.Fork(ctx); return err })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := finish(f); err != nil || text == "" {
		t.Errorf("%q, %v", text, err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := e.Hold(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("a freed engine can be held: %v", err)
	}
	if err := feed(f, "a"); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("a closed session takes text: %v", err)
	}
}

// Poll is asked while a call blocks, learns how far an opening is, and ends the call.
func TestPollEndsACall(t *testing.T) {
	asked, ending := 0, false
	e := open(t, 1, func(done, total uint64) bool { asked++; return ending })
	s := newest(t, e, engine.Sampling{})
	ending = true
	start := time.Now()
	err := s.Do(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || time.Since(start) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	before := asked
	err = s.DoHere(func(context.Context) error { time.Sleep(3 * pollEvery); return nil })
	if err != nil || asked != before {
		t.Errorf("%v, asked %d times inside a call of the caller's own", err, asked-before)
	}
	ending = false
	if err := errors.Join(s.Close(), e.Release()); err != nil {
		t.Error(err)
	}
}

// A file is there complete or not at all, and holds what was saved.
func TestSaveFileIsAllOrNothing(t *testing.T) {
	e := open(t, 2, nil)
	s, r := newest(t, e, engine.Sampling{MaxTokens: 5}), newest(t, e, engine.Sampling{MaxTokens: 5})
	if err := feed(s, "package main"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	save := func(ctx context.Context) error { return s.SaveFile(ctx, path) }
	if err := errors.Join(s.Do(save), s.Do(save)); err != nil {
		t.Fatal(err)
	}
	err := s.Do(func(ctx context.Context) error {
		return s.SaveFile(ctx, filepath.Join(dir, "no", "such"))
	})
	if Status(err) != EIO {
		t.Errorf("%v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	var direct bytes.Buffer
	if err := s.Do(func(ctx context.Context) error { return s.Save(ctx, &direct) }); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, direct.Bytes()) {
		t.Errorf("%d bytes in the file, %d saved, %v", len(text), direct.Len(), err)
	}
	if err := r.Do(func(context.Context) error { return r.RestoreFile(path) }); err != nil {
		t.Fatal(err)
	}
	a, errA := finish(s)
	b, errB := finish(r)
	if a != b || a == "" || errA != nil || errB != nil {
		t.Errorf("%q, %q, %v, %v", a, b, errA, errB)
	}
	if err := errors.Join(s.Close(), r.Close(), e.Release()); err != nil {
		t.Error(err)
	}
}

// The log's lines have message and attributes, and only those of the level.
func TestLogLines(t *testing.T) {
	var got []string
	log := NewLogger(slog.LevelInfo, func(level slog.Level, line string) {
		got = append(got, level.String()+" "+line)
	})
	log.Debug("hidden")
	log.Info("device", "name", "cpu")
	log.With("a", 1).WithGroup("g").Warn("slow", "b", 2)
	want := []string{"INFO device name=cpu", "WARN slow a=1 g.b=2"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", got, want)
	}
}

// Results do not depend on what else is under way, and none is lost or given twice.
func TestBatchGivesEachResultOnce(t *testing.T) {
	e := open(t, 3, nil)
	o := engine.Sampling{MaxTokens: 6, Temperature: 0.8, Seed: 4}
	prompts := []string{"func", "type T", "var x", "package main", strings.Repeat("x ", 300)}
	want := map[string]string{}
	for _, p := range prompts[:4] {
		s := newest(t, e, o)
		if err := feed(s, p); err != nil {
			t.Fatal(err)
		}
		text, err := finish(s)
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		want[p] = text
	}
	b, err := e.NewBatch(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	const n = 60
	for next := uint64(0); ; {
		var submit error
		for submit == nil && next < n {
			if submit = b.Submit(next, prompts[next%5], nil); submit == nil {
				next++
			}
		}
		err := b.Next(func(r Result) error {
			p := prompts[r.ID%5]
			fits := r.ID%5 < 4
			if seen[r.ID] || fits && (r.Err != nil || r.Text != want[p]) ||
				!fits && !errors.Is(r.Err, engine.ErrContext) {
				t.Errorf("result %+v, want %q", r, want[p])
			}
			seen[r.ID] = true
			return nil
		})
		if errors.Is(err, ErrEnd) {
			break
		}
		if err != nil || submit != nil && !errors.Is(submit, ErrAgain) {
			t.Fatal(err, submit)
		}
	}
	if len(seen) != n {
		t.Errorf("%d results, want %d", len(seen), n)
	}
	if err := errors.Join(b.Close(), b.Close(), e.Release()); err != nil {
		t.Error(err)
	}
}

// Wake ends a wait and nothing else; Close ends the wait for good.
func TestBatchWakes(t *testing.T) {
	e := open(t, 1, nil)
	o := engine.Sampling{MaxTokens: 20, IgnoreEOS: true}
	b, err := e.NewBatch(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.Wake() // nobody waits
	next := func() (r Result, err error) {
		err = b.Next(func(got Result) error { r = got; return nil })
		return r, err
	}
	const prompts = 3
	for i := range prompts {
		if err := b.Submit(uint64(i), "func", nil); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var waking sync.WaitGroup
	waking.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				b.Wake()
			}
		}
	})
	woken, results := 0, 0
	for results < prompts {
		r, err := next()
		switch {
		case errors.Is(err, context.Canceled):
			woken++
		case err != nil || r.Err != nil || len(r.Tokens) != o.MaxTokens:
			t.Fatalf("%+v, %v", r, err)
		default:
			results++
		}
	}
	close(done)
	waking.Wait()
	if woken == 0 {
		t.Error("nothing was woken")
	}
	if err := b.Submit(7, "func", nil); err != nil {
		t.Fatal(err)
	}
	waking.Go(func() {
		for {
			b.mu.Lock()
			waiting := b.wake != nil
			b.mu.Unlock()
			if waiting {
				break
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if r, err := next(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("%+v, %v", r, err)
	}
	waking.Wait()
	if err := e.Release(); err != nil {
		t.Error(err)
	}
}

// Traces are complete once the engine is freed, and one that cannot be written is said in the log.
func TestTracesAreCompleteAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	traces := Traces{filepath.Join(dir, "timeline"), filepath.Join(dir, "routing")}
	var logged []string
	o := engine.Options{Context: 64, Logger: NewLogger(slog.LevelError,
		func(_ slog.Level, line string) { logged = append(logged, line) })}
	for range 2 {
		e, err := Open(context.Background(), engine.Builtin, o, traces, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newest(t, e, engine.Sampling{MaxTokens: 3})
		if err := feed(s, "func"); err != nil {
			t.Fatal(err)
		}
		if err := e.Release(); err != nil {
			t.Fatal(err)
		}
		if _, err := finish(s); err != nil {
			t.Fatal(err)
		}
		full := traces.Timeline == fullDisk
		if err := s.Close(); full != (Status(err) == EIO) || full != (len(logged) == 1) {
			t.Errorf("closing: %v; logged %q", err, logged)
		}
		if !full {
			text, err := os.ReadFile(traces.Timeline)
			if err != nil || !bytes.HasSuffix(text, []byte("\n]}\n")) {
				t.Errorf("a timeline of %d bytes, %v", len(text), err)
			}
		}
		if info, err := os.Stat(traces.Routing); err != nil || info.Size() < 50 {
			t.Errorf("%v, %v", info, err)
		}
		if _, err := os.Stat(fullDisk); err != nil {
			return // this system has no such file
		}
		traces.Timeline = fullDisk
	}
	traces.Routing = filepath.Join(dir, "no", "such")
	_, err := Open(context.Background(), engine.Builtin, o, traces, nil)
	if Status(err) != EIO {
		t.Errorf("%v", err)
	}
}

// fullDisk is a file that takes nothing.
const fullDisk = "/dev/full"

// hammerTime is how long goroutines hammer; MOERING_HAMMER_SECONDS=60 is the full run.
func hammerTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("MOERING_HAMMER_SECONDS")
	if text == "" {
		return time.Second
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

// 32 goroutines with sessions of their own on one engine, cancelled, closed and refused at random:
// each answer is the one that a session gives alone. The race detector watches.
func TestHammerSessions(t *testing.T) {
	const threads = 32
	e := open(t, threads, nil)
	prompts := []string{"func (s *Server) ", "type Reader interface {\n", "if err != nil {\n"}
	o := engine.Sampling{MaxTokens: 8, Temperature: 0.7, Seed: 9}
	want := map[string]string{}
	for _, p := range prompts {
		s := newest(t, e, o)
		if err := feed(s, p); err != nil {
			t.Fatal(err)
		}
		text, err := finish(s)
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		want[p] = text
	}
	end := time.Now().Add(hammerTime(t))
	var all sync.WaitGroup
	for i := range threads {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 0))
			for round := 0; round == 0 || time.Now().Before(end); round++ {
				if err := hammer(e, rng, prompts[rng.IntN(len(prompts))], o, want); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if n := e.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if err := e.Release(); err != nil {
		t.Error(err)
	}
}

func hammer(e *Engine, rng *rand.Rand, p string, o engine.Sampling, want map[string]string) error {
	s, err := e.NewSession(o)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := feed(s, p); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	closing := false
	switch rng.IntN(4) {
	case 0:
		beside.Go(func() { time.Sleep(time.Millisecond); s.Cancel() })
	case 1:
		closing = true
		beside.Go(func() { time.Sleep(time.Millisecond); s.Close() })
	}
	text, err := finish(s)
	if closing && errors.Is(err, engine.ErrClosed) {
		return nil
	}
	if err != nil || text != want[p] {
		return fmt.Errorf("%q, want %q: %w", text, want[p], err)
	}
	return nil
}
