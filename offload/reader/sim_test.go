package reader

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faultSeeds is how many simulated disks the fault test tries.
const faultSeeds = 1000

// TestFaultsGiveAnErrorOrTheRightBytes runs random loads on random broken disks: every request ends
// once, with the right bytes or an error, and never hangs.
func TestFaultsGiveAnErrorOrTheRightBytes(t *testing.T) {
	data := [][]byte{noise(1, 300000), noise(2, 4096), noise(3, 70001)}
	var total Faults
	failed, right := 0, 0
	for seed := range uint64(faultSeeds) {
		f, bad, good := faultyRun(t, seed, data)
		failed, right = failed+bad, right+good
		total.Short += f.Short
		total.Interrupted += f.Interrupted
		total.Errors += f.Errors
		total.Truncated += f.Truncated
		total.Slow += f.Slow
	}
	t.Logf("%d requests failed, %d were right, %+v", failed, right, total)
	if failed == 0 || right == 0 || total.Short == 0 || total.Interrupted == 0 ||
		total.Errors == 0 || total.Truncated == 0 || total.Slow == 0 {
		t.Error("a kind of fault never came to pass")
	}
}

func faultyRun(t *testing.T, seed uint64, data [][]byte) (f Faults, failed, right int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 9))
	sim := SimOptions{Seed: seed, ShortP: rng.Float64() * 0.5, InterruptP: rng.Float64() * 0.3,
		ErrorP: rng.Float64() * 0.02, TruncateP: rng.Float64() * 0.01}
	sim.LatencyMax, sim.SlowP, sim.Slow = time.Second, 0.01, time.Hour
	depth := 1 + rng.IntN(8)
	s, err := NewSim(backing(data), sim, Options{Depth: depth, ChunkBytes: 4096 << rng.IntN(5),
		QueueRequests: depth + rng.IntN(8)})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var all []*outcome
	for range 20 {
		file := rng.IntN(len(data))
		size := 1 + rng.Int64N(int64(len(data[file])))
		out := want(&group, file, rng.Int64N(int64(len(data[file]))-size+1), size)
		all = append(all, out)
		submit(t, s, out)
	}
	wait(t, &group)
	closeReader(t, s)
	for _, out := range all {
		if out.err == nil {
			check(t, out, data)
			right++
			continue
		}
		failed++
		var e *Error
		if out.calls.Load() != 1 || !errors.As(out.err, &e) || !(errors.Is(out.err, syscall.EIO) ||
			errors.Is(out.err, io.ErrUnexpectedEOF)) || e.Offset < out.Offset {
			t.Fatalf("seed %d: %v after %d calls", seed, out.err, out.calls.Load())
		}
	}
	if stats := s.Stats(); stats.Failed != int64(failed) || stats.InFlightPeak > depth {
		t.Fatalf("seed %d: %d failed, depth %d, %+v", seed, failed, depth, stats)
	}
	return s.Faults(), failed, right
}

func TestSimulationRepeatsFromItsSeed(t *testing.T) {
	data := [][]byte{noise(1, 200000)}
	run := func(seed uint64) (f Faults, errs string) {
		s, err := NewSim(backing(data), SimOptions{Seed: seed, LatencyMax: 30 * time.Microsecond,
			ShortP: 0.2, InterruptP: 0.2, CorruptP: 0.1}, Options{Depth: 6, ChunkBytes: 4096})
		if err != nil {
			t.Fatal(err)
		}
		defer closeReader(t, s)
		var group sync.WaitGroup
		var all []*outcome
		for i := range 30 {
			all = append(all, want(&group, 0, int64(i)*5000, 40000))
			submit(t, s, all[i])
		}
		wait(t, &group)
		var b bytes.Buffer
		for _, out := range all {
			b.Write(out.Buf[:out.Need])
		}
		return s.Faults(), b.String()
	}
	f1, bytes1 := run(1)
	f2, bytes2 := run(1)
	f3, bytes3 := run(2)
	if f1 != f2 || bytes1 != bytes2 {
		t.Errorf("one seed, two runs: %+v, %+v", f1, f2)
	}
	if f1 == f3 || bytes1 == bytes3 {
		t.Errorf("two seeds, one run: %+v", f1)
	}
}

func TestCorruptionFlipsOneBit(t *testing.T) {
	data := [][]byte{noise(5, 8192)}
	s, err := NewSim(backing(data), SimOptions{Seed: 3, CorruptP: 1}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, s)
	var group sync.WaitGroup
	out := want(&group, 0, 0, 8192)
	submit(t, s, out)
	wait(t, &group)
	bits := 0
	for i, v := range out.Buf {
		for x := v ^ data[0][i]; x != 0; x &= x - 1 {
			bits++
		}
	}
	if out.err != nil || bits != 1 || s.Faults().Corrupted != 1 {
		t.Errorf("%d bits differ, %v, %+v", bits, out.err, s.Faults())
	}
}

func TestAHangingDiskEndsWithClose(t *testing.T) {
	data := [][]byte{noise(5, 1<<16)}
	s, err := NewSim(backing(data), SimOptions{HangP: 0.5, Slow: time.Hour, SlowP: 0.3},
		Options{Depth: 2, ChunkBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var all []*outcome
	for range 10 {
		all = append(all, want(&group, 0, 0, 1<<16))
		submit(t, s, all[len(all)-1])
	}
	for s.Faults().Hung+s.Faults().Slow == 0 {
		time.Sleep(time.Millisecond)
	}
	closeReader(t, s)
	wait(t, &group)
	for _, out := range all {
		if out.calls.Load() != 1 || out.err == nil {
			t.Errorf("%d calls, %v", out.calls.Load(), out.err)
		}
	}
}

func TestReadsFinishInAnOrderOfTheirOwn(t *testing.T) {
	data := [][]byte{noise(5, 1<<16)}
	order := func(depth int) (list []int64) {
		s, err := newSim(backing(data), []string{"file"}, SimOptions{Seed: 1,
			LatencyMax: time.Millisecond}, Options{Depth: depth})
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for i := range 16 {
			out := want(&group, 0, int64(i)*4096, 4096)
			out.Done = func(q *Request, err error) {
				list = append(list, q.Offset)
				done(q, err)
			}
			submit(t, s, out)
		}
		go s.run()
		wait(t, &group)
		closeReader(t, s)
		return list
	}
	sorted := func(list []int64) bool {
		for i := range list {
			if list[i] != int64(i)*4096 {
				return false
			}
		}
		return true
	}
	if !sorted(order(1)) {
		t.Error("depth 1 finishes out of order")
	}
	if sorted(order(8)) {
		t.Error("depth 8 finishes in order")
	}
}

func TestAFailedRequestIsNotReadToItsEnd(t *testing.T) {
	s, err := NewSim(backing([][]byte{noise(5, 1<<16)}), SimOptions{ErrorP: 1},
		Options{Depth: 1, ChunkBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, s)
	var group sync.WaitGroup
	first, second := want(&group, 0, 0, 1<<16), want(&group, 0, 0, 1<<16)
	submit(t, s, first)
	submit(t, s, second)
	wait(t, &group)
	for _, out := range []*outcome{first, second} {
		if !errors.Is(out.err, syscall.EIO) || out.calls.Load() != 1 {
			t.Errorf("%v, %d calls", out.err, out.calls.Load())
		}
	}
	if n := s.Stats().Pieces; n != 2 {
		t.Errorf("%d pieces were read of two requests whose first pieces fail", n)
	}
}

// TestVirtualTimePassesAtOnce: an hour of delays takes no time, and counts as an hour.
func TestVirtualTimePassesAtOnce(t *testing.T) {
	data := [][]byte{noise(5, 1<<16)}
	s, err := NewSim(backing(data), SimOptions{LatencyMin: time.Hour, LatencyMax: time.Hour},
		Options{Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, s)
	var group sync.WaitGroup
	for range 10 {
		submit(t, s, want(&group, 0, 0, 4096))
	}
	wait(t, &group)
	if d := time.Duration(s.Stats().BusyNanos); d != 10*time.Hour {
		t.Errorf("busy for %v", d)
	}
}

func TestRealTimeIsWaitedFor(t *testing.T) {
	s, err := NewSim(backing([][]byte{noise(5, 1<<16)}), SimOptions{RealTime: true,
		LatencyMin: 5 * time.Millisecond, LatencyMax: 5 * time.Millisecond}, Options{Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, s)
	start := time.Now()
	var group sync.WaitGroup
	for range 3 {
		submit(t, s, want(&group, 0, 0, 4096))
	}
	wait(t, &group)
	if d := time.Since(start); d < 15*time.Millisecond {
		t.Errorf("three reads of 5 ms each, one by one, took %v", d)
	}
}

// TestADeviceMovesItsBytesOneAfterTheOther: a simulated disk's bandwidth holds at every depth, and
// two disks have twice as much.
func TestADeviceMovesItsBytesOneAfterTheOther(t *testing.T) {
	for _, c := range []struct {
		depth   int
		devices []uint64
		busy    time.Duration
	}{{1, []uint64{0, 0}, 2 * time.Second}, {8, []uint64{0, 0}, 2 * time.Second},
		{8, []uint64{0, 1}, time.Second}} {
		s, err := newSim(backing([][]byte{noise(5, 1<<20), noise(6, 1<<20)}), []string{"a", "b"},
			SimOptions{BytesPerSecond: 1 << 20, Devices: c.devices}, Options{Depth: c.depth,
				ChunkBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		submit(t, s, want(&group, 0, 0, 1<<20))
		submit(t, s, want(&group, 1, 0, 1<<20))
		go s.run()
		wait(t, &group)
		closeReader(t, s)
		if d := time.Duration(s.Stats().BusyNanos); d != c.busy {
			t.Errorf("depth %d, devices %v: %v, want %v", c.depth, c.devices, d, c.busy)
		}
	}
}

// TestFaultsAtChosenPlaces opens a model's files as the engine's tests do.
func TestFaultsAtChosenPlaces(t *testing.T) {
	names, data := writeCorpus(t)
	r, err := Open(names, Options{Kind: KindSim, Depth: 1, ChunkBytes: 64 << 10,
		Timeout: 5 * time.Second, Sim: &SimOptions{Faults: []SimFault{
			{File: 6, Offset: 5000, Kind: SimFlip, Bit: 3, Times: 1},
			{File: 6, Offset: 300000, Length: 10, Kind: SimEIO},
			{File: 6, Offset: 600000, Kind: SimShort, Times: 2},
			{File: 7, Offset: 0, Length: 1 << 20, Kind: SimDelay, Delay: 4 * time.Second},
			{File: 5, Offset: 0, Kind: SimHang, Delay: time.Minute, Times: 1}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, r)
	read := func(file int, offset, size int64) *outcome {
		var group sync.WaitGroup
		out := want(&group, file, offset, size)
		submit(t, r, out)
		wait(t, &group)
		return out
	}
	if out := read(6, 0, 8192); out.err != nil || out.Buf[5000] != data[6][5000]^8 {
		t.Errorf("no flipped bit: %v", out.err)
	}
	check(t, read(6, 0, 8192), data)        // once is enough
	check(t, read(6, 500000, 200000), data) // short reads are continued
	check(t, read(7, 0, 100000), data)      // slow, but in time
	check(t, read(6, 303104, 100), data)    // beside the broken block
	out := read(6, 300009, 1)
	var e *Error
	if !errors.As(out.err, &e) || !errors.Is(out.err, syscall.EIO) || e.File != names[6] {
		t.Errorf("a broken block: %v", out.err)
	}
	if out := read(5, 0, 10); !errors.Is(out.err, ErrTimeout) || !errors.Is(out.err, ErrStranded) {
		t.Errorf("a hanging disk: %v", out.err)
	}
	if f := r.(*Sim).Faults(); f != (Faults{Slow: 2, Short: 2, Errors: 1, Corrupted: 1, Hung: 1}) {
		t.Errorf("%+v", f)
	}
}

func TestSimulatedFaultsAreChecked(t *testing.T) {
	for _, sim := range []SimOptions{{SlowP: -1}, {HangP: 2}, {LatencyMin: -1}, {HangFor: -1},
		{BytesPerSecond: -1}, {Devices: []uint64{1, 2}}, {Faults: []SimFault{{File: 1}}},
		{Faults: []SimFault{{Kind: SimHang + 1}}}, {Faults: []SimFault{{Bit: 8}}}} {
		if _, err := NewSim(backing([][]byte{nil}), sim, Options{}); !errors.Is(err, ErrUsage) {
			t.Errorf("%v: %v", sim, err)
		}
	}
	if _, err := Open([]string{"not-there"}, Options{Kind: KindSim}); !errors.Is(err, ErrIO) {
		t.Error(err)
	}
}
