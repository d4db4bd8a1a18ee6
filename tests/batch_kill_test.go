package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const batchModel = "testdata/tiny/tiny.gguf"

// batchKills is how often a job is killed; MOERING_BATCH_KILLS asks for more.
const batchKills = 50

// killable writes a job of requests of all kinds, and one that is refused.
func killable(t *testing.T, path string) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for i := range 42 {
		body := map[string]any{"prompt": fmt.Sprintf("func f%d(", i), "max_tokens": 1 + i%11}
		url := "/v1/completions"
		switch i % 7 {
		case 0:
			url = "/v1/embeddings"
			body = map[string]any{"input": []string{fmt.Sprint("var v", i), "x"}}
		case 1:
			body["logprobs"] = 2
		case 2:
			body["temperature"] = 0
		case 3:
			body["max_tokens"] = -1
		}
		err := e.Encode(map[string]any{"custom_id": fmt.Sprint("r", i), "method": "POST", "url": url,
			"body": body})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKilledBatchEndsWithTheSameBytes is invariant 6: the program, built as users build it, is killed
// at random moments of its life, its journal torn now and then, and run again until it is done; its
// files are those of an undisturbed job every time.
func TestKilledBatchEndsWithTheSameBytes(t *testing.T) {
	kills := batchKills
	if text := os.Getenv("MOERING_BATCH_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	bin, in := filepath.Join(dir, "moering"), filepath.Join(dir, "in.jsonl")
	run(t, exec.Command("go", "build", "-o", bin, "../cmd/moering"))
	killable(t, in)
	job := func(name string) *exec.Cmd {
		return exec.Command(bin, "batch", "-m", batchModel, "-i", in, "-o", filepath.Join(dir, name),
			"--chunk=48", "--sequences=12")
	}
	start := time.Now()
	run(t, job("want.jsonl"))
	life := time.Since(start)
	want, wantErrors := contents(t, dir, "want")
	if bytes.Count(want, []byte{'\n'}) != 36 || bytes.Count(wantErrors, []byte{'\n'}) != 6 {
		t.Fatalf("the undisturbed job wrote %d bytes and %d of errors", len(want), len(wantErrors))
	}
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	jobs, torn := 0, 0
	for killed := 0; killed < kills; jobs++ {
		name := fmt.Sprintf("job%d", jobs)
		for done := false; !done; {
			after := time.Duration(rng.Int64N(int64(life)))
			done = !dies(t, job(name+".jsonl"), after)
			if !done {
				killed++
			}
			if !done && rng.IntN(3) == 0 && tear(t, filepath.Join(dir, name+".jsonl.journal"), rng) {
				torn++
			}
		}
		got, gotErrors := contents(t, dir, name)
		if !bytes.Equal(got, want) || !bytes.Equal(gotErrors, wantErrors) {
			t.Fatalf("seed %d: job %d, after %d kills, wrote other files", seed, jobs, killed)
		}
	}
	t.Logf("seed %d: %d jobs of %v, %d kills, %d torn journals", seed, jobs, life, kills, torn)
	left, err := filepath.Glob(filepath.Join(dir, "job*.tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

func contents(t *testing.T, dir, name string) (output, errors []byte) {
	t.Helper()
	output, err1 := os.ReadFile(filepath.Join(dir, name+".jsonl"))
	errors, err2 := os.ReadFile(filepath.Join(dir, name+".errors.jsonl"))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return output, errors
}

// dies starts a command and kills it after a while; false if it was done before.
func dies(t *testing.T, cmd *exec.Cmd, after time.Duration) bool {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false
	case errors.As(err, &exit) && exit.ExitCode() == -1:
		return true
	}
	t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	return false
}

// tear cuts a few bytes off a journal's last record, or leaves rubbish behind it, as a crash may.
func tear(t *testing.T, path string, rng *rand.Rand) bool {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	// Not of a complete job's note, which was synced before it took the journal's place.
	if info.Size() < 1000 {
		return false
	}
	if rng.IntN(2) == 0 {
		err = os.Truncate(path, info.Size()-1-rng.Int64N(20))
	} else {
		f, openErr := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if openErr != nil {
			t.Fatal(openErr)
		}
		_, err = f.Write(make([]byte, 1+rng.IntN(40)))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}
