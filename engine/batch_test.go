package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moering/moering/engine/internal/kv"
)

// batchLines makes requests of all kinds: chats, completions and embeddings, greedy and sampled,
// of many lengths, some with a common beginning.
func batchLines(n int, seed uint64) []string {
	rng := rand.New(rand.NewPCG(seed, 0))
	common := strings.Repeat("// Package io has basic interfaces to I/O primitives. ", 4)
	var lines []string
	for i := range n {
		text := fmt.Sprintf("func f%d(", i) + strings.Repeat("x int, ", rng.IntN(12))
		if rng.IntN(3) == 0 {
			text = common + text
		}
		body := map[string]any{}
		url := "/v1/completions"
		switch rng.IntN(5) {
		case 0:
			url = "/v1/chat/completions"
			body["messages"] = []map[string]string{{"role": "user", "content": text}}
			body["max_completion_tokens"] = 1 + rng.IntN(12)
		case 1:
			url = "/v1/embeddings"
			body["input"] = []string{text, "var x"}[:1+rng.IntN(2)]
		default:
			body["prompt"], body["max_tokens"] = text, 1+rng.IntN(16)
			if rng.IntN(3) == 0 {
				body["temperature"] = 0
			}
			if rng.IntN(4) == 0 {
				body["logprobs"] = 2
			}
		}
		line, err := json.Marshal(map[string]any{"custom_id": fmt.Sprintf("r%d", i),
			"method": "POST", "url": url, "body": body})
		if err != nil {
			panic(err)
		}
		lines = append(lines, string(line))
	}
	return lines
}

func writeLines(t *testing.T, path string, lines []string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// results runs a job over lines and returns its output by custom_id.
func results(t *testing.T, o Options, b BatchOptions, lines []string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	b.Input, b.Output = filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	b.Created = 1
	writeLines(t, b.Input, lines)
	r, err := Batch(context.Background(), tiny, o, b)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Complete || r.Finished != len(lines) || r.Failed != 0 {
		t.Fatalf("%+v", r)
	}
	return byID(t, b.Output)
}

func byID(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		var l struct {
			ID string `json:"custom_id"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if _, twice := out[l.ID]; twice {
			t.Errorf("%s twice", l.ID)
		}
		out[l.ID] = line
	}
	return out
}

// Invariant 2 for jobs: an answer is the same alone, in any batch, in any order, whatever the memory
// and the passes.
func TestBatchNeighboursNeverChangeTheAnswer(t *testing.T) {
	n, trials := 24, uint64(4)
	if !haveCPU { // the reference device is slow
		n, trials = 8, 2
	}
	lines := batchLines(n, 1)
	want := map[string]string{}
	for _, l := range lines {
		for id, answer := range results(t, Options{Context: 256}, BatchOptions{}, []string{l}) {
			want[id] = answer
		}
	}
	_, plan, err := Inspect(tiny, Options{Context: 256, HostMemory: 1})
	if err != nil {
		t.Fatal(err)
	}
	for seed := range trials {
		rng := rand.New(rand.NewPCG(seed, 1))
		mixed := slices.Clone(lines)
		rng.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		o := Options{Context: 256, HostMemory: plan.Least + rng.Int64N(8<<20),
			Chunk: []int{0, 1, 9, 100}[seed], Sequences: []int{0, 3, 20, 1}[seed]}
		if o.Chunk > 9 {
			o.HostMemory = 0
		}
		for id, got := range results(t, o, BatchOptions{}, mixed) {
			if got != want[id] {
				t.Errorf("seed %d: %s\n%.600s\nwant\n%.600s", seed, id, got, want[id])
			}
		}
	}
}

// An answer of a batch is what a session generates.
func TestBatchAnswersAreASessions(t *testing.T) {
	e := open(t, tiny, Options{Context: 128, Sequences: 6})
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.txt"), filepath.Join(dir, "out.jsonl")
	prompts := []string{"package main", "func Copy(", "// Reader is"}
	writeLines(t, in, prompts)
	r, err := e.Batch(context.Background(), BatchOptions{Input: in, Output: out, Greedy: true,
		MaxTokens: 20})
	if err != nil || r.Finished != 3 {
		t.Fatal(r, err)
	}
	got := byID(t, out)
	for i, p := range prompts {
		s := session(t, e)
		want, _ := text(t, s, p, Sampling{MaxTokens: 20})
		s.Close()
		var l struct {
			Response struct {
				Body struct{ Choices []struct{ Text string } }
			}
		}
		if err := json.Unmarshal([]byte(got[fmt.Sprintf("line-%d", i+1)]), &l); err != nil {
			t.Fatal(err)
		}
		if l.Response.Body.Choices[0].Text != want {
			t.Errorf("%q, a session gives %q", l.Response.Body.Choices[0].Text, want)
		}
	}
	if pages, rows := e.pool.Free(); pages*kv.PageTokens != e.plan.KVTokens || rows != 6 {
		t.Errorf("%d pages and %d rows are free", pages, rows)
	}
}

// A job that is interrupted again and again gives the undisturbed job's bytes, and runs nothing
// twice.
func TestBatchInterruptedGivesTheSameBytes(t *testing.T) {
	n := 40
	if !haveCPU {
		n = 16
	}
	lines := batchLines(n, 2)
	dir := t.TempDir()
	b := BatchOptions{Input: filepath.Join(dir, "in.jsonl"), Output: filepath.Join(dir, "out.jsonl"),
		Created: 1}
	lines = append(lines, `{"custom_id":"bad","method":"POST","url":"/v1/completions","body":{}}`)
	writeLines(t, b.Input, lines)
	o := Options{Context: 256, Chunk: 24}
	if _, err := Batch(context.Background(), tiny, o, b); err != nil {
		t.Fatal(err)
	}
	want := read(t, b.Output)
	c := b
	c.Output = filepath.Join(dir, "again.jsonl")
	var answered int64
	for run := 1; ; run++ {
		ctx, cancel := context.WithCancel(context.Background())
		passes := 0
		c.Progress = func(BatchProgress) {
			if passes++; passes == 2+run*2 {
				cancel()
			}
		}
		r, err := Batch(ctx, tiny, o, c)
		cancel()
		answered += int64(r.Finished - r.Resumed)
		if err == nil {
			if run < 3 {
				t.Errorf("only %d runs", run)
			}
			break
		}
		if ctx.Err() == nil || r.Complete {
			t.Fatal(err)
		}
	}
	if answered != int64(len(lines)) {
		t.Errorf("%d answers were made, want %d", answered, len(lines))
	}
	if !bytes.Equal(read(t, c.Output), want) {
		t.Error("the outputs differ")
	}
	if !bytes.Equal(read(t, filepath.Join(dir, "again.errors.jsonl")),
		read(t, filepath.Join(dir, "out.errors.jsonl"))) {
		t.Error("the error files differ")
	}
	// Once more: nothing is to be done.
	c.Progress = nil
	r, err := Batch(context.Background(), tiny, o, c)
	if err != nil || !r.Complete || r.Resumed != len(lines) || r.Stats.Passes != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
