package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// malformed reads the corpus: lines, and what each is refused with.
func malformed(t *testing.T) (lines, want []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/batch_malformed.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, corpus, _ := strings.Cut(string(text), "\n\n")
	all := strings.Split(strings.TrimSpace(corpus), "\n")
	for i := 0; i+1 < len(all); i += 2 {
		want, lines = append(want, all[i]), append(lines, all[i+1])
	}
	// What a file of text cannot hold.
	lines = append(lines, `{"custom_id":"`+strings.Repeat("x", 9<<20)+`"}`,
		`{"custom_id":"`+strings.Repeat("x", 1<<20)+`","method":"POST"}`,
		"{\"custom_id\":\"\xff\"}")
	want = append(want, "line_too_long -", "invalid_custom_id custom_id", "invalid_utf8 -")
	return lines, want
}

// Every malformed request gets its documented error, and those around it their answers.
func TestMalformedRequestsAreRefusedAlone(t *testing.T) {
	lines, want := malformed(t)
	if len(lines) < 70 {
		t.Fatalf("the corpus has %d lines", len(lines))
	}
	const ok = `{"custom_id":"ok","method":"POST","url":"/v1/completions","body":{"prompt":"x","max_tokens":2}}`
	dir := t.TempDir()
	b := BatchOptions{Input: filepath.Join(dir, "in.jsonl"), Output: filepath.Join(dir, "out.jsonl")}
	all := append([]string{ok}, lines...)
	writeLines(t, b.Input, append(all, strings.Replace(ok, "ok", "last", 1)))
	r, err := Batch(context.Background(), tiny, Options{Context: 128}, b)
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != len(lines) || r.Finished != len(lines)+2 || !r.Complete {
		t.Errorf("%+v", r)
	}
	if got := byID(t, b.Output); len(got) != 2 || got["ok"] == "" || got["last"] == "" {
		t.Errorf("answers: %v", got)
	}
	refused := strings.Split(strings.TrimSpace(string(read(t, r.Errors))), "\n")
	if len(refused) != len(want) {
		t.Fatalf("%d refusals, want %d", len(refused), len(want))
	}
	doc := string(read(t, "../docs/batch.md"))
	for i, line := range refused {
		code, param := refusal(t, line)
		if got := code + " " + param; got != want[i] {
			t.Errorf("%.200s\nis refused with %q, want %q", lines[i], got, want[i])
		}
		if !strings.Contains(doc, "`"+code+"`") {
			t.Errorf("docs/batch.md does not have the code %s", code)
		}
	}
}

// refusal takes a line of the error file apart.
func refusal(t *testing.T, line string) (code, param string) {
	t.Helper()
	type report struct {
		Code, Message string
		Param         *string
		Line          int
	}
	var l struct {
		CustomID *string `json:"custom_id"`
		Error    *report
		Response *struct {
			Status int `json:"status_code"`
			Body   struct{ Error report }
		}
	}
	if err := json.Unmarshal([]byte(line), &l); err != nil {
		t.Fatal(err)
	}
	e := l.Error
	if (e == nil) == (l.Response == nil) || (l.CustomID == nil) != (l.Response == nil) {
		t.Fatalf("%s", line)
	}
	if e == nil {
		e = &l.Response.Body.Error
		if l.Response.Status < 400 {
			t.Errorf("%s", line)
		}
	} else if e.Line == 0 {
		t.Errorf("no line number: %s", line)
	}
	if e.Message == "" || len(e.Message) > 400 {
		t.Errorf("message of %d bytes: %.500s", len(e.Message), line)
	}
	if e.Param == nil {
		return e.Code, "-"
	}
	return e.Code, *e.Param
}

// A job's memory does not grow with its requests but for the index. MOERING_BATCH_REQUESTS asks for
// more of them than the usual few thousand.
func TestBatchMemoryStaysFlat(t *testing.T) {
	n := 2000
	if !haveCPU {
		n = 300
	}
	if text := os.Getenv("MOERING_BATCH_REQUESTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	in, err := os.Create(filepath.Join(dir, "in.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		fmt.Fprintf(in, "x%d\n", i)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var marks []int64
	var speed []float64
	last := BatchProgress{}
	_, err = Batch(context.Background(), tiny, Options{Context: 64, Sequences: 64, Chunk: 128},
		BatchOptions{Input: in.Name(), Output: filepath.Join(dir, "out"), MaxTokens: 2, Sync: 1e9,
			Progress: func(p BatchProgress) {
				if p.Finished >= (len(marks)+1)*n/5 && len(marks) < 4 {
					marks = append(marks, heap())
					speed = append(speed, float64(p.Finished-last.Finished)/
						(p.Elapsed-last.Elapsed).Seconds())
					last = p
				}
			}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("heap %v bytes, %.0f requests/s, at each fifth of %d", marks, speed, n)
	// Half a megabyte is noise of the run time; what a request would leave is at least its answer's
	// 400 bytes.
	if grown := marks[3] - marks[0]; grown > 512<<10 {
		t.Errorf("the heap grew by %d bytes over %d requests", grown, 3*n/5)
	}
}

// What a model without tokenizer and chat template cannot answer is refused, and token ids are
// answered.
func TestRequestsThatTheModelCannotAnswer(t *testing.T) {
	dir := t.TempDir()
	b := BatchOptions{Input: filepath.Join(dir, "in.jsonl"), Output: filepath.Join(dir, "out.jsonl"),
		MaxTokens: 2}
	line := func(id, url, body string) string {
		return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/%s","body":{%s}}`, id, url, body)
	}
	writeLines(t, b.Input, []string{
		line("text", "completions", `"prompt":"x"`),
		line("chat", "chat/completions", `"messages":[{"role":"user","content":"x"}]`),
		line("embedding", "embeddings", `"input":["x"]`),
		line("tokens", "completions", `"prompt":[1,2,3]`),
		line("vectors", "embeddings", `"input":[[1,2],[3]]`),
		line("stray", "completions", `"prompt":[1,1000000]`),
	})
	r, err := Batch(context.Background(), families+"qwen3moe/model.gguf", Options{}, b)
	if err != nil || r.Finished != 6 || r.Failed != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := byID(t, b.Output); len(got) != 2 || got["tokens"] == "" || got["vectors"] == "" {
		t.Errorf("answers: %v", got)
	}
	want := []string{"unsupported_by_model -", "unsupported_by_model -", "unsupported_by_model -",
		"invalid_value -"}
	for i, l := range strings.Split(strings.TrimSpace(string(read(t, r.Errors))), "\n") {
		if code, param := refusal(t, l); code+" "+param != want[i] {
			t.Errorf("%s, want %s", l, want[i])
		}
	}
}
