package kv

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
)

// newPool makes a pool of pages whose contents the tests write and read as the kernels do: position
// p of a sequence at page table[p/PageTokens].
func newPool(t *testing.T, pages, sequences, context int) *Pool {
	t.Helper()
	d := ref.Open(ref.Options{})
	p, err := New(d, quant.F32, 1, 1, 1, pages*PageTokens, sequences, context)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// cell is the first value of a position, through the table.
func cell(s *Sequence, pos int) *float32 {
	page := s.row()[pos/PageTokens]
	span := s.pool.KV.Pool.Slice(int64(page)*s.pool.KV.PageBytes, s.pool.KV.PageBytes)
	return &span.Float32s()[pos%PageTokens]
}

// model is what a sequence should hold.
type model struct {
	seq    *Sequence
	values []float32
}

func (m *model) check(t *testing.T) {
	t.Helper()
	if m.seq.Len != len(m.values) {
		t.Fatalf("length %d, want %d", m.seq.Len, len(m.values))
	}
	for i, want := range m.values {
		if got := *cell(m.seq, i); got != want {
			t.Fatalf("position %d holds %v, want %v", i, got, want)
		}
	}
}

// Whatever sequences do - grow, fork, truncate, close - none sees another's writes, and no page is
// lost.
func TestSequencesNeverSeeEachOther(t *testing.T) {
	const pages, sequences, context = 24, 6, 5 * PageTokens
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 0))
		p := newPool(t, pages, sequences, context)
		var all []*model
		value := float32(0)
		for range 300 {
			switch {
			case len(all) == 0 || rng.IntN(8) == 0:
				s, err := p.Sequence()
				if err == nil {
					all = append(all, &model{seq: s})
				} else if len(all) < sequences || !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				continue
			}
			i := rng.IntN(len(all))
			m := all[i]
			switch rng.IntN(6) {
			case 0:
				n := rng.IntN(len(m.values) + 1)
				freePages, freeRows := p.Free()
				s, err := m.seq.Fork(n)
				switch {
				case err == nil:
					all = append(all, &model{s, slices.Clone(m.values[:n])})
				case !errors.Is(err, ErrFull) || freeRows > 0 && freePages > 0:
					t.Fatal(err)
				}
			case 1:
				n := rng.IntN(len(m.values) + 1)
				m.seq.Truncate(n)
				m.values = m.values[:n]
			case 2:
				m.seq.Close()
				m.seq.Close()
				all = slices.Delete(all, i, i+1)
			default:
				n := min(1+rng.IntN(PageTokens*2), context-len(m.values))
				if err := m.seq.Grow(len(m.values) + n); err != nil {
					if !errors.Is(err, ErrFull) {
						t.Fatal(err)
					}
					break
				}
				for range n {
					value++
					*cell(m.seq, len(m.values)) = value
					m.values = append(m.values, value)
				}
				m.seq.Len = len(m.values)
			}
			for _, m := range all {
				m.check(t)
			}
		}
		for _, m := range all {
			m.seq.Close()
		}
		if a, b := p.Free(); a != pages || b != sequences {
			t.Fatalf("seed %d: %d of %d pages and %d of %d rows are back", seed, a, pages, b, sequences)
		}
	}
}

// A fork holds its beginning by reference, and takes a page only for the part of one.
func TestForkSharesWholePages(t *testing.T) {
	p := newPool(t, 8, 3, 4*PageTokens)
	s, err := p.Sequence()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Grow(3*PageTokens + 1); err != nil {
		t.Fatal(err)
	}
	s.Len = 3*PageTokens + 1
	for _, c := range []struct{ tokens, pages int }{{3 * PageTokens, 0}, {PageTokens + 5, 1}, {0, 0}} {
		before, _ := p.Free()
		f, err := s.Fork(c.tokens)
		if err != nil {
			t.Fatal(err)
		}
		if after, _ := p.Free(); before-after != c.pages {
			t.Errorf("a fork of %d tokens took %d pages, want %d", c.tokens, before-after, c.pages)
		}
		f.Close()
	}
	if _, err := s.Fork(s.Len + 1); err == nil {
		t.Error("a fork beyond the end works")
	}
	// The sequence that was forked from may go first.
	f, err := s.Fork(2 * PageTokens)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if free, _ := p.Free(); free != 6 {
		t.Errorf("%d pages free, want 6", free)
	}
	f.Close()
}

// When there is no page for a shared one's copy, Grow changes nothing.
func TestGrowWithoutRoomForACopy(t *testing.T) {
	p := newPool(t, 2, 2, 4*PageTokens)
	s, err := p.Sequence()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Grow(2 * PageTokens); err != nil {
		t.Fatal(err)
	}
	s.Len = 2 * PageTokens
	f, err := s.Fork(2 * PageTokens)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(PageTokens + 1)
	if err := f.Grow(PageTokens + 2); !errors.Is(err, ErrFull) {
		t.Fatalf("%v, want ErrFull", err)
	}
	s.Close()
	if err := f.Grow(PageTokens + 2); err != nil {
		t.Fatal(err)
	}
}
