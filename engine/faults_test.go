package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moering/moering/internal/invariants"
	"github.com/moering/moering/kernels/ref"
	"github.com/moering/moering/offload/reader"
)

// faultSeeds is how many runs over a faulty store are tried; MOERING_FAULT_SEEDS may ask for more.
func faultSeeds(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("MOERING_FAULT_SEEDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if invariants.On { // with the race detector, which is slow: the same seeds run without
		return 400
	}
	return 2000
}

// randomFaults is a store that is slow, out of order, and at times wrong. Bits flip only where
// checksums can tell: of any read where each is checked, as by default; else on the medium, where the
// first read shows it.
func randomFaults(rng *rand.Rand, checksums, every bool, size int64) *reader.SimOptions {
	s := &reader.SimOptions{Seed: rng.Uint64(), LatencyMax: time.Millisecond,
		SlowP: rng.Float64() / 50, Slow: 5 * time.Second, ShortP: rng.Float64() / 4,
		InterruptP: rng.Float64() / 8}
	switch rng.IntN(5) {
	case 0:
		s.ErrorP = rng.Float64() / 100
	case 1:
		s.HangP, s.HangFor = rng.Float64()/100, time.Hour
	case 2:
		s.TruncateP = rng.Float64() / 100
	case 3:
		if checksums && every {
			s.CorruptP = rng.Float64() / 50
		} else if checksums {
			s.Faults = []reader.SimFault{{Offset: rng.Int64N(size), Kind: reader.SimFlip,
				Bit: uint8(rng.IntN(8))}}
		}
	}
	return s
}

// Invariant 4: whatever the store does, there is the right answer or an error that says what happened
// to what; never a wrong token, never a hang, and nothing is left behind.
func TestFaultyStoresGiveTheAnswerOrAnError(t *testing.T) {
	dir := t.TempDir()
	plain := families + "qwen2moe/model.gguf"
	packed := filepath.Join(dir, "packed.gguf")
	if _, err := Pack(context.Background(), plain, packed, PackOptions{}); err != nil {
		t.Fatal(err)
	}
	file, err := os.Stat(packed)
	if err != nil {
		t.Fatal(err)
	}
	prompt, n := []int32{3, 1, 4, 1, 5}, 6
	want := generate(t, session(t, open(t, plain, on("ref", Options{Context: 64}))), prompt, n)
	least := map[string]Plan{}
	for _, model := range []string{plain, packed} {
		least[model] = leastPlan(t, model, Options{Context: 64, Device: "ref"})
		least["discrete"+model] = leastPlan(t, model, on("discrete", Options{Context: 64,
			CPUExperts: true}))
	}
	right, failed := 0, map[string]int{}
	for seed := range faultSeeds(t) {
		rng := rand.New(rand.NewPCG(uint64(seed), 99))
		model := []string{plain, packed}[rng.IntN(2)]
		o := Options{Context: 64, HostMemory: least[model].Least + rng.Int64N(300<<10), Device: "ref",
			Prefetch: Toggle(rng.IntN(3)), IOTimeout: 30 * time.Second,
			Verify: []string{"", "", "always", "first"}[rng.IntN(4)]}
		if rng.IntN(4) == 0 {
			p := least["discrete"+model]
			o.discrete = &ref.Options{Discrete: true, MemoryBytes: 1 << 26}
			o.DeviceMemory, o.HostMemory = p.Least+rng.Int64N(99<<10), p.HostLeast+rng.Int64N(300<<10)
			if seed%2 == 0 {
				o = beside(o, []func(int) bool{odd, some, nil}[seed%3])
			}
		}
		o.simulated = randomFaults(rng, model == packed, o.Verify != "first", file.Size())
		got, err := tryGenerate(model, o, prompt, n)
		switch {
		case err == nil && !slices.Equal(got, want):
			t.Fatalf("seed %d: %v, want %v; %+v", seed, got, want, o.simulated)
		case err == nil:
			right++
		case errors.Is(err, ErrIO):
			failed["I/O"]++
		case errors.Is(err, ErrFormat):
			failed["format"]++
			if o.Verify == "" {
				failed["format by default"]++
			}
		default:
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%d right, failures %v", right, failed)
	if right == 0 || failed["I/O"] == 0 || failed["format by default"] == 0 {
		t.Errorf("%d right, failures %v: the faults are too many or too few to show anything", right,
			failed)
	}
}

// leastPlan is the plan of the smallest budgets that work.
func leastPlan(t *testing.T, model string, o Options) Plan {
	t.Helper()
	o.HostMemory = 1
	if o.discrete != nil {
		o.DeviceMemory = 1
	}
	for range 2 {
		_, p, err := Inspect(model, o)
		if err != nil {
			t.Fatal(err)
		}
		if o.discrete == nil || p.HostLeast > 0 {
			return p
		}
		o.DeviceMemory = p.Least
	}
	t.Fatal("no plan for the least budget")
	return Plan{}
}

// tryGenerate opens, generates and closes; a hang is a failure of its own.
func tryGenerate(model string, o Options, prompt []int32, n int) (out []int32, err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Second,
		fmt.Errorf("it hangs"))
	defer cancel()
	e, err := OpenContext(ctx, model, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		closed := e.Close()
		if closed != nil && (err == nil || leased(closed)) && !errors.Is(closed, reader.ErrStranded) {
			err = errors.Join(err, fmt.Errorf("close: %w", closed))
		}
	}()
	s, err := e.NewSession()
	if err != nil {
		return nil, err
	}
	for token, err := range s.GenerateTokens(ctx, prompt, Sampling{MaxTokens: n, IgnoreEOS: true}) {
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		out = append(out, token.ID)
	}
	return out, nil
}

// A disk that hangs is an error that says so, with what was read and for how long.
func TestHangingDiskIsAnErrorThatSaysSo(t *testing.T) {
	o := Options{Context: 64, Device: "ref", IOTimeout: 7 * time.Second,
		simulated: &reader.SimOptions{HangP: 1, HangFor: 24 * time.Hour}}
	_, err := tryGenerate(families+"qwen2moe/model.gguf", o, []int32{1, 2}, 2)
	if !errors.Is(err, ErrIO) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{"7s", "model.gguf"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}
