package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBatchFilesAreOpenAIs has a job's output and errors read by the openai package, where there is
// one: MOERING_PYTHON names the Python that has it.
func TestBatchFilesAreOpenAIs(t *testing.T) {
	python := os.Getenv("MOERING_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import openai").Run(); err != nil {
		t.Skipf("%s has no package openai (pip install openai==3.51.0; MOERING_PYTHON)", python)
	}
	dir := t.TempDir()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	chat := []map[string]any{{"role": "system", "content": "Be brief."}, {"role": "user",
		"content": []map[string]string{{"type": "text", "text": "héllo"}}}}
	for i, r := range []struct {
		url  string
		body map[string]any
	}{
		{"/v1/chat/completions", map[string]any{"messages": chat, "max_completion_tokens": 5}},
		{"/v1/chat/completions", map[string]any{"messages": chat, "max_tokens": 5, "logprobs": true,
			"top_logprobs": 3, "model": "tiny", "user": "me"}},
		{"/v1/chat/completions", map[string]any{"messages": chat, "max_tokens": 5, "logprobs": true}},
		{"/v1/completions", map[string]any{"prompt": "func", "max_tokens": 5}},
		{"/v1/completions", map[string]any{"prompt": []int{5, 6}, "max_tokens": 40, "logprobs": 2,
			"temperature": 0}},
		{"/v1/embeddings", map[string]any{"input": []string{"a", "b"}}},
		{"/v1/embeddings", map[string]any{"input": "a", "encoding_format": "base64"}},
		{"/v1/completions", map[string]any{"prompt": "func", "wrong": 1}},
		{"/v1/completions", map[string]any{"prompt": "func", "model": "other"}},
	} {
		if err := e.Encode(map[string]any{"custom_id": fmt.Sprint("r", i), "method": "POST",
			"url": r.url, "body": r.body}); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString("no JSON\n")
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	if err := os.WriteFile(in, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command("go", "run", "../cmd/moering", "batch", "-m", batchModel, "-i", in, "-o", out))
	text := run(t, exec.Command(python, "batch_openai.py", out, filepath.Join(dir, "out.errors.jsonl")))
	t.Logf("%s", text)
}
