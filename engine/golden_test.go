package engine

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/moering/moering/kernels/ref"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	families = "../tests/testdata/families/"
	tiny     = "../tests/testdata/tiny/tiny.gguf"
)

type golden struct {
	Prompt []int32 `json:"prompt"`
	Greedy []int32 `json:"greedy"`
	Logits string  `json:"logits"`
	Router []struct {
		Experts [][]int32   `json:"experts"`
		Weights [][]float32 `json:"weights"`
	} `json:"router"`
}

func readGolden(t *testing.T, dir string) (golden, []float32) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(g.Logits)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]float32, len(raw)/4)
	for i := range want {
		want[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return g, want
}

// devices are what every family is computed on; "discrete" is the reference as a device with memory of
// its own, whose streams run by themselves.
func devices() []string {
	if haveCPU {
		return []string{"cpu", "ref", "discrete"}
	}
	return []string{"ref", "discrete"}
}

// on sets the device of options.
func on(device string, o Options) Options {
	if o.Device = device; device == "discrete" {
		o.Device = "ref"
		o.discrete = &ref.Options{Discrete: true, Seed: 1, MemoryBytes: 1 << 28}
	}
	return o
}

func open(t *testing.T, path string, o Options) *Engine {
	t.Helper()
	e, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func session(t *testing.T, e *Engine) *Session {
	t.Helper()
	s, err := e.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// score returns the logits after every token.
func score(t *testing.T, s *Session, ids []int32) (all []float32) {
	t.Helper()
	err := s.Score(context.Background(), ids, func(_ int, logits []float32) error {
		all = append(all, logits...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func generate(t *testing.T, s *Session, ids []int32, n int) (out []int32) {
	t.Helper()
	for token, err := range s.GenerateTokens(context.Background(), ids,
		Sampling{MaxTokens: n, IgnoreEOS: true}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, token.ID)
	}
	return out
}

// The bound is the issue's: 1e-4 of the logits' norm. float32 against float64 differs by 2e-6 here.
const goldenError = 1e-4

// Each family gives transformers' logits and its 64 greedy tokens, from both formats, on each device.
func TestFamiliesEqualTransformers(t *testing.T) {
	dirs, err := filepath.Glob(families + "*/golden.json")
	if err != nil || len(dirs) != 9 {
		t.Fatalf("%d families, %v", len(dirs), err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		g, want := readGolden(t, dir)
		for _, device := range devices() {
			for _, format := range []string{"hf", "model.gguf"} {
				t.Run(filepath.Base(dir)+"/"+format+"/"+device, func(t *testing.T) {
					e := open(t, filepath.Join(dir, format), on(device, Options{Context: 256}))
					s := session(t, e)
					routes := recordRoutes(e)
					got := score(t, s, g.Prompt)
					var diff, norm float64
					for i := range want {
						d := float64(got[i]) - float64(want[i])
						diff, norm = diff+d*d, norm+float64(want[i])*float64(want[i])
					}
					if r := math.Sqrt(diff / norm); !(r <= goldenError) {
						t.Errorf("logits differ by %.2g", r)
					}
					if err := s.Truncate(0); err != nil {
						t.Fatal(err)
					}
					clear(routes)
					if got := generate(t, s, g.Prompt, len(g.Greedy)); !slices.Equal(got, g.Greedy) {
						t.Errorf("greedy tokens\n%v\nwant\n%v", got, g.Greedy)
					}
					checkRoutes(t, g, routes)
				})
			}
		}
	}
}

// routed is a layer's choices, position after position.
type routed struct {
	ids     []int32
	weights []float32
}

func recordRoutes(e *Engine) map[int]*routed {
	routes := map[int]*routed{}
	e.forward.OnRoute = func(layer int, ids []int32, weights []float32) {
		if routes[layer] == nil {
			routes[layer] = &routed{}
		}
		r := routes[layer]
		r.ids, r.weights = append(r.ids, ids...), append(r.weights, weights...)
	}
	return routes
}

// checkRoutes compares the experts of every position exactly, and their weights within the bound of
// the logits.
func checkRoutes(t *testing.T, g golden, routes map[int]*routed) {
	t.Helper()
	layers := 0
	for layer, want := range g.Router {
		if len(want.Experts) == 0 {
			continue
		}
		layers++
		got := routes[layer]
		if got == nil {
			t.Fatalf("layer %d chose no experts", layer)
		}
		if ids := slices.Concat(want.Experts...); !slices.Equal(got.ids, ids) {
			t.Errorf("layer %d chose\n%v\nwant\n%v", layer, got.ids, ids)
		}
		for i, w := range slices.Concat(want.Weights...) {
			if d := math.Abs(float64(got.weights[i] - w)); !(d <= goldenError) {
				t.Errorf("layer %d: weight %d is %g, want %g", layer, i, got.weights[i], w)
			}
		}
	}
	if layers != len(routes) {
		t.Errorf("%d layers chose experts, want %d", len(routes), layers)
	}
}

// Invariant 1: budgets, sections, prefetch, chunks, readers and policies never change a bit.
func TestOffloadNeverChangesTheAnswer(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	ids := make([]int32, 40)
	for i := range ids {
		ids[i] = int32(rng.IntN(2000))
	}
	want := score(t, session(t, open(t, tiny, Options{Context: 128})), ids)
	_, plan, err := Inspect(tiny, Options{Context: 128, HostMemory: 1})
	if err != nil {
		t.Fatal(err)
	}
	trials := 12
	if testing.Short() || !haveCPU {
		trials = 2
	}
	for i := range trials {
		o := Options{Context: 128, HostMemory: plan.Least + rng.Int64N(16<<20),
			Prefetch: Toggle(rng.IntN(3)), DirectIO: Toggle(rng.IntN(3)),
			Sections: rng.IntN(6), Chunk: []int{0, 1, 7, 40}[rng.IntN(4)],
			Reader: []string{"", "pread"}[rng.IntN(2)], Policy: []string{"lfu", "lru", "clock"}[rng.IntN(3)],
			Threads: 1 + rng.IntN(3)}
		if o.Sections > 2 {
			o.HostMemory += 2 << 20
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := session(t, open(t, tiny, o))
			for _, state := range []string{"cold", "warm"} {
				if got := score(t, s, ids); !slices.Equal(got, want) {
					t.Fatalf("logits differ, %s, %+v", state, o)
				}
				if err := s.Truncate(0); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Invariant 1 where the device has memory of its own: a group may come from there, from host memory or
// from disk, and dense weights may stream by the same way.
func TestTiersNeverChangeTheAnswer(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	ids := make([]int32, 24)
	for i := range ids {
		ids[i] = int32(rng.IntN(64))
	}
	model := families + "qwen2moe/model.gguf"
	want := score(t, session(t, open(t, model, on("discrete", Options{Context: 64}))), ids)
	plan := leastPlan(t, model, on("discrete", Options{Context: 64}))
	streams := 0
	for i := range 16 {
		o := on("discrete", Options{Context: 64, DeviceMemory: plan.Least + rng.Int64N(200<<10),
			HostMemory: plan.HostLeast + rng.Int64N(400<<10), Prefetch: Toggle(rng.IntN(3)),
			Chunk: []int{0, 1, 5}[rng.IntN(3)]})
		o.discrete.Seed = uint64(i + 1)
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			e := open(t, model, o)
			if p := e.Plan(); p.DenseSections < p.DenseLayers || !p.Resident {
				streams++
			}
			s := session(t, e)
			for _, state := range []string{"cold", "warm"} {
				if got := score(t, s, ids); !slices.Equal(got, want) {
					t.Fatalf("logits differ, %s, %+v", state, e.Plan())
				}
				if err := s.Truncate(0); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if streams < 8 {
		t.Errorf("%d of 16 budgets made weights stream", streams)
	}
}

// Invariant 2: sequences in a batch equal the same sequences alone.
func TestNeighboursNeverChangeTheAnswer(t *testing.T) {
	e := open(t, tiny, Options{Context: 128, Sequences: 4})
	prompts := [][]int32{{5, 9, 300}, {77, 8, 8, 8, 1000, 4}, {1}, {42, 43, 44, 45}}
	const n = 12
	var alone [][]int32
	for _, p := range prompts {
		s := session(t, e)
		alone = append(alone, generate(t, s, p, n))
		s.Close()
	}
	var all sync.WaitGroup
	for i, p := range prompts {
		s := session(t, e)
		all.Go(func() {
			if got := generate(t, s, p, n); !slices.Equal(got, alone[i]) {
				t.Errorf("sequence %d: %v together, %v alone", i, got, alone[i])
			}
		})
	}
	all.Wait()
}

// generateUntil generates, and cancels about when so many tokens are there.
func generateUntil(t *testing.T, s *Session, tokens int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	for _, err := range s.GenerateTokens(ctx, []int32{1, 2, 3}, Sampling{MaxTokens: 30, IgnoreEOS: true}) {
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		if n++; n == tokens {
			go cancel()
		}
	}
}

// Invariant 5, after cancellation at random points: Close finds every lease back, goleak no goroutine.
func TestCancelLeavesNothingBehind(t *testing.T) {
	_, plan, err := Inspect(tiny, Options{Context: 128, HostMemory: 1})
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for i := range 10 {
		e := open(t, tiny, Options{Context: 128, HostMemory: plan.Least})
		generateUntil(t, session(t, e), i)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if n := descriptors(t); n != before {
			t.Fatalf("%d descriptors, %d before", n, before)
		}
	}
}

// descriptors counts the files that the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// workers counts the threads of processor devices, by their name.
func workers(t *testing.T) (n int) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		// A thread of Go's may have ended since it was listed.
		if text, err := os.ReadFile(name); err == nil && string(text) == "moering-cpu\n" {
			n++
		}
	}
	return n
}

// Too small a budget names the least that works, and that least works.
func TestBudgetTooSmallSaysTheLeast(t *testing.T) {
	for _, sequences := range []int{0, 3} { // rows of a pass that halve down to the fewest, and do not
		o := Options{Context: 64, Sequences: sequences, HostMemory: 1}
		_, plan, err := Inspect(tiny, o)
		if err != nil || plan.Least <= 0 {
			t.Fatal(plan, err)
		}
		o.HostMemory = plan.Least - 1
		if _, err := Open(tiny, o); err == nil {
			t.Error("a byte less than the least works")
		}
		o.HostMemory++
		generate(t, session(t, open(t, tiny, o)), []int32{1, 2}, 3)
	}
}
