package ref

import (
	"errors"
	"math"
	"sync"
	"testing"
	"unsafe"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// host returns a pinned buffer with the given float32 values.
func host(t *testing.T, d *Device, values ...float32) kernels.Span {
	t.Helper()
	b, err := d.Pin(int64(4 * len(values)))
	if err != nil {
		t.Fatal(err)
	}
	copy(b.All().Float32s(), values)
	return b.All()
}

func hostInts(t *testing.T, d *Device, values ...int32) kernels.Span {
	t.Helper()
	s := host(t, d, make([]float32, len(values))...)
	copy(s.Int32s(), values)
	return s
}

func stream(t *testing.T, d *Device) kernels.Stream {
	t.Helper()
	s, err := d.NewStream("test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run executes ops on a unified device and fails the test on an error.
func run(t *testing.T, d *Device, ops ...kernels.Op) {
	t.Helper()
	s := stream(t, d)
	for _, op := range ops {
		s.Run(op)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got []float32, want ...float32) {
	t.Helper()
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > 1e-6*math.Abs(float64(want[i])) {
			t.Fatalf("%s: got %v, want %v", what, got, want)
		}
	}
}

func weight(t *testing.T, d *Device, rows, cols int, values ...float32) kernels.Weight {
	return kernels.Weight{Data: host(t, d, values...), Type: quant.F32, Rows: rows, Cols: cols}
}

// The values of the next tests were worked out by hand from the formulas in op.go: the reference is
// what other devices are held to, so that it needs an anchor outside itself.
func TestOpsComputeTheirFormulas(t *testing.T) {
	d := Open(Options{})
	z := func(n int) kernels.Span { return host(t, d, make([]float32, n)...) }

	out := z(4)
	run(t, d, &kernels.Embed{Table: weight(t, d, 3, 2, 1, 2, 3, 4, 5, 6),
		IDs: hostInts(t, d, 2, 0), Out: out, Rows: 2})
	equal(t, "embed", out.Float32s(), 5, 6, 1, 2)

	run(t, d, &kernels.RMSNorm{X: host(t, d, 3, 4), Out: out, Gain: host(t, d, 1, 2), Rows: 1,
		Dim: 2, Eps: 12.5}) // mean square 12.5, root of 25
	equal(t, "norm", out.Float32s(), 0.6, 1.6)

	acc := host(t, d, 100, 200)
	run(t, d, &kernels.MatMul{X: host(t, d, 1, 2, 3, 4), Rows: 2, Terms: []kernels.Term{
		{W: weight(t, d, 2, 2, 1, 10, 100, 1000), Bias: host(t, d, 0.5, 0.25), Out: out},
		{W: weight(t, d, 1, 2, 1, -1), Out: acc, Accumulate: true}}})
	equal(t, "matmul", out.Float32s(), 21.5, 2100.25, 43.5, 4300.25)
	equal(t, "accumulate", acc.Float32s(), 99, 199)

	// A quarter turn of one pair, an eighth of the other; the last element does not rotate.
	r := float32(math.Sqrt2 / 2)
	for _, c := range []struct {
		interleaved bool
		want        []float32
	}{{true, []float32{-2, 1, -r, 7 * r, 5}}, {false, []float32{-3, 2*r - 4*r, 1, 6 * r, 5}}} {
		x := host(t, d, 1, 2, 3, 4, 5)
		run(t, d, &kernels.RoPE{X: x, Cos: host(t, d, 0, r), Sin: host(t, d, 1, r), Rows: 1,
			Heads: 1, HeadDim: 5, Rotated: 4, Interleaved: c.interleaved})
		equal(t, "rope", x.Float32s(), c.want...)
	}

	run(t, d, &kernels.GatherRows{X: host(t, d, 1, 2, 3, 4, 5, 6), Index: hostInts(t, d, 2, 1),
		Out: out, Rows: 2, Dim: 2})
	equal(t, "gather", out.Float32s(), 5, 6, 3, 4)
}

func TestRouteBreaksTiesByIndexAndNormalises(t *testing.T) {
	d := Open(Options{})
	ln := func(v float64) float32 { return float32(math.Log(v)) }
	logits := host(t, d, ln(1), ln(4), ln(2), ln(4), ln(1)) // p = 1/12, 4/12, 2/12, 4/12, 1/12
	for _, normalize := range []bool{false, true} {
		ids, weights := hostInts(t, d, 9, 9, 9), host(t, d, 0, 0, 0)
		run(t, d, &kernels.Route{Logits: logits, IDs: ids, Weights: weights, Rows: 1, Experts: 5,
			TopK: 3, Normalize: normalize})
		if got := ids.Int32s(); got[0] != 1 || got[1] != 3 || got[2] != 2 {
			t.Fatalf("ids %v, want 1 3 2", got)
		}
		if normalize {
			equal(t, "weights", weights.Float32s(), 0.4, 0.4, 0.2)
		} else {
			equal(t, "weights", weights.Float32s(), 4./12, 4./12, 2./12)
		}
	}
}

func TestExpertsAndCombine(t *testing.T) {
	d := Open(Options{})
	out := host(t, d, 7, 7, 7, 7)
	run(t, d, &kernels.ExpertFFN{X: host(t, d, 1, 2, 3, 4), Out: out, Dim: 2, Width: 1,
		Experts: []kernels.Expert{{}, {Gate: weight(t, d, 1, 2, 1, 0), Up: weight(t, d, 1, 2, 0, 1),
			Down: weight(t, d, 2, 1, 10, 100), Rows: []int32{1}, Slots: []int32{0}}}})
	h := float32(3 / (1 + math.Exp(-3)) * 4)
	equal(t, "expert", out.Float32s(), 10*h, 100*h, 7, 7)

	// In ascending order of ids: (2^24 + 1) + 1 rounds both ones away, 1 + 1 first would not.
	const big = 1 << 24
	x := host(t, d, 0)
	run(t, d, &kernels.Combine{X: x, Y: host(t, d, 1, 1, big), IDs: hostInts(t, d, 7, 5, 3),
		Weights: host(t, d, 1, 1, 1), Rows: 1, Dim: 1, TopK: 3})
	equal(t, "combine", x.Float32s(), big)
	if got := x.Float32s()[0]; got != big {
		t.Fatalf("order of ids: got %v, want %v", got, float32(big))
	}

	x = host(t, d, 1)
	run(t, d, &kernels.Combine{X: x, Shared: host(t, d, 4), SharedGate: host(t, d, 0), Rows: 1,
		Dim: 1})
	equal(t, "shared expert behind a gate", x.Float32s(), 3)
	run(t, d, &kernels.Combine{X: x, Shared: host(t, d, 4), Rows: 1, Dim: 1})
	equal(t, "shared expert", x.Float32s(), 7)
	run(t, d, &kernels.Combine{X: x, Y: host(t, d, 5), Rows: 1, Dim: 1, TopK: 1})
	equal(t, "one expert of weight one", x.Float32s(), 12)
}

// Two positions with keys that weigh them 1:3, then a window that hides the first.
func TestAttentionOverPagesAndWindow(t *testing.T) {
	d := Open(Options{})
	kv := kernels.KV{Pool: host(t, d, make([]float32, 3*4)...), Tables: hostInts(t, d, 2, 0),
		PagesMax: 2, PageTokens: 1, PageBytes: 16, Layer: 1, KVHeads: 1, HeadDim: 1}
	run(t, d, &kernels.KVAppend{KV: kv, K: host(t, d, 0, float32(math.Log(3))),
		V: host(t, d, 8, 4), Seqs: hostInts(t, d, 0, 0), Pos: hostInts(t, d, 0, 1), Rows: 2})
	equal(t, "pool", kv.Pool.Float32s(), 0, 0, float32(math.Log(3)), 4, 0, 0, 0, 0, 0, 0, 0, 8)
	out := host(t, d, 0, 0)
	a := &kernels.Attention{KV: kv, Q: host(t, d, 2, 0), Out: out, Seqs: hostInts(t, d, 0),
		Pos: hostInts(t, d, 1), Rows: 1, Heads: 2, Scale: 0.5}
	run(t, d, a)
	equal(t, "attention", out.Float32s(), (8+3*4)/4., (8+4)/2.)
	a.Window = 1
	run(t, d, a)
	equal(t, "window", out.Float32s(), 4, 4)
}

func TestIndicesInDeviceMemoryAreChecked(t *testing.T) {
	d := Open(Options{})
	one := host(t, d, 1)
	kv := kernels.KV{Pool: host(t, d, 0, 0), Tables: hostInts(t, d, 0, 1), PagesMax: 2,
		PageTokens: 1, PageBytes: 8, KVHeads: 1, HeadDim: 1}
	ints := func(v ...int32) kernels.Span { return hostInts(t, d, v...) }
	w := weight(t, d, 1, 1, 1)
	for name, op := range map[string]kernels.Op{
		"token":    &kernels.Embed{Table: w, IDs: ints(1), Out: host(t, d, 0), Rows: 1},
		"row":      &kernels.GatherRows{X: one, Index: ints(-1), Out: host(t, d, 0), Rows: 1, Dim: 1},
		"position": &kernels.KVAppend{KV: kv, K: one, V: one, Seqs: ints(0), Pos: ints(2), Rows: 1},
		"sequence": &kernels.KVAppend{KV: kv, K: one, V: one, Seqs: ints(1), Pos: ints(0), Rows: 1},
		"page": &kernels.Attention{KV: kv, Q: one, Out: host(t, d, 0), Seqs: ints(0),
			Pos: ints(1), Rows: 1, Heads: 1},
		"slot": &kernels.ExpertFFN{X: one, Out: host(t, d, 0), Dim: 1, Width: 1,
			Experts: []kernels.Expert{{Gate: w, Up: w, Down: w, Rows: []int32{0, 0},
				Slots: []int32{0, 0}}}},
	} {
		s := stream(t, d)
		s.Run(op)
		if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestDiscreteMemoryIsOutOfTheHostsReach(t *testing.T) {
	d := Open(Options{Discrete: true, MemoryBytes: 1 << 10})
	defer d.Close()
	a, err := d.Alloc(512)
	if err != nil || a.Host != nil || a.Addr%64 != 0 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := d.Alloc(513); !errors.Is(err, kernels.ErrDevice) {
		t.Errorf("beyond its memory: %v", err)
	}
	pinned := host(t, d, make([]float32, 128)...)
	bad := map[string]func(kernels.Stream){
		"an op on host memory": func(s kernels.Stream) {
			s.Run(&kernels.GatherRows{X: pinned, Index: a.All(), Out: a.All(), Rows: 1, Dim: 1})
		},
		"a copy within the host": func(s kernels.Stream) {
			s.Copy(pinned.Slice(0, 4), pinned.Slice(8, 4))
		},
		"freed memory": func(s kernels.Stream) {
			b, err := d.Alloc(64)
			if err != nil || b.Free() != nil || b.Free() != nil {
				t.Fatal("alloc and free")
			}
			s.Copy(b.All(), pinned.Slice(0, 64))
		},
	}
	for name, f := range bad {
		s := stream(t, d)
		f(s)
		if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := a.Free(); err != nil {
		t.Error(err)
	}
	if b, err := d.Alloc(1 << 10); err != nil {
		t.Error("memory is not given back:", err)
	} else if err := b.Free(); err != nil {
		t.Error(err)
	}
}

// What a discrete device is for: two streams without an event do run in either order.
func TestDiscreteStreamsRunConcurrently(t *testing.T) {
	d := Open(Options{Discrete: true, Seed: 5})
	defer d.Close()
	a, b := stream(t, d), stream(t, d)
	block := make(chan struct{})
	a.Wait(waiter(block))
	ea := a.Record()
	if err := b.Sync(); err != nil { // would hang if b stood behind a
		t.Fatal(err)
	}
	if ea.Done() {
		t.Fatal("the event is done before what it follows")
	}
	close(block)
	if err := ea.Wait(); err != nil || !ea.Done() {
		t.Fatal(err)
	}
}

type waiter chan struct{}

func (w waiter) Done() bool  { return false }
func (w waiter) Wait() error { <-w; return nil }

func TestCloseMayBeCalledTwiceAndConcurrently(t *testing.T) {
	for _, discrete := range []bool{false, true} {
		d := Open(Options{Discrete: discrete})
		s := stream(t, d)
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				if err := errors.Join(d.Close(), d.Close()); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		s.Record()
		if err := s.Sync(); !discrete && err != nil {
			t.Errorf("nothing ran, nothing failed: %v", err)
		}
		s.Copy(kernels.Span{}, kernels.Span{})
		if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("a copy on a closed stream: %v", err)
		}
		if _, err := d.NewStream("late"); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("a stream on a closed device: %v", err)
		}
	}
}

func TestPinIsAligned(t *testing.T) {
	b, err := Open(Options{}).Pin(100)
	if err != nil || uintptr(unsafe.Pointer(&b.Host[0])) != b.Addr || b.Addr%64 != 0 {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := b.Free(); err != nil || b.Host[99] != 0xCC {
		t.Fatalf("freed memory is not poisoned: %v", err)
	}
}

func BenchmarkMatMul(b *testing.B) {
	d := Open(Options{})
	s, _ := d.NewStream("bench")
	const n = 1024
	data, _ := d.Alloc(n * n / 32 * 18)
	x, _ := d.Alloc(4 * n)
	out, _ := d.Alloc(4 * n)
	w := kernels.Weight{Data: data.All(), Type: quant.Q4_0, Rows: n, Cols: n}
	op := &kernels.MatMul{X: x.All(), Rows: 1, Terms: []kernels.Term{{W: w, Out: out.All()}}}
	b.SetBytes(data.Bytes)
	for b.Loop() {
		s.Run(op)
	}
	if err := s.Sync(); err != nil {
		b.Fatal(err)
	}
}
