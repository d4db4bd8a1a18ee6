package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPackThenVerifyThenRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "packed.gguf")
	code, out, stderr := call(t, t.Context(), "pack", tiny, path)
	if code != exitOK {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	for _, part := range []string{"grouped experts", "344 checksums", "Q4_0 10.6 MB", path} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in %s", part, out)
		}
	}
	if code, _, stderr := call(t, t.Context(), "pack", tiny, path); code != exitUsage ||
		!strings.Contains(stderr, "there already") {
		t.Errorf("exit code %d over a file that is there, %s", code, stderr)
	}
	v := object(t, "pack", tiny, path, "--force", "--layout", "stacked", "--json")
	if v["layout"] != "stacked" || v["checksums"].(float64) != 344 {
		t.Errorf("%v", v)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	v = object(t, "inspect", "-m", path, "--verify", "--json")
	if v["verified_bytes"].(float64) != float64(info.Size()) {
		t.Errorf("%v, of %d bytes", v, info.Size())
	}
	flags := []string{"-n", "6", "--temperature", "0", "--json", "func main() {\n"}
	a := object(t, append([]string{"run", "-m", path}, flags...)...)
	b := object(t, append([]string{"run", "-m", tiny}, flags...)...)
	if a["text"] != b["text"] {
		t.Errorf("packed %q, as it was %q", a["text"], b["text"])
	}
}

func TestVerifySaysWhereTheDamageIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "packed.gguf")
	object(t, "pack", tiny, path, "--json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-3*4096-5] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := call(t, t.Context(), "inspect", "-m", path, "--verify")
	if code != exitFailure || out != "" || !strings.Contains(stderr, "blk.") ||
		!strings.Contains(stderr, path) || !strings.Contains(stderr, "xxh3-64") {
		t.Errorf("exit code %d, %s%s", code, out, stderr)
	}
	code, _, stderr = call(t, t.Context(), "inspect", "-m", tiny, "--verify")
	if code != exitFailure || !strings.Contains(stderr, "no checksums") {
		t.Errorf("without checksums: exit code %d, %s", code, stderr)
	}
}

func TestPackFailuresHaveTheirExitCodes(t *testing.T) {
	source := filepath.Join(t.TempDir(), "m.gguf")
	object(t, "synth", source, "--json", "--layers", "2", "--expert-type", "F16")
	path := filepath.Join(t.TempDir(), "packed.gguf")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, _, stderr := call(t, ctx, "pack", source, path)
	if code != exitCanceled || strings.Contains(stderr, "goes on") {
		t.Errorf("nothing written: exit code %d, %s", code, stderr)
	}
	if s := resumable(5e6, 2e7); !strings.Contains(s, "5.00 MB of 20.0 MB") ||
		!strings.Contains(s, "goes on from there") {
		t.Error(s)
	}
	// A directory in place of the target's unfinished file: a failure that is no interruption.
	if err := os.Mkdir(path+".pack-part", 0o700); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, t.Context(), "pack", source, path); code != exitFailure ||
		!strings.Contains(stderr, "pack-part") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
