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
			bus += r.Move(bytes, n)
			least = min(least, n)
		} else {
			host += r.Compute(n)
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

// One row of an expert is computed where it lies if the bus is slow, many rows move; of an expert whose
// weights are a fourth, a fourth of the time is expected.
func TestSplitOfOneExpert(t *testing.T) {
	r := Rates{BusBytesPerS: 10e9, BusSeconds: 1e-5, DeviceGroupSeconds: 1e-5, DeviceRowSeconds: 1e-7,
		HostGroupSeconds: 1e-4, HostRowSeconds: 5e-5, RowBytes: 16384}
	const bytes = 2_654_208 // 0.265 ms across
	var s Splitter
	for _, c := range []struct {
		rows     int
		measured int64
		move     bool
	}{{1, 0, false}, {32, 0, true}, {1, bytes, false}, {1, bytes / 4, true}, {5, bytes * 4, false}} {
		r.GroupBytes = c.measured
		move := [1]bool{!c.move}
		s.Split(r, bytes, []int{c.rows}, move[:])
		if move[0] != c.move {
			t.Errorf("%+v: move %v", c, move[0])
		}
	}
}

// Blocks in a row: where a move takes twice as long as the processor, it has time for one in three; where
// either side is far too slow, the other has all.
func TestChainKeepsBothSidesBusy(t *testing.T) {
	const bytes = 1e9
	for _, c := range []struct {
		bus, host, device float64 // seconds of a block
		n, moved          int
	}{{2, 1, 0, 6, 2}, {1, 1, 0, 6, 3}, {1, 2, 0, 6, 4}, {100, 1, 0, 6, 0}, {1, 100, 0, 6, 6},
		{1, 1, 0, 1, 0}, {0.5, 1, 0, 1, 1}, {0.5, 1, 0.6, 1, 0}, {1, 1, 0.5, 2, 1}, {1, 1, 1, 2, 0}, {1, 1, 0, 0, 0}} {
		r := Rates{GroupBytes: bytes, BusBytesPerS: bytes / c.bus, HostGroupSeconds: c.host,
			DeviceGroupSeconds: c.device}
		if got := r.Chain(bytes, c.n, 1); got != c.moved {
			t.Errorf("%+v: %d moved", c, got)
		}
	}
	r := Rates{GroupBytes: bytes, BusBytesPerS: bytes, HostRowSeconds: 0.1}
	if few, many := r.Chain(bytes, 4, 1), r.Chain(bytes, 4, 100); few != 0 || many != 4 {
		t.Errorf("%d moved for a row, %d for many", few, many)
	}
	if half := r.Chain(bytes/2, 4, 15); half == 0 || half == 4 {
		t.Errorf("%d of blocks of half the bytes", half)
	}
}
