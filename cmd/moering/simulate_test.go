package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moering/moering/engine"
)

// smallTrace is a trace of three passes over two layers of four experts, two used of 1000 bytes, in
// the format that docs describe: magic and version, the shape, then passes.
func smallTrace() []byte {
	b := []byte("MRTRACE\x01\x02\x04\x02\xe8\x07\x00" + strings.Repeat("\x00", 7)) // of no known run
	for range 3 {
		b = append(b, "\x01\x01"+"\x01\x02\x01\x00\x01\x02\x03"+"\x02\x02\x00\x02\x03"+"\x00"+strings.Repeat("\x00", 12)...)
	}
	return b
}

func writeSmallTrace(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trace")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSimulatePrintsALineAReplay(t *testing.T) {
	path := writeSmallTrace(t, smallTrace())
	code, out, info := call(t, t.Context(), "simulate", path, "--cache", "1/2,6,2KB", "--bandwidth",
		"1M", "--prefetch", "both", "--ring", "3", "--pass-time", "1ms")
	want := 1 + 3*2*len(engine.SimulatedPolicies())
	if n := strings.Count(out, "\n"); code != exitOK || n != want {
		t.Fatalf("exit code %d, %d lines, want %d: %s%s", code, n, want, out, info)
	}
	for _, part := range []string{"belady", "4/8", "6/8", "2/8", "100.0 %"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in %s", part, out)
		}
	}
	if !strings.Contains(info, "3 passes, 3 tokens") || !strings.Contains(info, "precision 100.0 %") {
		t.Errorf("%s", info)
	}
	v := object(t, "simulate", path, "--cache", "4", "--policy", "lru,static", "--json")
	results := v["results"].([]any)
	first := results[0].(map[string]any)
	// Four groups a pass, all of which fit: the first pass misses them, the others hit.
	if len(results) != 2 || first["hits"] != 8.0 || first["uses"] != 12.0 || v["passes"] != 3.0 {
		t.Errorf("%v", v)
	}
}

func TestSimulateTakesWhatACutTraceHolds(t *testing.T) {
	text := smallTrace()
	path := writeSmallTrace(t, text[:len(text)-3])
	code, _, info := call(t, t.Context(), "simulate", path)
	if code != exitOK || !strings.Contains(info, "going on with 2 passes") {
		t.Errorf("exit code %d, %s", code, info)
	}
	good := writeSmallTrace(t, text)
	for _, c := range []struct {
		want int
		args []string
	}{
		{exitFailure, []string{filepath.Join(t.TempDir(), "missing")}},
		{exitFailure, []string{writeSmallTrace(t, []byte("nonsense"))}},
		{exitUsage, []string{writeSmallTrace(t, text[:27])}},
		{exitUsage, []string{good, "--policy", "none"}},
		{exitUsage, []string{good, "--cache", "3/2"}},
		{exitUsage, []string{good, "--cache", "9"}},
		{exitUsage, []string{good, "--cache", "lots"}},
		{exitUsage, []string{good, "--cache", "run"}},
		{exitUsage, []string{good, "--ring", "99"}},
		{exitUsage, []string{good, "--prefetch", "on"}},
		{exitUsage, []string{good, "--profile-trace", writeSmallTrace(t, bytes.Replace(text,
			[]byte("\x02\x04\x02\xe8"), []byte("\x02\x05\x02\xe8"), 1)), "--policy", "static"}},
	} {
		if code, _, stderr := call(t, t.Context(), append([]string{"simulate"}, c.args...)...); code !=
			c.want {
			t.Errorf("%v: exit code %d, %s", c.args, code, stderr)
		}
	}
}

// Without flags a trace is replayed against the cache, policy and disk of the run that recorded it, and
// the two are put side by side.
func TestSimulateReplaysTheRecordingRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	object(t, "run", "-m", tiny, "-n", "8", "--json", "--ignore-eos", "--ram", "84MiB", "--routing-trace",
		path, "func main() {")
	v := object(t, "simulate", path, "--json", "--policy", "reuse")
	recorded, replayed := v["recorded"].(map[string]any), v["replayed"].(map[string]any)
	if recorded["sections"].(float64) < 2 || recorded["policy"] != "reuse" ||
		recorded["tokens_per_s"].(float64) <= 0 || replayed["tokens_per_s"].(float64) <= 0 ||
		recorded["uses"] != replayed["uses"] {
		t.Errorf("recorded %v, replayed %v", recorded, replayed)
	}
	results := v["results"].([]any)
	if first := results[0].(map[string]any); len(results) != 4 || first["places"] != recorded["places"] {
		t.Errorf("%v", results)
	}
	code, _, info := call(t, t.Context(), "simulate", path, "--policy", "reuse")
	if code != exitOK || !strings.Contains(info, "measured :") || !strings.Contains(info, "simulated:") {
		t.Errorf("exit code %d, %s", code, info)
	}
}
