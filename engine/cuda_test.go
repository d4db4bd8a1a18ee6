package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/moering/moering/internal/invariants"
	"github.com/moering/moering/kernels/cuda"
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

// cudaStandIn is the stand-in driver, for tests of what only it can tell or do.
func cudaStandIn(t *testing.T) string {
	t.Helper()
	if os.Getenv("MOERING_TEST_DEVICE") == "cuda" {
		t.Skip("a driver does not count what it has given, and does not fail when asked: the stand-in does")
	}
	library := cudaLibrary(t)
	fakecuda.Control(t, library, "fresh")
	t.Cleanup(func() { fakecuda.Control(t, library, "fresh") })
	return library
}

// leastOnCUDA is the plan of the smallest budgets that work.
func leastOnCUDA(t *testing.T, model, library string, o Options) Plan {
	t.Helper()
	o.HostMemory, o.DeviceMemory = 1, 1
	_, p, err := Inspect(model, onCUDA(library, o))
	if err == nil {
		o.DeviceMemory = p.Least
		_, p, err = Inspect(model, onCUDA(library, o))
	}
	if err != nil || p.HostLeast == 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	return p
}

// Invariant 3 on a GPU: whatever the budgets, what the driver has given of device memory stays below
// the one, and the host memory that is locked below the other, less what the program itself takes. The
// driver's own count says so, of all that was ever held at once.
func TestBudgetsHoldOnCUDA(t *testing.T) {
	library := cudaStandIn(t)
	model := families + "qwen2moe/model.gguf"
	prompts := [][]int32{{5, 9, 30}, {17, 8, 8, 8, 10, 4, 1, 2, 3}, {1}}
	const free = 300 << 20
	fakecuda.Control(t, library, fmt.Sprint("set memory ", free))
	for i := range 6 {
		rng := rand.New(rand.NewPCG(6, uint64(i)))
		o := Options{Context: 64, Sequences: 1 + rng.IntN(4), Chunk: []int{0, 2, 16}[rng.IntN(3)],
			Exact: rng.IntN(2) == 0, KVType: []string{"f32", "f16"}[rng.IntN(2)], CPUExperts: i%3 == 0}
		least := leastOnCUDA(t, model, library, o)
		o.HostMemory = least.HostLeast + rng.Int64N(300<<10)
		switch i {
		case 0:
			o.DeviceMemory, o.HostMemory = least.Least, least.HostLeast
		case 1: // all that is free, but for a tenth; passes then have more rows, on the host too
			o.HostMemory = 1
			_, p, err := Inspect(model, onCUDA(library, o))
			if err != nil {
				t.Fatal(err)
			}
			o.HostMemory = p.HostLeast
		default:
			o.DeviceMemory = least.Least + rng.Int64N(200<<10)
		}
		fakecuda.Control(t, library, "fresh")
		fakecuda.Control(t, library, fmt.Sprint("set memory ", free))
		e, err := Open(model, onCUDA(library, o))
		if err != nil {
			t.Fatalf("budgets %+v: %v", o, err)
		}
		plan, most := e.Plan(), e.device.Info().MemoryBytes
		var all sync.WaitGroup
		for _, prompt := range prompts[:min(o.Sequences, len(prompts), plan.KVTokens/o.Context)] {
			s := session(t, e)
			all.Go(func() { generate(t, s, prompt, 4) })
		}
		all.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		var device, host int64
		peak := fakecuda.Control(t, library, "peak")
		if _, err := fmt.Sscan(peak, &device, &host); err != nil {
			t.Fatal(err)
		}
		t.Logf("device: %d of %d, host: %d of %d less %d", device, plan.Budget, host, plan.HostBudget,
			int64(reserveBytes))
		if device > plan.Budget || o.DeviceMemory > 0 && plan.Budget != o.DeviceMemory ||
			plan.Budget > most || most > free {
			t.Errorf("%d bytes of device memory under a budget of %d, the device gives %d of %d: %+v", device,
				plan.Budget, most, int64(free), plan)
		}
		// The locked memory through which lists pass to kernels is of the program's part, as its heap is.
		const lists = 1 << 20
		if host-lists > plan.HostBudget-reserveBytes || plan.HostBudget != o.HostMemory {
			t.Errorf("%d bytes of host memory under a budget of %d: %+v", host, plan.HostBudget, plan)
		}
	}
}

// cudaFaultSeeds is how many runs are tried; MOERING_CUDA_FAULT_SEEDS may ask for more.
func cudaFaultSeeds(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("MOERING_CUDA_FAULT_SEEDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if invariants.On { // with the race detector, which is slow
		return 24
	}
	return 120
}

// Invariant 5 on a GPU: after success, cancellation, a failing driver and a failing disk alike, all that
// the driver gave is back at Close, files and threads too (TestMain sees to goroutines). Without an error
// the answer is the right one.
func TestNothingLeaksOnCUDA(t *testing.T) {
	library := cudaStandIn(t)
	model := families + "qwen2moe/model.gguf"
	prompt, n := []int32{3, 1, 4, 1, 5}, 5
	plain := onCUDA(library, Options{Context: 64})
	least := leastOnCUDA(t, model, library, Options{Context: 64, CPUExperts: true})
	fakecuda.Control(t, library, "delays 1 0 0")
	want, err := tryGenerate(model, plain, prompt, n)
	if err != nil {
		t.Fatal(err)
	}
	nothing, files, threads := fakecuda.Control(t, library, "live"), descriptors(t), workers(t)
	ends := map[string]int{}
	for seed := range cudaFaultSeeds(t) {
		rng := rand.New(rand.NewPCG(uint64(seed), 77))
		o := onCUDA(library, Options{Context: 64, Prefetch: Toggle(rng.IntN(3)),
			DeviceMemory: least.Least + rng.Int64N(99<<10), HostMemory: least.HostLeast + rng.Int64N(200<<10)})
		if seed%8 > 3 {
			o = beside(o, odd)
		}
		var got []int32
		var err error
		switch what := seed % 4; what {
		case 0: // whatever happens by itself
			got, err = tryGenerate(model, o, prompt, n)
		case 1:
			got, err = cancelledAfter(model, o, prompt, rng.IntN(n+1))
			got = got[:min(len(got), n)]
		case 2: // from one call in 30 to one in some thousand
			fakecuda.Control(t, library, fmt.Sprintf("chance %d %d", seed, 250<<rng.IntN(8)))
			got, err = tryGenerate(model, o, prompt, n)
			fakecuda.Control(t, library, "chance 0 0")
		case 3:
			o.simulated = randomFaults(rng, false, false, 0)
			if rng.IntN(2) == 0 {
				o.simulated.ErrorP = rng.Float64() / 4
			}
			got, err = tryGenerate(model, o, prompt, n)
		}
		switch {
		case err == nil && !slices.Equal(got, want[:len(got)]), err == nil && seed%4 != 1 && len(got) != n:
			t.Errorf("seed %d: %v, want %v", seed, got, want)
		case err == nil:
			ends["right"]++
		case errors.Is(err, ErrDevice) && seed%4 == 2:
			ends["device"]++
		case errors.Is(err, ErrIO) && seed%4 == 3:
			ends["disk"]++
		case errors.Is(err, context.Canceled) && seed%4 == 1:
			ends["cancelled"]++
		default:
			t.Errorf("seed %d: %v", seed, err)
		}
		live, wrong := fakecuda.Control(t, library, "live"), fakecuda.Control(t, library, "violations")
		if live != nothing || wrong != "" || descriptors(t) != files || workers(t) != threads || leased(err) {
			t.Fatalf("seed %d, after %v: %s; %d files, %d before; %d threads, %d before; violations: %s", seed,
				err, live, descriptors(t), files, workers(t), threads, wrong)
		}
	}
	t.Logf("ends: %v", ends)
	for _, end := range []string{"right", "device", "disk", "cancelled"} {
		if ends[end] == 0 {
			t.Errorf("no run ends that way: %s, of %v", end, ends)
		}
	}
}

// Invariants 3 to 5 as far as any driver tells: an engine takes no more device memory than its budget, on a disk
// that fails there is the right answer or an error, and afterwards as much device memory is free as before.
func TestFaultsOnCUDA(t *testing.T) {
	library, slack := cudaLibrary(t), int64(0)
	if os.Getenv("MOERING_TEST_DEVICE") == "cuda" {
		slack = 256 << 20 // of the driver's own: the kernels' code; and others may use the GPU too
	}
	plain, packed := families+"qwen2moe/model.gguf", filepath.Join(t.TempDir(), "packed.gguf")
	if _, err := Pack(t.Context(), plain, packed, PackOptions{}); err != nil {
		t.Fatal(err)
	}
	prompt, n := []int32{3, 1, 4, 1, 5}, 5
	before := freeOnCUDA(t, library)
	e := open(t, plain, onCUDA(library, Options{Context: 64, DeviceMemory: 64 << 20}))
	want := generate(t, session(t, e), prompt, n)
	if used := before - freeOnCUDA(t, library); used > e.Plan().Budget+slack || used <= 0 {
		t.Errorf("%d bytes of device memory are used under a budget of %d", used, e.Plan().Budget)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	ends := map[error]int{}
	for seed := range 24 {
		rng := rand.New(rand.NewPCG(uint64(seed), 78))
		model := []string{plain, packed}[seed%2]
		least := leastOnCUDA(t, model, library, Options{Context: 64})
		o := onCUDA(library, Options{Context: 64, DeviceMemory: least.Least + rng.Int64N(99<<10),
			HostMemory: least.HostLeast + rng.Int64N(200<<10)})
		if o.simulated = randomFaults(rng, false, false, 0); seed%4 == 0 {
			o.simulated.ErrorP = rng.Float64() / 4
		} else if model == packed {
			o.simulated.CorruptP = rng.Float64() / 8
		}
		got, err := tryGenerate(model, o, prompt, n)
		switch {
		case err == nil && slices.Equal(got, want):
			ends[nil]++
		case errors.Is(err, ErrIO):
			ends[ErrIO]++
		case errors.Is(err, ErrFormat):
			ends[ErrFormat]++
		default:
			t.Errorf("seed %d: %v, %v; want %v", seed, got, err, want)
		}
	}
	if after := freeOnCUDA(t, library); after+slack < before {
		t.Errorf("%d bytes of device memory are free, %d were before", after, before)
	}
	if ends[nil] == 0 || ends[ErrIO] == 0 || ends[ErrFormat] == 0 {
		t.Errorf("ends %v: that tries little", ends)
	}
}

// One of several GPUs is named by its ordinal or UUID.
func TestDeviceIsNamedOnCUDA(t *testing.T) {
	library := cudaStandIn(t)
	fakecuda.Control(t, library, "set devices 3")
	list, err := cuda.Devices(library)
	if err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	for name, want := range map[string]int{"cuda": 0, "cuda:2": 2, "cuda:" + list[1].UUID: 1} {
		o := onCUDA(library, Options{Context: 64})
		o.Device = name
		e := open(t, tiny, o)
		if got := e.device.(interface{ About() cuda.DeviceInfo }).About(); got.UUID != list[want].UUID {
			t.Errorf("%s is %v", name, got)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	o := onCUDA(library, Options{Context: 64})
	o.Device = "cuda:3"
	if _, err := Open(tiny, o); !errors.Is(err, ErrDevice) || !strings.Contains(err.Error(), list[2].UUID) {
		t.Errorf("a fourth of three: %v", err)
	}
}

// freeOnCUDA is the device memory that a device may give, in bytes.
func freeOnCUDA(t *testing.T, library string) int64 {
	t.Helper()
	d, err := openDevice(onCUDA(library, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return d.Info().MemoryBytes
}

// Invariant 5 at open: whatever the driver refuses first, all that was taken before is back, and the next open
// succeeds.
func TestARefusedOpenLeavesNothingOnCUDA(t *testing.T) {
	library := cudaStandIn(t)
	model := families + "qwen2moe/model.gguf"
	o := beside(onCUDA(library, Options{Context: 64}), odd)
	fakecuda.Control(t, library, "delays 1 0 0")
	nothing, files, threads := fakecuda.Control(t, library, "live"), descriptors(t), workers(t)
	for _, call := range []string{"cuStreamCreate", "cuMemAlloc", "cuMemHostRegister", "cuEventCreate",
		"cuModuleLoadDataEx"} {
		// Some failures are survived, where less will do; so a few successes in a row are the end.
		const most, end = 200, 5
		failures, row := 0, 0
		for n := 1; n < most && row < end; n++ {
			fakecuda.Control(t, library, fmt.Sprintf("fail %s %d 1", call, n))
			e, err := Open(model, o)
			fakecuda.Control(t, library, "fail any 0 0")
			if row++; err == nil {
				err = e.Close()
			} else if failures, row = failures+1, 0; !errors.Is(err, ErrDevice) || e != nil {
				t.Errorf("%s %d: %v", call, n, err)
			}
			live := fakecuda.Control(t, library, "live")
			if live != nothing || descriptors(t) != files || workers(t) != threads || leased(err) {
				t.Fatalf("%s %d, after %v: %s; %d files, %d before; %d threads, %d before", call, n, err, live,
					descriptors(t), files, workers(t), threads)
			}
		}
		if failures == 0 || row < end {
			t.Errorf("%s: %d failures", call, failures)
		}
		t.Logf("%s: %d failures", call, failures)
	}
}

// leased reports that Close missed a lease on a section.
func leased(err error) bool {
	return err != nil && strings.Contains(err.Error(), "leases are not back")
}

// cancelledAfter generates until so many tokens are there, and cancels while the next is computed.
func cancelledAfter(model string, o Options, prompt []int32, tokens int) (out []int32, err error) {
	e, err := Open(model, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	s, err := e.NewSession()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if tokens == 0 {
		go cancel()
	}
	for token, err := range s.GenerateTokens(ctx, prompt, Sampling{MaxTokens: 20, IgnoreEOS: true}) {
		if err != nil {
			return out, err
		}
		if out = append(out, token.ID); len(out) == tokens {
			go cancel()
		}
	}
	return out, nil
}

// Rounded activations give other bits, and about the same logits; a batch of one arithmetic is not resumed with
// the other.
func TestHalfActivationsOnCUDA(t *testing.T) {
	library, dir := cudaLibrary(t), t.TempDir()+"/model"
	if err := Synth(t.Context(), dir, SynthOptions{Layers: 2, Dim: 64, Safetensors: true}, nil); err != nil {
		t.Fatal(err)
	}
	ids := []int32{3, 1, 4, 1, 5}
	o := onCUDA(library, Options{Context: 64})
	e := open(t, dir, o)
	want := score(t, session(t, e), ids)
	o.HalfActivations = true
	half := open(t, dir, o)
	if r := difference(score(t, session(t, half), ids), want); !(r > 1e-4 && r < 2e-2) {
		t.Errorf("logits differ by %.2g", r)
	}
	one, err := e.batchIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if two, err := half.batchIdentity(); err != nil || one.Fingerprint == two.Fingerprint {
		t.Errorf("%+v and %+v, %v", one, two, err)
	}
	for _, bad := range []Options{{Device: "ref", HalfActivations: true},
		{Device: "cuda", HalfActivations: true, Exact: true}} {
		if _, err := Open(tiny, bad); !errors.Is(err, ErrUsage) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	o = onCUDA("/nonexistent/libcuda.so.1", o)
	o.Device = ""
	if _, err := Open(tiny, o); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without a GPU: %v", err)
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
