package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// speedScript is speed.c in Python.
const speedScript = `
import sys, time, moering
with moering.Engine(sys.argv[1], context_tokens_max=512, sequences_max=1) as engine:
    times = []
    for token in engine.generate("package main", tokens_max=int(sys.argv[2]), temperature=0.8,
                                 top_p=0.95, ignore_end=True):
        times.append(time.perf_counter())
print((len(times) - 1) / (times[-1] - times[0]))
`

// TestSpeedThroughTheBindings shows tokens a second through C and Python beside the command line's,
// in turns on one machine. It asserts nothing: a time depends on what else the machine does.
func TestSpeedThroughTheBindings(t *testing.T) {
	model, tokens, rounds := os.Getenv("MOERING_SPEED"), "64", 5
	switch model {
	case "":
		t.Skip("MOERING_SPEED=1, or a model's path, runs it: it measures, and wants a quiet machine")
	case "1": // a token is so quick that the price of a call shows
		model, tokens, rounds = tinyModel, "480", 9
	}
	c, interpreter := needLibrary(t), python(t)
	moering := filepath.Join(t.TempDir(), "moering")
	run(t, exec.Command("go", "build", "-o", moering, "../cmd/moering"))
	inC := compile(t, c, c.lib(), "capi/speed.c")
	number := func(out []byte) float64 {
		v, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	ways := []struct {
		name    string
		measure func() float64
	}{{"command line", func() float64 {
		var result struct {
			Speed float64 `json:"decode_tokens_per_s"`
		}
		out := run(t, exec.Command(moering, "run", "-m", model, "--context=512", "-n", tokens,
			"--temperature=0.8", "--top-p=0.95", "--ignore-eos", "--json", "package main"))
		if err := json.Unmarshal(out, &result); err != nil {
			t.Fatal(err)
		}
		return result.Speed
	}}, {"C", func() float64 {
		return number(run(t, exec.Command(inC, model, tokens)))
	}}, {"Python", func() float64 {
		cmd := exec.Command(interpreter, "-c", speedScript, model, tokens)
		cmd.Env = pythonEnv(t, c)
		return number(run(t, cmd))
	}}}
	measured := make([][]float64, len(ways))
	for range rounds {
		for i, w := range ways {
			measured[i] = append(measured[i], w.measure())
		}
	}
	var base float64
	for i, w := range ways {
		slices.Sort(measured[i])
		median := measured[i][rounds/2]
		if i == 0 {
			base = median
		}
		t.Logf("%s: %.1f tokens/s, %.1f %% of the command line's; %.1f", w.name, median,
			100*median/base, measured[i])
	}
}
