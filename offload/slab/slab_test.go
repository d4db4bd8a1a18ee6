package slab

import (
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/moering/moering/internal/invariants"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// arena returns n bytes aligned to Align.
func arena(n int64) []byte {
	b := make([]byte, n+Align)
	skip := -uintptr(unsafe.Pointer(&b[0])) & (Align - 1)
	return b[skip : int64(skip)+n]
}

func newPool(t testing.TB, classes ...Class) *Pool {
	t.Helper()
	p, err := New(arena(ArenaBytes(classes)), classes)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSlabsAreAlignedAndDisjointAndFillTheArena(t *testing.T) {
	classes := []Class{{Bytes: 1, Count: 3}, {Bytes: 4096, Count: 2}, {Bytes: 10000, Count: 4}}
	mem := arena(ArenaBytes(classes))
	p, err := New(mem, classes)
	if err != nil {
		t.Fatal(err)
	}
	var end int64
	for i, c := range classes {
		for j := range c.Count {
			s := p.Get(i)
			b := s.Bytes()
			if s.Offset() != end || s.Offset()%Align != 0 || int64(len(b)) < c.Bytes ||
				len(b)%Align != 0 || cap(b) != len(b) || &b[0] != &mem[s.Offset()] {
				t.Fatalf("class %d slab %d: offset %d, %d bytes, cap %d, previous end %d",
					i, j, s.Offset(), len(b), cap(b), end)
			}
			if s.Class() != i || s.Index() != j {
				t.Fatalf("class %d slab %d says %d %d", i, j, s.Class(), s.Index())
			}
			end = s.Offset() + int64(len(b))
		}
		if p.Get(i) != nil {
			t.Fatalf("class %d gives more than its %d slabs", i, c.Count)
		}
	}
	if end != int64(len(mem)) {
		t.Fatalf("slabs end at %d of %d", end, len(mem))
	}
}

func TestReferencesDecideWhenASlabComesBack(t *testing.T) {
	p := newPool(t, Class{4096, 1})
	s := p.Get(0)
	s.Retain()
	if !s.TryRetain() || s.Refs() != 3 {
		t.Fatalf("%d references, want 3", s.Refs())
	}
	for range 2 {
		s.Release()
		if p.Get(0) != nil {
			t.Fatal("the slab came back with a reference held")
		}
	}
	s.Release()
	if s.TryRetain() {
		t.Fatal("a free slab was retained")
	}
	if p.Get(0) != s {
		t.Fatal("the slab did not come back")
	}
	s.Release()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p.Get(0) != nil {
		t.Fatal("a closed pool gives slabs")
	}
}

func TestMisuseOfReferencesPanics(t *testing.T) {
	for name, f := range map[string]func(*Slab){"release": (*Slab).Release, "retain": (*Slab).Retain} {
		s := newPool(t, Class{4096, 1}).Get(0)
		s.Release()
		if !panics(func() { f(s) }) {
			t.Errorf("%s of a free slab does not panic", name)
		}
	}
}

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}

func TestReleasePoisonsInInvariantBuilds(t *testing.T) {
	p := newPool(t, Class{2 * Align, 2})
	s, other := p.Get(0), p.Get(0)
	clear(s.Bytes())
	clear(other.Bytes())
	b := s.Bytes()
	s.Release()
	for i, v := range b {
		if (v == invariants.PoisonByte) != invariants.On {
			t.Fatalf("byte %d is %#x after release", i, v)
		}
	}
	for i, v := range other.Bytes() {
		if v != 0 {
			t.Fatalf("byte %d of the other slab is %#x", i, v)
		}
	}
}

func TestCountsFollowUse(t *testing.T) {
	p := newPool(t, Class{4096, 3}, Class{8192, 2})
	a, b, c := p.Get(0), p.Get(0), p.Get(1)
	a.Release()
	want := Stats{Bytes: 3*4096 + 2*8192, Count: 5, Free: 3, InUse: 2, Peak: 3}
	if got := p.Stats(); got != want {
		t.Errorf("pool: %+v, want %+v", got, want)
	}
	want = Stats{Bytes: 4096, Count: 3, Free: 2, InUse: 1, Peak: 2}
	if got := p.ClassStats(0); got != want {
		t.Errorf("class: %+v, want %+v", got, want)
	}
	err := p.Close()
	if !errors.Is(err, ErrLeak) || !strings.Contains(err.Error(), "2 still held") ||
		!strings.Contains(err.Error(), "1 of 2 slabs of 8192 bytes") {
		t.Errorf("leaks are reported as %v", err)
	}
	b.Release()
	c.Release()
	if err := p.Close(); err != nil {
		t.Errorf("nothing is held, and yet: %v", err)
	}
}

func TestSmallestFittingClassIsFound(t *testing.T) {
	p := newPool(t, Class{16384, 1}, Class{4096, 1}, Class{8192, 1})
	for bytes, want := range map[int64]int{0: 1, 4096: 1, 4097: 2, 8192: 2, 8193: 0, 16385: -1} {
		if got := p.ClassFor(bytes); got != want {
			t.Errorf("%d bytes: class %d, want %d", bytes, got, want)
		}
	}
}

func TestImpossiblePoolsAreRefused(t *testing.T) {
	good := arena(16384)
	for name, c := range map[string]struct {
		arena   []byte
		classes []Class
	}{
		"too small":   {good, []Class{{4096, 5}}},
		"no size":     {good, []Class{{0, 1}}},
		"negative":    {good, []Class{{4096, -1}}},
		"overflow":    {good, []Class{{math.MaxInt64 / 2, 3}}},
		"huge":        {good, []Class{{math.MaxInt64, 1}}},
		"not aligned": {good[1:], []Class{{4096, 1}}},
	} {
		if _, err := New(c.arena, c.classes); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p := newPool(t, Class{4096, 1}); p.Get(-1) != nil || p.Get(1) != nil {
		t.Error("a class that is not there gives slabs")
	}
}

func TestConcurrentUseNeverSharesASlab(t *testing.T) {
	p := newPool(t, Class{4096, 5}, Class{8192, 3})
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 2000 {
				s := p.Get((worker + i) % 2)
				if s == nil {
					continue
				}
				s.Bytes()[0] = byte(worker) // the race detector watches
				s.Retain()
				s.Release()
				if s.Bytes()[0] != byte(worker) {
					t.Error("two owners of one slab")
				}
				s.Release()
			}
		})
	}
	group.Wait()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if s := p.Stats(); s.InUse != 0 || s.Free != 8 {
		t.Errorf("%+v", s)
	}
}

func TestGetAndReleaseAllocateNothing(t *testing.T) {
	p := newPool(t, Class{4096, 2})
	if n := testing.AllocsPerRun(1000, func() {
		a, b := p.Get(0), p.Get(0)
		a.Release()
		b.Release()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
