package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/moering/moering/engine/internal/kv"
)

// generous makes requests whose limits are far above what most of them generate, some that use all
// of it, and some that are embeddings of long inputs.
func generous(n int, limit int) (lines []string) {
	rng := rand.New(rand.NewPCG(9, 9))
	common := strings.Repeat("// Package io has basic interfaces to I/O primitives. ", 4)
	for i := range n {
		text := fmt.Sprintf("func f%d(", i) + strings.Repeat("x int, ", rng.IntN(12))
		most := limit
		if rng.IntN(4) == 0 { // these wait longest, so that they wait while others leave
			text, most = common+text, limit-limit/4
		}
		url := "/v1/completions"
		body := map[string]any{"prompt": text, "max_tokens": most, "ignore_eos": true,
			"stop": []string{" ", ",", ")", "."}}
		switch i % 6 {
		case 0, 1: // to the end
			delete(body, "stop")
		case 2:
			url = "/v1/embeddings"
			body = map[string]any{"input": []string{text, common, "x"}}
		}
		line, err := json.Marshal(map[string]any{"custom_id": fmt.Sprint("g", i), "method": "POST",
			"url": url, "body": body})
		if err != nil {
			panic(err)
		}
		lines = append(lines, string(line))
	}
	return lines
}

// quick has moving pay whatever else the machine does.
func quick() *spillTest { return &spillTest{bandwidth: 1e15} }

// brief are few short requests, for devices that are slow: those of the most tokens start last, when
// the others have made it look as if there were memory for all of them.
func brief(limit int) (lines []string) {
	for i := range 20 {
		body := map[string]any{"prompt": []int{5, 6, 7 + i}, "max_tokens": limit, "ignore_eos": true}
		if i < 16 {
			body["stop"] = []string{" ", "\n", "a", "e", "i", "o", "u", "t", "(", ")"}
			body["prompt"] = []int{5, 6, 7 + i, 8}
		}
		line, err := json.Marshal(map[string]any{"custom_id": fmt.Sprint("b", i), "method": "POST",
			"url": "/v1/completions", "body": body})
		if err != nil {
			panic(err)
		}
		lines = append(lines, string(line))
	}
	return lines
}

// Requests that give their memory to others and go on later have the answers of those that keep it,
// whether what they had was moved, did not fit, or could not be moved; and more of them are in
// flight.
func TestBatchSpillKeepsTheAnswers(t *testing.T) {
	lines, longest, tokens := generous(48, 48), 256, 12*kv.PageTokens
	if !haveCPU {
		lines, longest, tokens = brief(34), 64, 3*kv.PageTokens
	}
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	writeLines(t, in, lines)
	var log bytes.Buffer
	o := Options{Context: longest, Sequences: 40, Chunk: 64, KVTokens: tokens,
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	run := func(name string, b BatchOptions) (BatchResult, string) {
		log.Reset()
		e := open(t, tiny, o)
		b.Input, b.Output, b.Created = in, filepath.Join(dir, name), 1
		b.spillTest = quick()
		r, err := e.Batch(context.Background(), b)
		if err != nil || !r.Complete || r.Failed > 0 {
			t.Fatal(name, r, err)
		}
		pages, rows := e.pool.Free()
		if pages*kv.PageTokens != tokens || rows != o.Sequences || b.spillTest.left > 0 {
			t.Errorf("%s: %d pages and %d places are free, %d pages outside are not", name, pages, rows,
				b.spillTest.left)
		}
		return r, string(read(t, r.Output))
	}
	kept, want := run("kept", BatchOptions{})
	page := kept.Plan.KV / int64(tokens) * kv.PageTokens
	for name, c := range map[string]struct {
		b            BatchOptions
		moves, again bool
		warns        bool
	}{
		"moved":   {b: BatchOptions{Spill: 1 << 30}, moves: true},
		"no room": {b: BatchOptions{Spill: 1}, again: true},
		// A folder in which no file can be made.
		"no disk": {b: BatchOptions{Spill: 1 << 30, SpillDir: "/proc/self"}, again: true, warns: true},
	} {
		if c.warns && runtime.GOOS != "linux" || !c.moves && !haveCPU {
			continue
		}
		r, got := run(name, c.b)
		if got != want {
			t.Errorf("%s: other answers", name)
		}
		if r.Preempted == 0 || r.MovedBytes > 0 != c.moves || r.RecomputedTokens > 0 != c.again ||
			strings.Contains(log.String(), "computed again") != c.warns {
			t.Errorf("%s: %d preempted, %d bytes moved, %d tokens computed again; %s", name, r.Preempted,
				r.MovedBytes, r.RecomputedTokens, log.String())
		}
		t.Logf("%s: %d preempted, %d pages moved, %d passes; by limits %d", name, r.Preempted,
			r.MovedBytes/page, r.Stats.Passes, kept.Stats.Passes)
		if c.moves && r.Stats.Passes >= kept.Stats.Passes {
			t.Errorf("%s: %d passes, by limits %d", name, r.Stats.Passes, kept.Stats.Passes)
		}
		if r.PromptTokens+r.SharedTokens != kept.PromptTokens+kept.SharedTokens ||
			r.NewTokens != kept.NewTokens {
			t.Errorf("%s: %d prompt tokens, %d shared and %d new; by limits %d, %d and %d", name,
				r.PromptTokens, r.SharedTokens, r.NewTokens, kept.PromptTokens, kept.SharedTokens,
				kept.NewTokens)
		}
	}
}

// spillTrials is how many random jobs are tried; MOERING_SPILL_TRIALS asks for more.
const spillTrials = 2

// Whatever the order of requests, the memory for keys and values, the rows of a pass, and what can be
// moved: the answers are those of requests that keep their memory.
func TestBatchSpillAtRandom(t *testing.T) {
	trials, lines := uint64(spillTrials), generous(40, 60)
	if !haveCPU {
		trials, lines = 1, brief(34)
	}
	if text := os.Getenv("MOERING_SPILL_TRIALS"); text != "" {
		var err error
		if trials, err = strconv.ParseUint(text, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	want := results(t, Options{Context: 256}, BatchOptions{}, lines)
	preempted := 0
	for seed := range trials {
		rng := rand.New(rand.NewPCG(seed, 7))
		mixed := slices.Clone(lines)
		rng.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		dir := t.TempDir()
		b := BatchOptions{Input: filepath.Join(dir, "in.jsonl"), Output: filepath.Join(dir, "out"),
			Created: 1, Spill: []int64{1, 200e3, 1 << 30}[rng.IntN(3)], spillTest: quick()}
		writeLines(t, b.Input, mixed)
		o := Options{Context: 256, Sequences: 12 + rng.IntN(30), Chunk: 5 + rng.IntN(90),
			KVTokens: (8 + rng.IntN(8)) * kv.PageTokens, HostMemory: 256 << 20}
		r, err := Batch(context.Background(), tiny, o, b)
		if err != nil || !r.Complete || r.Failed > 0 || b.spillTest.left > 0 {
			t.Fatal(seed, r, err)
		}
		preempted += r.Preempted
		for id, got := range byID(t, b.Output) {
			if got != want[id] {
				t.Errorf("seed %d: %s\n%.600s\nwant\n%.600s", seed, id, got, want[id])
			}
		}
	}
	t.Logf("%d preempted in %d jobs", preempted, trials)
}

// On a device with memory of its own, keys and values go to host memory first.
func TestBatchSpillToHostMemory(t *testing.T) {
	if haveCPU {
		return // the reference device is slow, and slower with the race detector: without cgo
	}
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	writeLines(t, in, brief(34))
	var want string
	for i, memory := range []int64{0, 1 << 20} {
		e := open(t, tiny, on("discrete", Options{Context: 64, Sequences: 10, Chunk: 32,
			KVTokens: 3 * kv.PageTokens}))
		r, err := e.Batch(context.Background(), BatchOptions{Input: in, Created: 1, SpillMemory: memory,
			Output: filepath.Join(dir, fmt.Sprint(i)), spillTest: quick()})
		if err != nil || !r.Complete || r.Failed > 0 {
			t.Fatal(r, err)
		}
		got := string(read(t, r.Output))
		if i == 0 {
			want = got
			continue
		}
		if got != want || r.MovedBytes == 0 || r.RecomputedTokens > 0 {
			t.Errorf("%d preempted, %d bytes moved, %d tokens computed again; the same answers: %v",
				r.Preempted, r.MovedBytes, r.RecomputedTokens, got == want)
		}
	}
}

// What sessions take in the middle of a job changes nothing of its answers: between two passes, and
// at any moment.
func TestBatchSpillBesideSessions(t *testing.T) {
	lines, longest, pages := generous(36, 48), 256, 11
	if !haveCPU {
		lines, longest, pages = brief(34), 64, 5
	}
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	writeLines(t, in, lines)
	e := open(t, tiny, Options{Context: longest, Sequences: 30, Chunk: 64,
		KVTokens: pages * kv.PageTokens})
	run := func(name string, progress func(BatchProgress)) string {
		r, err := e.Batch(context.Background(), BatchOptions{Input: in, Created: 1, Spill: 1 << 30,
			Output: filepath.Join(dir, name), Progress: progress, spillTest: quick()})
		if err != nil || !r.Complete || r.Failed > 0 || r.Preempted == 0 {
			t.Fatal(name, r, err)
		}
		return string(read(t, r.Output))
	}
	want := run("alone", nil)
	passes := 0
	var held []*kv.Sequence
	hold := func() {
		if s, err := e.pool.Sequence(); err == nil {
			held = append(held, s)
			_ = s.Grow(kv.PageTokens) // there may be no page
		}
	}
	let := func() {
		for _, s := range held {
			s.Close()
		}
		held = nil
	}
	got := run("between", func(BatchProgress) {
		if passes++; passes%3 > 0 {
			hold()
			return
		}
		let()
	})
	let()
	if got != want {
		t.Error("other answers beside what takes memory between passes")
	}
	var taker sync.WaitGroup
	stop := make(chan struct{})
	taker.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for range 3 {
				hold()
			}
			runtime.Gosched()
			let()
			runtime.Gosched()
		}
	})
	got = run("at once", nil)
	close(stop)
	taker.Wait()
	if got != want {
		t.Error("other answers beside what takes memory at any moment")
	}
}

// An embedding that leaves when a part of its input is computed is the mean over its tokens once, and
// its shorter inputs have no more memory than they need.
func TestBatchSpillOfEmbeddings(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	ids := func(n int) string { // a prompt of n tokens
		s := "1"
		for i := range n - 1 {
			s += fmt.Sprintf(",%d", 7*i+3)
		}
		return "[" + s + "]"
	}
	const prompt, limit, long, pages = 50, 60, 100, 8
	writeLines(t, in, []string{
		fmt.Sprintf(`{"custom_id":"t","method":"POST","url":"/v1/completions","body":{"prompt":%s,`+
			`"max_tokens":%d,"ignore_eos":true}}`, ids(prompt), limit),
		fmt.Sprintf(`{"custom_id":"e","method":"POST","url":"/v1/embeddings","body":{"input":[[5],%s,`+
			`[6],[7],[8],[9]]}}`, ids(long)),
	})
	e := open(t, tiny, Options{Context: pages * kv.PageTokens, Sequences: 12, Chunk: 16,
		KVTokens: pages * kv.PageTokens})
	var want string
	for _, c := range []struct {
		name  string
		spill int64
	}{{"kept", 0}, {"again", 1}, {"moved", 1 << 30}} {
		var held []*kv.Sequence
		let := func() {
			for _, s := range held {
				s.Close()
			}
			held = nil
		}
		holds, until, most := false, int64(0), 0
		progress := func(p BatchProgress) {
			free, _ := e.pool.Free()
			switch {
			case !holds && p.PromptTokens > prompt+20: // a part of the long input is computed
				for holds = true; free > 0; free-- {
					s, err := e.pool.Sequence()
					if err == nil {
						err = s.Grow(kv.PageTokens)
					}
					if err != nil {
						t.Error(err)
						return
					}
					held = append(held, s)
				}
				until = p.NewTokens + 3
			case held != nil && p.NewTokens >= until:
				let()
			case p.PromptTokens > prompt+1+long:
				most = max(most, pages-free)
			}
		}
		r, err := e.Batch(context.Background(), BatchOptions{Input: in, Created: 1, Spill: c.spill,
			Output: filepath.Join(dir, c.name), Progress: progress, spillTest: quick()})
		let()
		if err != nil || !r.Complete || r.Failed > 0 {
			t.Fatal(c.name, r, err)
		}
		got := string(read(t, r.Output))
		if c.spill == 0 {
			want = got
			continue
		}
		if got != want {
			t.Errorf("%s: another embedding", c.name)
		}
		if again := r.RecomputedTokens > 0; r.Preempted == 0 || again != (c.spill == 1) ||
			again == (r.MovedBytes > 0) {
			t.Errorf("%s: %d preempted, %d bytes moved, %d tokens computed again", c.name, r.Preempted,
				r.MovedBytes, r.RecomputedTokens)
		}
		// The text has at most four pages, and a short input one.
		if most == 0 || most > kv.Pages(prompt+limit)+1 {
			t.Errorf("%s: %d pages were in use while short inputs were computed", c.name, most)
		}
	}
}

func TestBatchSpillOptions(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.txt")
	writeLines(t, in, []string{"a"})
	for _, c := range []struct {
		b    BatchOptions
		want error
	}{
		{BatchOptions{Spill: -1}, ErrUsage},
		{BatchOptions{SpillMemory: -1}, ErrUsage},
		{BatchOptions{SpillMemory: 1 << 20}, ErrUnsupported},
		{BatchOptions{Spill: 1 << 20, SpillDir: in}, ErrUsage},
		{BatchOptions{Spill: 1 << 20, SpillDir: filepath.Join(dir, "missing")}, ErrUsage},
	} {
		c.b.Input, c.b.Output = in, filepath.Join(dir, "out")
		if _, err := Batch(context.Background(), tiny, Options{}, c.b); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.b, err)
		}
	}
}

// KVTokens reserves memory for all sequences together, whatever the longest may be.
func TestKVTokens(t *testing.T) {
	_, few, err := Inspect(tiny, Options{Context: 100, Sequences: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, many, err := Inspect(tiny, Options{Context: 100, Sequences: 2, KVTokens: 3001})
	if err != nil || few.KVTokens != 256 || many.KVTokens != 3008 ||
		many.KV != few.KV/256*3008 {
		t.Errorf("%+v, %+v, %v", few, many, err)
	}
	_, least, err := Inspect(tiny, Options{Context: 100, Sequences: 2, KVTokens: 5})
	if err != nil || least.KVTokens != 128 {
		t.Errorf("%+v, %v", least, err)
	}
	_, err = Open(tiny, Options{Context: 100, KVTokens: 1 << 29, HostMemory: 256 << 20})
	if !errors.Is(err, ErrBudget) {
		t.Errorf("more than there is memory for: %v", err)
	}
	if _, err = Open(tiny, Options{KVTokens: -1}); !errors.Is(err, ErrUsage) {
		t.Errorf("negative: %v", err)
	}
}

// A job's memory for keys and values is for all its sequences; its context is its longest one.
func TestBatchFitsTheCacheAndNotTheContext(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	writeLines(t, in, generous(60, 90))
	// Little beside what the model takes, so that a quarter of it is few sequences.
	_, plan, err := Inspect(tiny, Options{Context: 256, HostMemory: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := openBatch(tiny, Options{HostMemory: plan.Least + 8<<20}, BatchOptions{Input: in}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	longest := 0
	for _, s := range p.shapes {
		longest = max(longest, int(s.most))
	}
	if f := p.fitted; f.Context != kv.Pages(longest)*kv.PageTokens || f.KVTokens < 4*f.Context {
		t.Errorf("context %d, KV tokens %d; the longest sequence has %d", f.Context, f.KVTokens, longest)
	}
}
