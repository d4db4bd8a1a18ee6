package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moering/moering/internal/invariants"
	"github.com/moering/moering/sched"
)

// beside has the processor compute the groups that takes names; nil: those that cost less there.
func beside(o Options, takes func(group int) bool) Options {
	o.CPUExperts, o.takes = true, takes
	return o
}

func all(int) bool    { return true }
func none(int) bool   { return false }
func odd(g int) bool  { return g%2 == 1 }
func some(g int) bool { return g%5 < 2 }

// The reference gives the same bits on both sides. With it the answer depends neither on who computes
// what, nor on the tiers, from which the processor takes what the device is about to fetch.
func TestWhoComputesAnExpertChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 14))
	ids := make([]int32, 24)
	for i := range ids {
		ids[i] = int32(rng.IntN(64))
	}
	for _, family := range []string{"qwen2moe", "mixtral", "llama"} {
		model := families + family + "/model.gguf"
		want := score(t, session(t, open(t, model, on("discrete", Options{Context: 64}))), ids)
		least := leastPlan(t, model, beside(on("discrete", Options{Context: 64}), nil))
		for i, takes := range []func(int) bool{all, odd, nil, none, odd, some, nil, some} {
			if i == 3 && family != "qwen2moe" {
				break
			}
			o := beside(on("discrete", Options{Context: 64,
				DeviceMemory: least.Least + rng.Int64N(200<<10),
				HostMemory:   least.HostLeast + rng.Int64N(400<<10), Prefetch: Toggle(rng.IntN(3)),
				Chunk: []int{0, 1, 5}[rng.IntN(3)]}), takes)
			o.discrete.Seed = uint64(i + 1)
			t.Run(fmt.Sprint(family, "/", i), func(t *testing.T) {
				e := open(t, model, o)
				s := session(t, e)
				for _, state := range []string{"cold", "warm"} {
					if got := score(t, s, ids); !slices.Equal(got, want) {
						t.Fatalf("logits differ, %s, %+v", state, e.Plan())
					}
					if err := s.Truncate(0); err != nil {
						t.Fatal(err)
					}
				}
				n := e.Stats()
				moved := n.Hits + n.Late + n.Misses
				if i == 0 && (n.CPUExperts == 0 || moved > 0) || i == 3 && n.CPUExperts > 0 ||
					i > 3 && takes != nil && (n.CPUExperts == 0 || moved == 0) {
					t.Errorf("%d computed on the processor, %d on the device", n.CPUExperts, moved)
				}
			})
		}
	}
}

// The choice by cost, with costs as they are not: where moving takes for ever, the processor takes what
// is in host memory and no more, and nothing of a dense model is read ahead; where computing does, nothing;
// where both cost the same, each has a part.
func TestTheCheaperSideComputes(t *testing.T) {
	dense := filepath.Join(t.TempDir(), "dense.gguf")
	if err := Synth(t.Context(), dense, SynthOptions{Family: "llama", Layers: 12, Dim: 64, Heads: 4,
		ExpertWidth: 96, ExpertType: "F32", DenseType: "F32"}, nil); err != nil {
		t.Fatal(err)
	}
	ids := []int32{3, 1, 4, 1, 5, 9, 2, 6}
	for _, model := range []string{families + "qwen2moe/model.gguf", dense} {
		for _, slow := range []string{"bus", "processor", "neither"} {
			o := beside(on("discrete", Options{Context: 64, Prefetch: Off}), nil)
			if model == dense {
				o.Sections = 5 // of which demand has two
			}
			o.DeviceMemory = leastPlan(t, model, o).Least
			e := open(t, model, o)
			if r := e.beside.Rates; r.BusBytesPerS <= 0 || r.HostGroupSeconds+r.HostRowSeconds <= 0 ||
				r.DeviceGroupSeconds+r.DeviceRowSeconds <= 0 || r != e.Plan().MoveRates {
				t.Errorf("measured %+v", r)
			}
			bytes := e.Info().GroupBytes
			e.beside.Rates = map[string]sched.Rates{"bus": {BusBytesPerS: 1},
				"processor": {HostGroupSeconds: 1},
				"neither":   {GroupBytes: bytes, BusBytesPerS: float64(bytes), HostGroupSeconds: 1}}[slow]
			s := session(t, e)
			score(t, s, ids) // everything comes to host memory
			cold := e.Stats()
			if err := s.Truncate(0); err != nil {
				t.Fatal(err)
			}
			score(t, s, ids)
			warm := e.Stats().Sub(cold)
			bad := false
			switch slow {
			case "bus":
				bad = cold.Misses == 0 || warm.Misses > 0 || warm.CPUExperts == 0 || model == dense &&
					warm.Prefetched > 0
			case "processor":
				bad = cold.CPUExperts+warm.CPUExperts > 0
			case "neither": // of dense blocks, which are one a layer, half
				bad = warm.CPUExperts == 0 || model == dense && (warm.Prefetched == 0 ||
					warm.CPUExperts < 3 || warm.CPUExperts > 9)
			}
			if bad {
				t.Errorf("%s, slow %s: cold %+v, warm %+v", filepath.Base(model), slow, cold, warm)
			}
		}
	}
}

// Each family's logits are transformers' whoever computes an expert, within the bound of either.
func TestFamiliesBesideOnCUDA(t *testing.T) {
	library := cudaLibrary(t)
	dirs, err := filepath.Glob(families + "*/golden.json")
	if err != nil || len(dirs) != 9 {
		t.Fatalf("%d families, %v", len(dirs), err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		g, want := readGolden(t, dir)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			model := filepath.Join(dir, "model.gguf")
			o := beside(Options{Context: 256, Exact: true}, odd)
			least := leastOnCUDA(t, model, library, o)
			o = onCUDA(library, o)
			o.DeviceMemory, o.HostMemory = least.Least+64<<10, least.HostLeast+64<<10
			e := open(t, model, o)
			s := session(t, e)
			if r := difference(score(t, s, g.Prompt), want); !(r <= goldenError) {
				t.Errorf("logits differ by %.2g", r)
			}
			if err := s.Truncate(0); err != nil {
				t.Fatal(err)
			}
			const n = 4
			if got := generate(t, s, g.Prompt, n); !slices.Equal(got, g.Greedy[:n]) {
				t.Errorf("greedy tokens %v, want %v", got, g.Greedy[:n])
			}
			if e.Stats().CPUExperts == 0 {
				t.Error("the processor computed nothing")
			}
		})
	}
}

// With the split given, the tiers' sizes change no bit; with nothing on the processor the bits are those
// without it; by cost they are within the bound.
func TestSplitDecidesTheBitsOnCUDA(t *testing.T) {
	library := cudaLibrary(t)
	rng := rand.New(rand.NewPCG(6, 6))
	ids := []int32{5, 9, 30, 17, 8, 8, 10, 4}
	model := families + "qwen2moe/model.gguf"
	base := onCUDA(library, Options{Context: 64, Exact: true})
	without := score(t, session(t, open(t, model, base)), ids)
	least := leastOnCUDA(t, model, library, beside(base, nil))
	for name, takes := range map[string]func(int) bool{"none": none, "all": all, "some": some, "cost": nil} {
		var first []float32
		for range 2 {
			o := beside(base, takes)
			o.DeviceMemory = least.Least + rng.Int64N(200<<10)
			o.HostMemory = least.HostLeast + rng.Int64N(300<<10)
			e := open(t, model, o)
			// A move and an expert on the processor cost the same, so that by cost both are chosen.
			e.beside.Rates = sched.Rates{BusBytesPerS: 1, HostGroupSeconds: float64(e.Info().GroupBytes)}
			s := session(t, e)
			score(t, s, ids) // host memory fills
			if err := s.Truncate(0); err != nil {
				t.Fatal(err)
			}
			got := score(t, s, ids)
			if first == nil {
				first = got
			}
			if takes != nil && !slices.Equal(got, first) {
				t.Errorf("%s: logits depend on more than the split; %+v", name, e.Plan())
			}
			if name == "none" && !slices.Equal(got, without) {
				t.Error("the processor computes nothing, and logits differ")
			}
			if r := difference(got, without); !(r <= goldenError) {
				t.Errorf("%s: logits differ by %.2g", name, r)
			}
			if (e.Stats().CPUExperts > 0) != (name != "none") {
				t.Errorf("%s: %d experts on the processor", name, e.Stats().CPUExperts)
			}
		}
	}
}

// The processor reads block formats in the layout that the device reads; both are exact with Exact.
func TestBlockFormatsBesideOnCUDA(t *testing.T) {
	o, ids := onCUDA(cudaLibrary(t), Options{Context: 16, Chunk: 4, Exact: true}), []int32{5, 900, 30}
	want := score(t, session(t, open(t, tiny, o)), ids)
	got := score(t, session(t, open(t, tiny, beside(o, odd))), ids)
	if r := difference(got, want); !(r > 0 && r <= goldenError) {
		t.Errorf("logits differ by %.2g", r)
	}
}

// A side that fails makes the pass an error, and what the other does meanwhile ends well.
func TestEitherSideMayFailOnCUDA(t *testing.T) {
	library := cudaLibrary(t)
	for _, side := range []string{"processor", "device"} {
		e := open(t, families+"qwen2moe/model.gguf", beside(onCUDA(library, Options{Context: 64}), odd))
		s := session(t, e)
		generate(t, s, []int32{1, 2}, 2)
		closing := e.processor.Close
		if side == "device" {
			closing = e.device.Close
		}
		if err := closing(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Feed(t.Context(), []int32{3}); !errors.Is(err, ErrDevice) {
				t.Errorf("%s closed: %v", side, err)
			}
		}
	}
}

// Invariant 5 with a processor beside: sections are back wherever a pass is cancelled.
func TestCancelBesideLeavesNothingBehind(t *testing.T) {
	model := families + "qwen2moe/model.gguf"
	o := beside(on("discrete", Options{Context: 64}), odd)
	least := leastPlan(t, model, o)
	o.DeviceMemory, o.HostMemory = least.Least, least.HostLeast
	for i := range 10 {
		e, err := Open(model, o)
		if err != nil {
			t.Fatal(err)
		}
		generateUntil(t, session(t, e), i)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What the processor computed is in the figures of a benchmark and in the timeline, and the rates that
// decide are in the plan.
func TestFiguresOfExpertsBesideADevice(t *testing.T) {
	var timeline bytes.Buffer
	o := beside(on("discrete", Options{Trace: &timeline}), all)
	model := families + "qwen2moe/model.gguf"
	r, err := Bench(t.Context(), model, o, BenchOptions{PromptTokens: 4, GenTokens: 4, Repetitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	info, _, err := Inspect(model, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := float64(info.ExpertsUsed * info.Layers); r.CPUExpertsPerToken != want ||
		!r.CPUExperts || r.MoveRates.BusBytesPerS <= 0 {
		t.Errorf("%v experts a token, want %v; %+v", r.CPUExpertsPerToken, want, r.Plan)
	}
	for _, part := range []string{`"experts on the processor"`, `"experts L0"`} {
		if !strings.Contains(timeline.String(), part) {
			t.Errorf("the timeline has no %s", part)
		}
	}
}

// An option that does nothing is refused.
func TestCPUExpertsWantADeviceWithMemoryOfItsOwn(t *testing.T) {
	for _, device := range []string{"", "cpu", "ref"} {
		o := onCUDA("/nonexistent/libcuda.so.1", beside(Options{Context: 64}, nil))
		o.Device = device
		_, err := Open(tiny, o)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "CPUExperts") {
			t.Errorf("device %q: %v", device, err)
		}
	}
}

// A decode step allocates nothing in Go, with experts on both sides.
func TestDecodeStepBesideAllocatesNothingOnCUDA(t *testing.T) {
	if invariants.On {
		t.Skip("the race detector allocates")
	}
	model, library := families+"qwen2moe/model.gguf", cudaLibrary(t)
	o := beside(onCUDA(library, Options{Context: 256}), odd)
	least := leastOnCUDA(t, model, library, o)
	o.DeviceMemory, o.HostMemory = least.Least+64<<10, least.HostLeast+64<<10
	s := session(t, open(t, model, o))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := [1]int32{5}
	step := func() {
		id[0] = (id[0]*31 + 7) % 60
		if err := s.Feed(ctx, id[:]); err != nil {
			t.Fatal(err)
		}
	}
	for range 60 { // tables and slices reach their size
		step()
	}
	if n := testing.AllocsPerRun(60, step); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
}
