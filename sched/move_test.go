package sched

import (
	"math"
	"math/rand/v2"
	"testing"
)

func randomRates(rng *rand.Rand) Rates {
	return Rates{BusBytesPerS: 1e9 * (1 + 50*rng.Float64()), BusSeconds: 1e-5 * rng.Float64(),
		DeviceGroupSeconds: 1e-5 * rng.Float64(), DeviceRowSeconds: 1e-7 * rng.Float64(),
		HostGroupSeconds: 1e-3 * rng.Float64(), HostRowSeconds: 1e-4 * rng.Float64(),
		RowBytes: 16384}
}

// end is when both sides are done, if those in the mask move, the most rows first.
func end(r Rates, bytes int64, rows []int, mask int) float64 {
	bus, host, least := 0.0, 0.0, math.MaxInt
	for i, n := range rows {
		if mask>>i&1 == 1 {
			bus += r.move(bytes, n)
			least = min(least, n)
		} else {
			host += r.compute(n)
		}
	}
	if mask != 0 {
		bus += r.DeviceGroupSeconds + float64(least)*r.DeviceRowSeconds
	}
	return max(bus, host)
}

// The split is the best of all where the bus is what moving waits for.
func TestSplitEqualsExhaustiveSearch(t *testing.T) {
	var s Splitter
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 13))
		r, bytes := randomRates(rng), int64(2_654_208)
		rows, move := make([]int, 1+rng.IntN(8)), make([]bool, 8)
		for i := range rows {
			rows[i] = 1 + rng.IntN(40)
		}
		got := s.Split(r, bytes, rows, move[:len(rows)])
		mask, want := 0, math.Inf(1)
		for i := range rows {
			if move[i] {
				mask |= 1 << i
			}
		}
		for m := range 1 << len(rows) {
			want = min(want, end(r, bytes, rows, m))
		}
		if math.Abs(end(r, bytes, rows, mask)-got) > 1e-12 {
			t.Fatalf("seed %d: says %.6f s, takes %.6f", seed, got, end(r, bytes, rows, mask))
		}
		// A few rows more or less on the device shift the end by its time of a row, hardly more.
		if got > want+50*r.DeviceRowSeconds {
			t.Fatalf("seed %d: %.6f s, the best is %.6f", seed, got, want)
		}
	}
	rows, move := make([]int, 64), make([]bool, 64)
	r := randomRates(rand.New(rand.NewPCG(1, 1)))
	s.Split(r, 1<<20, rows, move)
	if n := testing.AllocsPerRun(10, func() { s.Split(r, 1<<20, rows, move) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// One row of an expert is computed where it lies if the bus is slow, many rows move, and a long
// queue on either side turns the choice.
func TestMoveOrCompute(t *testing.T) {
	r := Rates{BusBytesPerS: 10e9, BusSeconds: 1e-5, DeviceGroupSeconds: 1e-5, DeviceRowSeconds: 1e-7,
		HostGroupSeconds: 1e-4, HostRowSeconds: 5e-5, RowBytes: 16384}
	const bytes = 2_654_208 // 0.265 ms across
	for _, c := range []struct {
		rows      int
		bus, host float64
		move      bool
	}{{1, 0, 0, false}, {32, 0, 0, true}, {32, 1e-2, 0, false}, {1, 0, 1e-3, true}} {
		if got := MoveOrCompute(r, bytes, c.rows, c.bus, c.host); got != c.move {
			t.Errorf("%+v: move %v", c, got)
		}
	}
}
