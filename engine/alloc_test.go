package engine

import (
	"context"
	"testing"

	"github.com/moering/moering/internal/invariants"
)

// A decode step in steady state allocates nothing in Go, whether experts are all in memory or stream.
func TestDecodeStepAllocatesNothing(t *testing.T) {
	if invariants.On || !haveCPU {
		t.Skip("the race detector and the reference device allocate")
	}
	_, plan, err := Inspect(tiny, Options{Context: 512, HostMemory: 1, Device: "cpu"})
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{"resident": {}, "streaming": {HostMemory: plan.Least + 2<<20}} {
		o.Context, o.Device = 512, "cpu"
		s := session(t, open(t, tiny, o))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		id := [1]int32{5}
		step := func() {
			id[0] = (id[0]*31 + 7) % 2000
			if err := s.Feed(ctx, id[:]); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 { // tables and slices reach their size
			step()
		}
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%s: %v allocations a step", name, n)
		}
	}
}
