package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moering/moering/engine"
)

// batchFile writes lines of text to a file of their own folder.
func batchFile(t *testing.T, lines ...string) (in, out string) {
	t.Helper()
	dir := t.TempDir()
	in, out = filepath.Join(dir, "in.txt"), filepath.Join(dir, "out.jsonl")
	if err := os.WriteFile(in, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return in, out
}

func TestBatchWritesAnswersAndAReport(t *testing.T) {
	in, out := batchFile(t, "func a(", "func <b>(", "package c")
	page := out + ".html"
	v := object(t, "batch", "-m", tiny, "-i", in, "-o", out, "-n", "6", "--json", "--report", page)
	if v["finished"].(float64) != 3 || v["complete"] != true || v["new_tokens"].(float64) < 3 {
		t.Errorf("%v", v)
	}
	text, err := os.ReadFile(out)
	if err != nil || strings.Count(string(text), "\n") != 3 {
		t.Errorf("%s, %v", text, err)
	}
	html, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(html), "<svg") || strings.Contains(string(html), "://") {
		t.Errorf("the report: %v", err)
	}
	code, _, stderr := call(t, t.Context(), "batch", "-m", tiny, "-i", in, "-o", out, "-n", "6")
	if code != exitOK || !strings.Contains(stderr, "3 of them by earlier runs") {
		t.Errorf("once more: %d, %s", code, stderr)
	}
}

func TestBatchToStandardOutput(t *testing.T) {
	in, _ := batchFile(t, "func a(", "x")
	dir := filepath.Dir(in)
	code, stdout, stderr := call(t, t.Context(), "batch", "-m", tiny, "-i", in, "-o", "-", "--ordered",
		"-n", "4", "--errors", filepath.Join(dir, "e"))
	if code != exitOK || strings.Count(stdout, "\n") != 2 ||
		strings.Index(stdout, `"line-1"`) > strings.Index(stdout, `"line-2"`) {
		t.Errorf("%d, %s, %s", code, stdout, stderr)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%v is left, %v", files, err)
	}
}

func TestBatchExitCodes(t *testing.T) {
	in, out := batchFile(t, "x")
	for _, c := range []struct {
		want int
		args []string
	}{
		{exitUsage, []string{"-i", in}},
		{exitUsage, []string{"-i", in, "-o", in}},
		{exitUsage, []string{"-i", in, "-o", "-", "--json"}},
		{exitUsage, []string{"-i", in, "-o", out, "--ordered"}},
		{exitUsage, []string{"-i", in, "-o", out, "--metrics", "nonsense:x"}},
		{exitFailure, []string{"-i", in + "missing", "-o", out}},
		{exitOK, []string{"-i", in, "-o", out, "-n", "2"}},
	} {
		code, _, stderr := call(t, t.Context(), append([]string{"batch", "-m", tiny}, c.args...)...)
		if code != c.want {
			t.Errorf("%v: %d, want %d; %s", c.args, code, c.want, stderr)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	in, out = batchFile(t, "x")
	code, _, stderr := call(t, ctx, "batch", "-m", tiny, "-i", in, "-o", out)
	if code != exitCanceled {
		t.Errorf("interrupted: %d, %s", code, stderr)
	}
}

func TestBatchPlanPrintsTimeAndHelp(t *testing.T) {
	in, _ := batchFile(t, "func a(", "x")
	code, stdout, stderr := call(t, t.Context(), "batch", "-m", tiny, "-i", in, "--plan", "-n", "4")
	for _, want := range []string{"requests: 2", "memory:", "measured:", "waves:", "time:", "twice the"} {
		if code != exitOK || !strings.Contains(stdout, want) {
			t.Fatalf("%d, no %q in %s%s", code, want, stdout, stderr)
		}
	}
}

// The metrics are those of the latest progress, on this host alone.
func TestBatchMetrics(t *testing.T) {
	a := &app{stderr: io.Discard}
	w := a.newBatchWatch()
	defer w.close()
	m, err := serveMetrics("0", w)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(m.address(), "127.0.0.1:") {
		t.Errorf("it listens on %s", m.address())
	}
	w.update(engine.BatchProgress{Requests: 9, Finished: 4, Left: 5 * time.Second,
		Stats: engine.Stats{BytesRead: 77}})
	r, err := http.Get(fmt.Sprintf("http://%s/metrics", m.address()))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Body.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"moering_batch_requests 9", "moering_batch_requests_finished_total 4",
		"moering_batch_left_seconds 5", "moering_batch_read_bytes_total 77"} {
		if !strings.Contains(string(body), want+"\n") {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
}
