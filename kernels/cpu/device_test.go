//go:build cgo

package cpu

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

func TestOpenRefusesWhatItDoesNotHave(t *testing.T) {
	for _, o := range []Options{{Threads: -1}, {Threads: threadsMax + 1}, {ISA: "mmx"}} {
		if d, err := Open(o); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("%+v: device %v, error %v", o, d, err)
		}
	}
}

func TestInfoSaysWhatWasChosen(t *testing.T) {
	d := open(t, "portable", 3)
	info := d.Info()
	if info.Name != "cpu" || !info.Unified || info.Threads != 3 ||
		info.Detail != "portable C, 3 threads" {
		t.Errorf("%+v", info)
	}
	if n := open(t, "", 0).Info().Threads; n < 1 {
		t.Errorf("%d threads by default", n)
	}
}

// threads counts the pool's threads in this process.
func threads(t *testing.T) int {
	dirs, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Skipf("threads cannot be listed: %v", err)
	}
	n := 0
	for _, d := range dirs {
		name, _ := os.ReadFile("/proc/self/task/" + d.Name() + "/comm")
		if strings.TrimSpace(string(name)) == "moering-cpu" {
			n++
		}
	}
	return n
}

func TestCloseJoinsTheThreads(t *testing.T) {
	before := threads(t)
	d, err := Open(Options{Threads: 4})
	if err != nil {
		t.Fatal(err)
	}
	if got := threads(t) - before; got > 3 {
		t.Errorf("%d more threads", got)
	}
	s, _ := d.NewStream("s")
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := threads(t); got != before {
		t.Errorf("%d threads after Close, %d before Open", got, before)
	}
	s.Run(&kernels.RMSNorm{})
	if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) {
		t.Errorf("an op on a closed device: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.NewStream("late"); !errors.Is(err, kernels.ErrDevice) {
		t.Errorf("a stream of a closed device: %v", err)
	}
}

func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestIdleDevicesUseNoProcessor(t *testing.T) {
	d := open(t, "", 4)
	run(t, d, &kernels.RMSNorm{X: alloc(t, d, 64), Out: alloc(t, d, 64), Gain: alloc(t, d, 64),
		Rows: 1, Dim: 16})
	time.Sleep(20 * time.Millisecond)
	begin := cpuTime(t)
	time.Sleep(time.Second)
	// A thread that spins would use 1000 ms. Threads spin for 50 us and then sleep; what remains is the
	// test's own runtime: its monitor, and what other tests left for the collector.
	if used := cpuTime(t) - begin; used > 50*time.Millisecond {
		t.Errorf("%v of processor time in a second of idleness", used)
	}
}

func TestBuffers(t *testing.T) {
	d := open(t, "", 1)
	for _, bytes := range []int64{0, 1, 4096, 3 << 20} {
		for _, get := range []func(int64) (*kernels.Buffer, error){d.Alloc, d.Pin} {
			b, err := get(bytes)
			if err != nil {
				t.Fatal(err)
			}
			if b.Bytes != bytes || int64(len(b.Host)) != bytes || b.Addr%64 != 0 {
				t.Errorf("%d bytes: %d, %d on the host, at %#x", bytes, b.Bytes, len(b.Host), b.Addr)
			}
			if bytes >= hugeBytes && b.Addr%hugeBytes != 0 {
				t.Errorf("a large buffer at %#x", b.Addr)
			}
			for i := range b.Host {
				if b.Host[i] != 0 {
					t.Fatal("memory is not zeroed")
				}
			}
			for range 2 {
				if err := b.Free(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for _, bytes := range []int64{-1, 1 << 60} {
		if _, err := d.Alloc(bytes); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("%d bytes: %v", bytes, err)
		}
	}
}

func TestLandMovesDownButNotOutOfItsMemory(t *testing.T) {
	d := open(t, "", 1)
	rng := rand.New(rand.NewPCG(20, 1))
	const rows, cols = 32, 128
	b := weights(rng, quant.Q4_0, rows, cols)
	whole := alloc(t, d, 256+len(b)+64)
	h := whole.Host()
	for i := range h {
		h[i] = 0xEE
	}
	copy(h[70:], b)
	w := kernels.Weight{Data: whole.Slice(70, int64(len(b))), Type: quant.Q4_0, Rows: rows, Cols: cols}
	tight, err := d.Land(w, whole.Slice(66, int64(len(b))+100))
	if err != nil || tight.Layout != kernels.Published {
		t.Errorf("landed outside its memory: layout %d, error %v", tight.Layout, err)
	}
	landed, err := d.Land(w, whole.Slice(64, int64(len(b))+100))
	if err != nil || landed.Layout != kernels.Tiled || landed.Data.Offset != 64 {
		t.Fatalf("layout %d at %d, error %v", landed.Layout, landed.Data.Offset, err)
	}
	for i := range 64 {
		if h[i] != 0xEE || h[70+len(b)+i] != 0xEE {
			t.Fatal("a byte outside the matrix and its memory was written")
		}
	}
	if _, err := d.Land(landed, whole); !errors.Is(err, kernels.ErrDevice) {
		t.Errorf("landed twice: %v", err)
	}
}

func TestFailuresStickToTheStream(t *testing.T) {
	d := open(t, "", 2)
	s, _ := d.NewStream("first")
	other, _ := d.NewStream("other")
	defer func() { _, _ = s.Close(), other.Close() }()
	x := alloc(t, d, 64)
	s.Run(&kernels.RMSNorm{X: x, Out: x, Gain: x.Slice(0, 8), Rows: 1, Dim: 16})
	err := s.Sync()
	if !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), "RMSNorm") ||
		!strings.Contains(err.Error(), "Gain") {
		t.Errorf("error %v", err)
	}
	s.Run(&kernels.RMSNorm{X: x, Out: x, Gain: alloc(t, d, 64), Rows: 1, Dim: 16})
	if again := s.Sync(); again != err {
		t.Errorf("then %v", again)
	}
	other.Wait(s.Record())
	if got := other.Sync(); !errors.Is(got, kernels.ErrDevice) {
		t.Errorf("a stream that waits for a failed one: %v", got)
	}
}

func TestIndicesInDeviceMemoryAreChecked(t *testing.T) {
	d := open(t, "", 2)
	kv := kernels.KV{Pool: alloc(t, d, 2*4*4*8), Tables: ints(t, d, []int32{0, 7}), PagesMax: 2,
		PageTokens: 4, PageBytes: 4 * 4 * 8, KVHeads: 1, HeadDim: 4}
	row := alloc(t, d, 16)
	attention := func(seq, pos int32) kernels.Op {
		return &kernels.Attention{KV: kv, Q: row, Out: alloc(t, d, 16), Seqs: ints(t, d, []int32{seq}),
			Pos: ints(t, d, []int32{pos}), Rows: 1, Heads: 1, Scale: 1}
	}
	appended := func(seq, pos int32) kernels.Op {
		return &kernels.KVAppend{KV: kv, K: row, V: row, Seqs: ints(t, d, []int32{seq}),
			Pos: ints(t, d, []int32{pos}), Rows: 1}
	}
	table, _ := place(t, d, quant.F32, 2, 4, make([]byte, 32), 0)
	bad := []kernels.Op{
		attention(1, 0), attention(-1, 0), attention(0, 8), attention(0, 4),
		appended(1, 0), appended(0, -1), appended(0, 8), appended(0, 5),
		&kernels.Embed{Table: table, IDs: ints(t, d, []int32{2}), Out: row, Rows: 1},
		&kernels.GatherRows{X: table.Data, Index: ints(t, d, []int32{-1}), Out: row, Rows: 1, Dim: 4},
	}
	for _, op := range bad {
		s, _ := d.NewStream("bad")
		s.Run(op)
		if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("%T: %v", op, err)
		}
		_ = s.Close()
	}
	run(t, d, appended(0, 3), attention(0, 3))
}

// Streams of several goroutines, with events between them, do what one stream would: each adds one to
// the numbers in turn.
func TestHammerStreamsAndEvents(t *testing.T) {
	for threads := 1; threads <= 3; threads++ {
		d := open(t, "", threads)
		const dim, rounds, users = 64, 300, 4
		var group sync.WaitGroup
		for u := range users {
			group.Go(func() {
				rng := rand.New(rand.NewPCG(21, uint64(u)))
				x, y := alloc(t, d, 4*dim), alloc(t, d, 4*dim)
				for i := range dim {
					y.Float32s()[i] = 1
				}
				streams := make([]kernels.Stream, 3)
				for i := range streams {
					streams[i], _ = d.NewStream(fmt.Sprint(i))
				}
				for range rounds {
					s := streams[rng.IntN(len(streams))]
					s.Run(&kernels.Combine{X: x, Y: y, Rows: 1, Dim: dim, TopK: 1})
					e := s.Record()
					if rng.IntN(8) == 0 {
						if err := e.Wait(); err != nil || !e.Done() {
							t.Errorf("event: done %v, error %v", e.Done(), err)
						}
					}
					for _, o := range streams {
						o.Wait(e)
					}
				}
				for _, s := range streams {
					if err := s.Sync(); err != nil {
						t.Error(err)
					}
					_ = s.Close()
				}
				for i, v := range x.Float32s() {
					if v != rounds {
						t.Errorf("%d threads: value %d is %v, want %d", threads, i, v, rounds)
						break
					}
				}
			})
		}
		group.Wait()
	}
}

func TestRecordedWorkIsDoneWithoutWaiting(t *testing.T) {
	for threads := 1; threads <= 2; threads++ {
		d := open(t, "", threads)
		s, _ := d.NewStream("s")
		x := alloc(t, d, 4<<10)
		s.Run(&kernels.RMSNorm{X: x, Out: x, Gain: alloc(t, d, 4<<10), Rows: 1, Dim: 1024})
		e := s.Record()
		for begin := time.Now(); !e.Done(); time.Sleep(time.Millisecond) {
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("%d threads: nobody runs what was recorded", threads)
			}
		}
		_ = s.Close()
		if !e.Done() || e.Wait() != nil {
			t.Error("an event after its stream was closed")
		}
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	d := open(t, "", 2)
	rng := rand.New(rand.NewPCG(22, 1))
	const dim = 256
	w, _ := place(t, d, quant.Q4_0, dim, dim, weights(rng, quant.Q4_0, dim, dim), 0)
	ex := []kernels.Expert{{Gate: w, Up: w, Down: w, Rows: []int32{0}, Slots: []int32{0}}}
	var ops = []kernels.Op{
		&kernels.MatMul{X: alloc(t, d, 4*dim), Rows: 1, Terms: []kernels.Term{{W: w,
			Out: alloc(t, d, 4*dim)}}},
		&kernels.ExpertFFN{X: alloc(t, d, 4*dim), Out: alloc(t, d, 4*dim), Dim: dim, Width: dim,
			Experts: ex},
	}
	s, _ := d.NewStream("s")
	defer func() { _ = s.Close() }()
	round := func() {
		for _, op := range ops {
			s.Run(op)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	round()
	round()
	// The event is boxed.
	if n := testing.AllocsPerRun(100, round); n > 1 {
		t.Errorf("%v allocations a round", n)
	}
}
