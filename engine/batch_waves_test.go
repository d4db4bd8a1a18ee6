package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moering/moering/engine/internal/kv"
)

// A beginning that requests have in common is computed once, whole pages of it, and answers are
// those of each request alone (TestBatchNeighboursNeverChangeTheAnswer compares them).
func TestBatchComputesACommonBeginningOnce(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.txt")
	var lines []string
	common := strings.Repeat("// Reader reads. ", 16)
	n := 20
	if !haveCPU { // the reference device is slow
		n = 5
	}
	for i := range n {
		lines = append(lines, fmt.Sprintf("%s func f%d()", common, i))
	}
	lines = append(lines, "x", "y z")
	writeLines(t, in, lines)
	e := open(t, tiny, Options{})
	tokens := func(text string) int64 {
		ids, err := e.Encode(text, true)
		if err != nil {
			t.Fatal(err)
		}
		return int64(len(ids))
	}
	all := int64(0)
	for _, l := range lines {
		all += tokens(l)
	}
	// All but the first find the whole pages, of which the last may end beyond what is common.
	least := int64(n-1) * ((tokens(common)-1)/kv.PageTokens - 1) * kv.PageTokens
	for _, sequences := range []int{4, 30} {
		r, err := Batch(context.Background(), tiny, Options{Context: 256, Sequences: sequences},
			BatchOptions{Input: in, Output: filepath.Join(dir, fmt.Sprint(sequences)), MaxTokens: 4})
		if err != nil {
			t.Fatal(err)
		}
		if r.PromptTokens+r.SharedTokens != all {
			t.Errorf("%d computed and %d shared of %d tokens", r.PromptTokens, r.SharedTokens, all)
		}
		if r.SharedTokens < least {
			t.Errorf("%d tokens were shared, want at least %d", r.SharedTokens, least)
		}
	}
}

// A plan accounts for every request, and its forecast is one of this job.
func TestBatchPlan(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	writeLines(t, in, append(batchLines(12, 3), "bad"))
	p, err := PlanBatch(context.Background(), tiny, Options{Chunk: 64}, BatchOptions{Input: in})
	if err != nil {
		t.Fatal(err)
	}
	f := p.Forecast
	if p.Requests != 13 || p.Refused != 1 || p.PromptTokens <= 0 || f.PrefillTokens != p.PromptTokens ||
		f.DecodeTokens != p.NewTokens || f.Seconds <= 0 || f.Passes <= 0 || len(f.Helps) != 3 ||
		f.Refused != 0 || p.Rates.PrefillRowSeconds <= 0 {
		t.Errorf("%+v", p)
	}
	if k := p.SmallerKV; len(k) != 2 || k[0].What != "f16" || k[1].What != "q8_0" ||
		k[0].Seconds > f.Seconds || k[1].Seconds > k[0].Seconds || k[1].Seconds <= 0 {
		t.Errorf("%v s, with smaller keys and values %+v", f.Seconds, k)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("planning left %v, %v", files, err)
	}
}

// A job shares its engine with sessions: both give what they give alone, and a job whose memory the
// sessions hold says so.
func TestBatchBesideSessions(t *testing.T) {
	e := open(t, tiny, Options{Context: 128, Sequences: 5})
	want := generate(t, session(t, e), []int32{9, 8, 7}, 40)
	dir := t.TempDir()
	in := filepath.Join(dir, "in.txt")
	writeLines(t, in, []string{"a", "b c", "func f(", "x", "package y"})
	run := func(name string) string {
		r, err := e.Batch(context.Background(), BatchOptions{Input: in, Created: 1, MaxTokens: 20,
			Output: filepath.Join(dir, name)})
		if err != nil || !r.Complete {
			t.Error(r, err)
			return ""
		}
		return string(read(t, r.Output))
	}
	alone := run("alone")
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() {
			s, err := e.NewSession()
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if got := generate(t, s, []int32{9, 8, 7}, 40); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("session %d: %v beside a job, want %v", i, got, want)
			}
		})
	}
	if got := run("beside"); got != alone {
		t.Error("the job's output is another beside sessions")
	}
	all.Wait()
	for { // sessions that hold every place
		s, err := e.NewSession()
		if err != nil {
			break
		}
		t.Cleanup(func() { s.Close() })
	}
	_, err := e.Batch(context.Background(), BatchOptions{Input: in, Output: filepath.Join(dir, "full")})
	if !errors.Is(err, ErrContext) {
		t.Errorf("without room: %v", err)
	}
}

// Close ends a job at the next layer; its journal has what was finished, and the next run the rest.
func TestCloseEndsABatch(t *testing.T) {
	dir := t.TempDir()
	b := BatchOptions{Input: filepath.Join(dir, "in.jsonl"), Output: filepath.Join(dir, "out"),
		Created: 1}
	writeLines(t, b.Input, batchLines(40, 4))
	e := open(t, tiny, Options{Context: 256, Sequences: 4})
	closed := make(chan error, 1)
	b.Progress = func(p BatchProgress) {
		if p.Finished >= 5 && b.Progress != nil {
			b.Progress = nil
			go func() { closed <- e.Close() }()
			time.Sleep(time.Millisecond)
		}
	}
	o := b
	o.Progress = func(p BatchProgress) {
		if b.Progress != nil {
			b.Progress(p)
		}
	}
	r, err := e.Batch(context.Background(), o)
	if !errors.Is(err, ErrClosed) || r.Complete || r.Finished < 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	o.Progress = nil
	again, err := Batch(context.Background(), tiny, Options{Context: 256, Sequences: 4}, o)
	if err != nil || !again.Complete || again.Resumed != r.Finished {
		t.Errorf("%+v, %v", again, err)
	}
}

// A journal that another model or other options began is refused; another budget goes on with it.
func TestBatchOfChangedOptions(t *testing.T) {
	dir := t.TempDir()
	b := BatchOptions{Input: filepath.Join(dir, "in.jsonl"), Output: filepath.Join(dir, "out")}
	writeLines(t, b.Input, batchLines(12, 5))
	ctx, cancel := context.WithCancel(context.Background())
	c := b
	c.Progress = func(p BatchProgress) { cancel() }
	if _, err := Batch(ctx, tiny, Options{}, c); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	other := filepath.Join(families, "qwen3moe", "model.gguf")
	if _, err := os.Stat(other); err != nil {
		dirs, err := filepath.Glob(families + "*/model.gguf")
		if err != nil || len(dirs) == 0 {
			t.Fatal("no other model")
		}
		other = dirs[0]
	}
	exact, greedy := Options{Exact: true}, b
	greedy.Greedy = true
	for name, f := range map[string]func() (BatchResult, error){
		"model":    func() (BatchResult, error) { return Batch(context.Background(), other, Options{}, b) },
		"exact":    func() (BatchResult, error) { return Batch(context.Background(), tiny, exact, b) },
		"defaults": func() (BatchResult, error) { return Batch(context.Background(), tiny, Options{}, greedy) },
	} {
		if _, err := f(); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "changed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := Batch(context.Background(), tiny, Options{Threads: 1, Chunk: 7, Sequences: 2}, b)
	if err != nil || !r.Complete {
		t.Errorf("%+v, %v", r, err)
	}
}
