package sched

import (
	"math"
	"math/rand/v2"
	"testing"
)

func randomDense(rng *rand.Rand) []int64 {
	dense := make([]int64, rng.IntN(12))
	for l := range dense {
		dense[l] = 20 + rng.Int64N(100)
	}
	return dense
}

// With dense weights that may stream, every budget from the least on fits and is not exceeded, more
// memory never makes more of them stream, and the least is two sections of them.
func TestPlaceStreamsDenseWeightsThatDoNotFit(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 11))
		d := Demand{Fixed: 300, KVToken: rng.Int64N(4), KVTokensMin: 10, KVTokensWant: 200, Section: 50,
			Groups: 40, Dense: randomDense(rng)}
		all, most := int64(0), int64(0)
		for _, n := range d.Dense {
			all, most = all+n, max(most, n)
		}
		least := 300 + 10*d.KVToken + 2*50 + min(all, 2*most)
		streams := int64(math.MaxInt64 / 2)
		for d.Budget = least - 1; d.Budget < least+2500; d.Budget += 1 + rng.Int64N(9) {
			p := Place(d)
			if p.Least != least || p.Fits != (d.Budget >= least) {
				t.Fatalf("seed %d: least %d, want %d; budget %d: %+v", seed, p.Least, least, d.Budget, p)
			}
			if !p.Fits {
				continue
			}
			used := d.Fixed + p.Dense.bytes() + p.KVTokens*d.KVToken + (p.Ring+p.Cache)*d.Section
			if used > d.Budget || p.Ring < 2 || p.KVTokens < 10 {
				t.Fatalf("seed %d, budget %d: used %d, %+v", seed, d.Budget, used, p)
			}
			stay, stream := int64(0), int64(0)
			for l, n := range d.Dense {
				if p.Dense.Stays[l] {
					stay += n
				} else {
					stream += n
				}
			}
			if stay != p.Dense.StayBytes || stream != p.Dense.Streams || stay+stream != all ||
				(stream > 0) != (p.Dense.Sections > 0) {
				t.Fatalf("seed %d, budget %d: %+v", seed, d.Budget, p.Dense)
			}
			if stream > 0 && stream > streams+most { // layers differ in size: one may take another's place
				t.Fatalf("seed %d, budget %d: %d bytes stream, %d with less", seed, d.Budget, stream,
					streams)
			}
			streams = stream
			spare := d.Budget - p.Least + min(all, 2*most) - p.Dense.bytes()
			for l, n := range d.Dense {
				if !p.Dense.Stays[l] && n <= spare {
					t.Fatalf("seed %d, budget %d: layer %d streams and would fit: %+v", seed, d.Budget, l, p)
				}
			}
		}
		if streams != 0 {
			t.Fatalf("seed %d: %d bytes still stream", seed, streams)
		}
	}
}

// Those that stream are spread: no two stretches differ by more than one layer.
func TestStreamedDenseLayersAreSpread(t *testing.T) {
	dense := make([]int64, 24)
	for l := range dense {
		dense[l] = 10
	}
	p := placeDense(dense, 190) // 17 stay beside two sections
	last, gaps := -1, map[int]int{}
	for l, stays := range p.Stays {
		if !stays {
			gaps[l-last]++
			last = l
		}
	}
	if p.StayBytes != 170 || p.Streams != 70 || len(gaps) != 2 || gaps[3]+gaps[4] != 7 {
		t.Errorf("%+v, gaps %v", p, gaps)
	}
}

// Both budgets hold, both least budgets work and a byte less does not, and no group is kept twice.
func TestPlaceTiersKeepsBothBudgets(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 12))
		d := TierDemand{HostFixed: rng.Int64N(500), DeviceFixed: rng.Int64N(500), Dense: randomDense(rng),
			KVToken: 3, KVTokensMin: 10, KVTokensWant: 100, Section: 50, Slab: 60,
			Groups: 2 + rng.Int64N(60), Staging: rng.Int64N(2) * 4}
		p := PlaceTiers(d)
		d.HostBudget, d.DeviceBudget = p.LeastHost, p.LeastDevice
		if q := PlaceTiers(d); !q.FitsDevice {
			t.Fatalf("seed %d: the least device budget does not fit: %+v", seed, q)
		} else if d.HostBudget = q.LeastHost; !PlaceTiers(d).FitsHost {
			t.Fatalf("seed %d: the least host budget does not fit: %+v", seed, q)
		}
		d.HostBudget--
		if q := PlaceTiers(d); q.FitsHost {
			t.Fatalf("seed %d: less than the least host budget fits: %+v", seed, q)
		}
		d.HostBudget += 1 + rng.Int64N(5000)
		d.DeviceBudget += rng.Int64N(4000)
		p = PlaceTiers(d)
		slab := d.Slab
		if p.Dense.Sections > 0 {
			slab = max(slab, p.Dense.Section)
		}
		host := d.HostFixed + p.Staging*slab + p.HostDense + p.HostCache*d.Slab
		device := d.DeviceFixed + p.Dense.bytes() + p.KVTokens*d.KVToken + (p.Ring+p.Cache)*d.Section
		if host > d.HostBudget || host+p.HostFree != d.HostBudget || device > d.DeviceBudget ||
			p.HostCache+p.Cache > d.Groups || p.HostCache < 0 || p.Staging < 2 {
			t.Fatalf("seed %d: host %d of %d, device %d of %d: %+v", seed, host, d.HostBudget, device,
				d.DeviceBudget, p)
		}
		for l, kept := range p.DenseHost {
			if kept && p.Dense.Stays[l] {
				t.Fatalf("seed %d: layer %d is kept twice", seed, l)
			}
		}
	}
}

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
