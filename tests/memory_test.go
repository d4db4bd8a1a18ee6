package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBudgetHoldsForAModelFourTimesItsSize is invariant 3: the program, built as users build it, runs
// 64 tokens of a random-weight model of four times the budget, and its peak resident set stays below.
// Where the system lets a memory-limited control group be made, the run is inside one of that size.
func TestBudgetHoldsForAModelFourTimesItsSize(t *testing.T) {
	if out, err := exec.Command("go", "env", "CGO_ENABLED").Output(); err != nil ||
		strings.TrimSpace(string(out)) != "1" {
		t.Skip("needs cgo: the pure-Go device is too slow for a model of this size")
	}
	dir := t.TempDir()
	bin, model := filepath.Join(dir, "moering"), filepath.Join(dir, "model.gguf")
	run(t, exec.Command("go", "build", "-o", bin, "../cmd/moering"))
	run(t, exec.Command(bin, "synth", model, "--layers=6", "--dim=1024", "--heads=8", "--kv-heads=2",
		"--head-dim=64", "--experts=64", "--top-k=4", "--expert-width=768", "--vocabulary=1024"))
	info, err := os.Stat(model)
	if err != nil {
		t.Fatal(err)
	}
	budget := info.Size() / 4
	cmd := exec.Command(bin, "run", "-m", model, "--context=128", fmt.Sprintf("--ram=%d", budget),
		"-n", "64", "--ignore-eos", "--json", "func main")
	limit(t, cmd, budget)
	var result struct {
		Peak   int64 `json:"memory_peak_bytes"`
		Read   int64 `json:"bytes_read"`
		Tokens int   `json:"gen_tokens"`
	}
	out := run(t, cmd)
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("model %d, budget %d, peak %d bytes", info.Size(), budget, result.Peak)
	if result.Tokens != 64 || result.Read == 0 {
		t.Errorf("%d tokens, %d bytes read", result.Tokens, result.Read)
	}
	if result.Peak == 0 || result.Peak > budget {
		t.Errorf("peak memory %d, budget %d", result.Peak, budget)
	}
}

func run(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	return out
}

// limit puts the command into a control group of so many bytes, where one can be made.
func limit(t *testing.T, cmd *exec.Cmd, bytes int64) {
	group := fmt.Sprintf("/sys/fs/cgroup/memory/moering-test-%d", os.Getpid())
	file := filepath.Join(group, "memory.limit_in_bytes")
	if os.Mkdir(group, 0o755) != nil {
		t.Log("no control group can be made here: the resident set alone is measured")
		return
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Log(err)
		}
	})
	if err := os.WriteFile(file, fmt.Append(nil, bytes), 0); err != nil {
		t.Log("the control group takes no limit: the resident set alone is measured")
		return
	}
	args := append([]string{"sh", "-c", `echo $$ > "$0" && exec "$@"`,
		filepath.Join(group, "cgroup.procs"), cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Args = "/bin/sh", args
}
