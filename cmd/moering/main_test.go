package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const tiny = "../../tests/testdata/tiny/tiny.gguf"

// call runs one command line with an empty standard input.
func call(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &err}
	code = a.main(ctx, args)
	return code, out.String(), err.String()
}

// object runs a command that prints one JSON object.
func object(t *testing.T, args ...string) map[string]any {
	t.Helper()
	code, stdout, stderr := call(t, t.Context(), args...)
	if code != exitOK {
		t.Fatalf("%v: exit code %d, %s", args, code, stderr)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatalf("%v: %v in %s", args, err, stdout)
	}
	return v
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{"0": 0, "123": 123, "4GiB": 4 << 30, "4G": 4 << 30,
		"4g": 4 << 30, "500MB": 500e6, "1.5KiB": 1536, "2 kb": 2000, "1TB": 1e12, "7B": 7} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "4Q", "4GiBB", "-1", "NaN", "inf", "1e30", "9000000T",
		"4IB", "4 G B"} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

func TestFormattedBytesHaveThreeDigits(t *testing.T) {
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 9996: "10.0 kB",
		99960: "100 kB", 999_600: "1.00 MB", 12_345_678: "12.3 MB", 8.2e9: "8.20 GB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.gguf")
	for _, c := range []struct {
		want int
		args []string
	}{
		{exitOK, []string{"--help"}},
		{exitOK, []string{"version"}},
		{exitUsage, nil},
		{exitUsage, []string{"nonsense"}},
		{exitUsage, []string{"run", "prompt"}},
		{exitUsage, []string{"run", "-m", tiny, "--ram", "lots", "prompt"}},
		{exitUsage, []string{"run", "-m", tiny, "--file", "x", "prompt"}},
		{exitUsage, []string{"run", "-m", tiny, "--system", "x", "prompt"}},
		{exitUsage, []string{"run", "-m", tiny, "--temperature=-1", "prompt"}},
		{exitUsage, []string{"bench", "-m", tiny, "--gen-tokens=-1"}},
		{exitUsage, []string{"synth", missing, "--preset", "none"}},
		{exitFailure, []string{"run", "-m", missing, "prompt"}},
		{exitFailure, []string{"inspect", "-m", missing}},
		{exitFailure, []string{"run", "-m", tiny, "--ram", "1MB", "prompt"}},
		{exitFailure, []string{"run", "-m", tiny, "--device", "cpu", "--cpu-experts", "prompt"}},
	} {
		code, stdout, stderr := call(t, t.Context(), c.args...)
		if code != c.want {
			t.Errorf("%v: exit code %d, want %d; %s", c.args, code, c.want, stderr)
		}
		if code != exitOK && (stdout != "" || !strings.HasPrefix(stderr, "moering: ")) {
			t.Errorf("%v: printed %q, and %q", c.args, stdout, stderr)
		}
	}
}

func TestInterruptionHasItsExitCode(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "m.gguf")
	for _, args := range [][]string{{"run", "-m", tiny, "prompt"}, {"bench", "-m", tiny},
		{"synth", path}} {
		if code, _, stderr := call(t, ctx, args...); code != exitCanceled {
			t.Errorf("%v: exit code %d, %s", args, code, stderr)
		}
	}
}

func TestRunPrintsTextAndFigures(t *testing.T) {
	args := []string{"run", "-m", tiny, "-n", "8", "--temperature", "0", "func main() {\n"}
	code, text, figures := call(t, t.Context(), args...)
	if code != exitOK || strings.TrimSpace(text) == "" {
		t.Fatalf("exit code %d, %q, %s", code, text, figures)
	}
	for _, part := range []string{"model: ", "device: ", "budget: ", "experts: ", "speed: "} {
		if !strings.Contains(figures, part) {
			t.Errorf("no %q in %s", part, figures)
		}
	}
	v := object(t, append(args, "--json", "--log-probs", "2")...)
	if got := v["text"].(string); strings.TrimSuffix(text, "\n") != strings.TrimSuffix(got, "\n") {
		t.Errorf("text %q, in JSON %q", text, got)
	}
	tokens := v["tokens"].([]any)
	if n := len(tokens); n != 8 || v["gen_tokens"].(float64) != 8 || v["finish"] != "length" {
		t.Errorf("%d tokens, %v, finish %v", n, v["gen_tokens"], v["finish"])
	}
	first := tokens[0].(map[string]any)
	if n := len(first["alternatives"].([]any)); n != 2 || first["logprob"].(float64) > 0 {
		t.Errorf("first token %v", first)
	}
}

func TestPromptComesFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "prompt")
	if err := os.WriteFile(path, []byte("package main"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"run", "-m", tiny, "-n", "4", "--temperature", "0", "--json"}
	a := object(t, append(flags, "--file", path)...)
	b := object(t, append(flags, "package main")...)
	if a["text"] != b["text"] || a["prompt_tokens"] != b["prompt_tokens"] {
		t.Errorf("%v from a file, %v from an argument", a["text"], b["text"])
	}
}

func TestChatUsesTheTemplate(t *testing.T) {
	flags := []string{"run", "-m", tiny, "-n", "1", "--json", "hello"}
	plain, chat := object(t, flags...), object(t, append(flags, "--chat")...)
	if plain["prompt_tokens"].(float64) >= chat["prompt_tokens"].(float64) {
		t.Errorf("%v tokens plain, %v in the template", plain["prompt_tokens"], chat["prompt_tokens"])
	}
}

// TestBenchHasItsKeys holds the names that other tools read.
func TestBenchHasItsKeys(t *testing.T) {
	v := object(t, "bench", "-m", tiny, "--json", "--prompt-tokens", "9", "--gen-tokens", "3",
		"--sequences", "2", "--repetitions", "2", "--threads", "1")
	for _, key := range []string{"prefill_tokens_per_s", "decode_tokens_per_s", "sequences",
		"bytes_read_per_token", "read_bytes_per_s", "hit_rate", "wait_share", "memory_peak_bytes",
		"memory_budget_bytes", "device", "sections", "prefetch", "direct_io", "reader", "threads",
		"context", "chunk", "exact", "policy", "prompt_tokens", "gen_tokens"} {
		if _, ok := v[key]; !ok {
			t.Errorf("no %s in %v", key, v)
		}
	}
	if v["sequences"].(float64) != 2 || v["threads"].(float64) != 1 || len(v["runs"].([]any)) != 2 {
		t.Errorf("options are not those given: %v", v)
	}
	if v["decode_tokens_per_s"].(float64) <= 0 || v["prefill_tokens_per_s"].(float64) <= 0 {
		t.Errorf("no speed: %v", v)
	}
}

func TestInspectAndPerplexity(t *testing.T) {
	v := object(t, "inspect", "-m", tiny, "--json")
	if family := v["model"].(map[string]any)["family"]; family != "qwen3moe" {
		t.Errorf("family %v", family)
	}
	code, table, stderr := call(t, t.Context(), "inspect", "-m", tiny)
	if code != exitOK || !strings.Contains(table, "expert cache") {
		t.Errorf("exit code %d, %s%s", code, table, stderr)
	}
	p := object(t, "perplexity", "-m", tiny, "--json", "--window", "64", "../../LICENSE")
	// A guess among the 2048 tokens has perplexity 2048.
	if x := p["perplexity"].(float64); x <= 1 || x >= 2048 {
		t.Errorf("perplexity %v", x)
	}
}

func TestSynthMakesAModelThatRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	v := object(t, "synth", path, "--json", "--layers", "2", "--dim", "64", "--heads", "2",
		"--kv-heads", "1", "--experts", "4", "--top-k", "2", "--family", "olmoe")
	info, err := os.Stat(path)
	if err != nil || float64(info.Size()) != v["bytes"].(float64) {
		t.Fatalf("%v, %v", v, err)
	}
	r := object(t, "run", "-m", path, "-n", "4", "--json", "--ignore-eos", "hello")
	if r["gen_tokens"].(float64) != 4 {
		t.Errorf("%v", r)
	}
}
