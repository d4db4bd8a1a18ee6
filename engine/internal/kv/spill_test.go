package kv

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
)

// newSpill makes a pool on a device, and room for pages outside it. A page has 4 KiB.
func newSpill(t *testing.T, discrete bool, pages, memory, disk int) (*Pool, *Spill) {
	t.Helper()
	d := ref.Open(ref.Options{Discrete: discrete, MemoryBytes: 1 << 20})
	p, err := New(d, quant.F32, 2, 2, 4, pages*PageTokens, 8, 8*PageTokens)
	if err != nil {
		t.Fatal(err)
	}
	if p.KV.PageBytes != spillAlign {
		t.Fatalf("pages of %d bytes", p.KV.PageBytes)
	}
	s, err := NewSpill(d, p, SpillOptions{Memory: int64(memory) * spillAlign,
		Disk: int64(disk) * spillAlign, Dir: t.TempDir(), Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), s.Close(), p.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, s
}

// fill writes random bytes to a sequence's pages, by the way that leads to a device's memory; same
// compares them.
func fill(t *testing.T, s *Spill, q *Sequence, rng *rand.Rand) (want []byte) {
	t.Helper()
	for _, page := range q.pages[:Pages(q.Len)] {
		host := s.host.Slice(0, s.pool.KV.PageBytes)
		for i := range host.Host() {
			host.Host()[i] = byte(rng.Uint32())
		}
		want = append(want, host.Host()...)
		s.copy.Copy(s.page(page), host)
		if err := s.copy.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

func holds(t *testing.T, s *Spill, q *Sequence) (got []byte) {
	t.Helper()
	for _, page := range q.pages[:Pages(q.Len)] {
		host := s.host.Slice(0, s.pool.KV.PageBytes)
		s.copy.Copy(host, s.page(page))
		if err := s.copy.Sync(); err != nil {
			t.Fatal(err)
		}
		got = append(got, host.Host()...)
	}
	return got
}

func grown(t *testing.T, p *Pool, tokens int) *Sequence {
	t.Helper()
	q, err := p.Sequence()
	if err == nil {
		err = q.Grow(tokens)
	}
	if err != nil {
		t.Fatal(err)
	}
	q.Len = tokens
	return q
}

// Sequences that leave and come back in any order have the bytes that they had, wherever they lay,
// and no slot is lost.
func TestSpilledPagesComeBackAsTheyWere(t *testing.T) {
	for _, discrete := range []bool{false, true} {
		p, s := newSpill(t, discrete, 16, 5, 20)
		rng := rand.New(rand.NewPCG(1, 2))
		type left struct {
			x    *Spilled
			want []byte
		}
		var out []left
		for range 300 {
			if rng.IntN(2) == 0 {
				q := grown(t, p, 1+rng.IntN(4*PageTokens))
				want, room := fill(t, s, q, rng), s.Room()
				x, err := s.Out(q)
				switch {
				case room < Pages(q.Len):
					if !errors.Is(err, ErrFull) || s.Room() != room {
						t.Fatalf("room for %d pages of %d: %v", room, Pages(q.Len), err)
					}
				case err != nil || x.Len != q.Len || s.Room() != room-Pages(q.Len) || s.Used() != 25-s.Room():
					t.Fatal(x, err, s.Room(), room)
				default:
					out = append(out, left{x, want})
				}
				q.Close()
				continue
			}
			if len(out) == 0 {
				continue
			}
			i := rng.IntN(len(out))
			l := out[i]
			out[i] = out[len(out)-1]
			out = out[:len(out)-1]
			q, err := p.Sequence()
			if err == nil {
				err = q.Grow(l.x.Len)
			}
			if err == nil {
				err = s.In(l.x, q, 0)
			}
			if err != nil || q.Len != l.x.Len {
				t.Fatal(err)
			}
			if string(holds(t, s, q)) != string(l.want) {
				t.Fatalf("discrete %v: a sequence of %d came back changed", discrete, q.Len)
			}
			s.Drop(l.x)
			q.Close()
		}
		for _, l := range out {
			s.Drop(l.x)
		}
		s.Drop(nil)
		if s.Room() != 25 || s.Moved() == 0 {
			t.Errorf("room for %d pages, want 25", s.Room())
		}
	}
}

// A beginning that the sequence shares is not moved in.
func TestSpilledPagesBehindASharedBeginning(t *testing.T) {
	p, s := newSpill(t, false, 16, 0, 8)
	rng := rand.New(rand.NewPCG(1, 3))
	q := grown(t, p, 3*PageTokens)
	want := fill(t, s, q, rng)
	begin, err := q.Fork(PageTokens)
	if err != nil {
		t.Fatal(err)
	}
	x, err := s.Out(q)
	if err != nil {
		t.Fatal(err)
	}
	q.Close()
	before := s.Moved()
	r, err := begin.Fork(PageTokens)
	if err == nil {
		err = r.Grow(x.Len)
	}
	if err == nil {
		err = s.In(x, r, 1)
	}
	if err != nil || string(holds(t, s, r)) != string(want) || s.Moved()-before != 2*spillAlign {
		t.Errorf("%v; %d bytes were moved in", err, s.Moved()-before)
	}
}

// brokenFile fails when it has had so many bytes written, or gives other ones back.
type brokenFile struct {
	spillFile
	room  int
	wrong bool
}

func (f *brokenFile) WriteAt(b []byte, offset int64) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, syscall.ENOSPC
	}
	return f.spillFile.WriteAt(b, offset)
}

func (f *brokenFile) ReadAt(b []byte, offset int64) (int, error) {
	n, err := f.spillFile.ReadAt(b, offset)
	if f.wrong {
		b[100] ^= 1
	}
	return n, err
}

// A disk that is full is said once, and memory is used on; what it gives back wrong is not used.
func TestSpillOnADiskThatFails(t *testing.T) {
	p, s := newSpill(t, false, 16, 1, 8)
	file := &brokenFile{room: 3 * spillAlign}
	open := s.open
	s.open = func() (f spillFile, err error) { file.spillFile, err = open(); return file, err }
	a, b := grown(t, p, 2*PageTokens), grown(t, p, 3*PageTokens)
	want := fill(t, s, a, rand.New(rand.NewPCG(1, 4)))
	x, err := s.Out(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Out(b); !errors.Is(err, ErrSpill) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	if _, err := s.Out(b); !errors.Is(err, ErrFull) || s.Room() != 0 {
		t.Errorf("after that: %v, room for %d", err, s.Room())
	}
	if err := s.In(x, b, 0); err != nil || b.Len != 2*PageTokens || string(holds(t, s, b)) != string(want) {
		t.Errorf("what was there before: %v", err)
	}
	file.wrong = true
	b.Len = 7
	if err := s.In(x, b, 0); !errors.Is(err, ErrSpill) || b.Len != 7 {
		t.Errorf("a wrong bit: %v", err)
	}
	s.Drop(x)
	if s.Room() != 1 || s.Used() != 0 {
		t.Errorf("room for %d, want that in memory; %d are used", s.Room(), s.Used())
	}
}

// The file has no name, so that a process that is killed leaves none.
func TestSpillFileHasNoName(t *testing.T) {
	dir := t.TempDir()
	makers := map[string]func() (spillFile, error){
		"direct":   func() (spillFile, error) { return unnamedFile(dir, true) },
		"buffered": func() (spillFile, error) { return unnamedFile(dir, false) },
		"named":    func() (spillFile, error) { return namedFile(dir) },
	}
	for name, open := range makers {
		f, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", name, left, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err := unnamedFile(filepath.Join(dir, "missing"), true)
	if err == nil || !strings.Contains(err.Error(), "missing") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
