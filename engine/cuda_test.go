package engine

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moering/moering/tests/fakecuda"
)

// cudaLibrary is the driver of the tests below: a GPU's, where MOERING_TEST_DEVICE is cuda, else the
// stand-in of tests/fakecuda, which runs the same kernels on the host and is strict about order.
func cudaLibrary(t *testing.T) string {
	t.Helper()
	if !haveCPU {
		t.Skip("no GPU without cgo")
	}
	if os.Getenv("MOERING_TEST_DEVICE") == "cuda" {
		return os.Getenv("MOERING_CUDA_LIBRARY")
	}
	return fakecuda.Build(t)
}

func onCUDA(library string, o Options) Options {
	o.Device = "cuda"
	o.Getenv = func(name string) string {
		if name == "MOERING_CUDA_LIBRARY" {
			return library
		}
		return ""
	}
	return o
}

// Each family's logits are transformers', computed by the GPU's kernels in float32.
func TestFamiliesOnCUDA(t *testing.T) {
	library := cudaLibrary(t)
	dirs, err := filepath.Glob(families + "*/golden.json")
	if err != nil || len(dirs) == 0 {
		t.Fatal(err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		g, want := readGolden(t, dir)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			e := open(t, filepath.Join(dir, "model.gguf"), onCUDA(library, Options{Context: 256,
				Exact: true}))
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
			n := 8
			if got := generate(t, s, g.Prompt, n); !slices.Equal(got, g.Greedy[:n]) {
				t.Errorf("greedy tokens %v, want %v", got, g.Greedy[:n])
			}
		})
	}
}

// Invariants 1 and 2 on a GPU: neither the tiers' sizes nor the neighbours change a bit.
func TestTiersAndNeighboursOnCUDA(t *testing.T) {
	library := cudaLibrary(t)
	rng := rand.New(rand.NewPCG(5, 5))
	model := families + "qwen2moe/model.gguf"
	prompts := [][]int32{{5, 9, 30}, {17, 8, 8, 8, 10, 4}, {1}}
	const n = 4
	e := open(t, model, onCUDA(library, Options{Context: 64}))
	var alone [][]int32
	var logits [][]float32
	for _, p := range prompts {
		s := session(t, e)
		alone = append(alone, generate(t, s, p, n))
		if err := s.Truncate(0); err != nil {
			t.Fatal(err)
		}
		logits = append(logits, score(t, s, p))
		s.Close()
	}
	o := onCUDA(library, Options{Context: 128, HostMemory: 1, DeviceMemory: 1})
	_, p, err := Inspect(model, o)
	if err != nil {
		t.Fatal(err)
	}
	o.DeviceMemory = p.Least
	if _, p, err = Inspect(model, o); err != nil || p.HostLeast == 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	for range 4 {
		o.DeviceMemory = p.Least + rng.Int64N(200<<10)
		o.HostMemory = p.HostLeast + rng.Int64N(300<<10)
		e := open(t, model, o)
		var together [3]*Session
		done := make(chan int)
		for i := range prompts {
			together[i] = session(t, e)
			go func() {
				defer func() { done <- i }()
				if got := score(t, together[i], prompts[i]); !slices.Equal(got, logits[i]) {
					t.Errorf("logits of sequence %d differ under %+v", i, e.Plan())
				}
				if err := together[i].Truncate(0); err != nil {
					t.Error(err)
				}
				if got := generate(t, together[i], prompts[i], n); !slices.Equal(got, alone[i]) {
					t.Errorf("sequence %d: %v together, %v alone", i, got, alone[i])
				}
			}()
		}
		for range prompts {
			<-done
		}
	}
}

// Without a driver the processor is used and said so; asking for a GPU is an error that says what is
// missing.
func TestWithoutADriver(t *testing.T) {
	const missing = "/nonexistent/libcuda.so.1"
	auto := onCUDA(missing, Options{Context: 64})
	auto.Device = ""
	e := open(t, tiny, auto)
	if d := e.Options().Device; d != "cpu" && d != "ref" {
		t.Errorf("device %q", d)
	}
	_, err := Open(tiny, onCUDA(missing, Options{Context: 64}))
	if !errors.Is(err, ErrDevice) || !haveCPU && err == nil {
		t.Fatalf("asked for a GPU: %v", err)
	}
	for _, part := range []string{"driver", missing} {
		if haveCPU && !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}
