package tests

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A job file gives through C what it gives through the command line, to the byte, refusals included,
// in one run and in many that are cancelled.
func TestJobFileThroughC(t *testing.T) {
	c := needLibrary(t)
	bin := compile(t, c, c.lib(), "capi/job.c")
	dir := t.TempDir()
	moering, in := filepath.Join(dir, "moering"), filepath.Join(dir, "in.jsonl")
	run(t, exec.Command("go", "build", "-o", moering, "../cmd/moering"))
	killable(t, in)
	run(t, exec.Command(moering, "batch", "-m", batchModel, "-i", in, "-o", filepath.Join(dir, "want.jsonl")))
	want, wantErrors := contents(t, dir, "want")
	for name, passes := range map[string]string{"whole": "0", "parts": "12"} {
		runs := run(t, exec.Command(bin, "mr:tiny", in, filepath.Join(dir, name+".jsonl"), passes))
		if once := strings.TrimSpace(string(runs)) == "1"; once != (name == "whole") {
			t.Errorf("%s: %s runs", name, runs)
		}
		got, gotErrors := contents(t, dir, name)
		if !bytes.Equal(got, want) || !bytes.Equal(gotErrors, wantErrors) {
			t.Errorf("%s: %d bytes, and %d of errors; the command line %d and %d", name, len(got),
				len(gotErrors), len(want), len(wantErrors))
		}
	}
}
