package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/moering/moering/kernels/quant"
)

// packedTensor is what the tests pack: sizes that fill a page, that do not, and a stack.
type packedTensor struct {
	name  string
	kind  quant.Type
	shape []int64
}

func packedTensors() []packedTensor {
	return []packedTensor{{"a.weight", quant.F32, []int64{7}}, {"page", quant.F32, []int64{32, 32}},
		{"b.exps", quant.Q4_0, []int64{5, 3, 64}}, {"c", quant.Q8_0, []int64{40, 96}},
		{"d.exps", quant.F16, []int64{4, 32, 16}}, {"e", quant.F32, []int64{1}}}
}

// packing is a Packer and the data that it is to be given.
type packing struct {
	*Packer
	data [][]byte // by piece
}

func newPacking(t *testing.T, path string, o PackOptions) *packing {
	t.Helper()
	w, err := NewPacker(path, o)
	must(t, err)
	must(t, w.SetMetadata("general.architecture", Scalar("test")))
	must(t, w.SetMetadata("numbers", Array([]int32{1, -2, 3})))
	for _, tensor := range packedTensors() {
		must(t, w.Declare(tensor.name, tensor.kind, tensor.shape))
	}
	p := &packing{Packer: w}
	random := rand.New(rand.NewPCG(1, 2))
	for _, piece := range w.Pieces() {
		b := make([]byte, piece.Size)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		p.data = append(p.data, b)
	}
	return p
}

// pieces writes pieces from and to, cut in two, and returns the first failure.
func (p *packing) pieces(from, to int) error {
	for _, b := range p.data[from:to] {
		for _, part := range [][]byte{b[:len(b)/3], b[len(b)/3:]} {
			if err := p.Write(part); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin expects that some pieces are done.
func (p *packing) begin(t *testing.T, want int) {
	t.Helper()
	done, err := p.Begin("grouped")
	must(t, err)
	if done != want {
		t.Fatalf("%d pieces are done, want %d", done, want)
	}
}

// finish writes the rest and commits.
func (p *packing) finish(t *testing.T, from int) []byte {
	t.Helper()
	must(t, p.pieces(from, len(p.data)))
	must(t, p.Commit())
	must(t, p.Suspend())
	onlyFile(t, p.path)
	b, err := os.ReadFile(p.path)
	must(t, err)
	return b
}

// undisturbed is the packed file as it should be.
func undisturbed(t *testing.T) []byte {
	t.Helper()
	p := newPacking(t, filepath.Join(t.TempDir(), "m.gguf"), PackOptions{})
	p.begin(t, 0)
	return p.finish(t, 0)
}

// crash ends a packer as kill -9 would: descriptors close, nothing is flushed.
func (p *packing) crash(t *testing.T) {
	t.Helper()
	must(t, p.out.Close())
	must(t, p.state.file.Close())
}

// TestPackedFileIsRead checks what the format promises: places, checksums, metadata, and that all
// of it passes its own checks.
func TestPackedFileIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	p := newPacking(t, path, PackOptions{})
	p.begin(t, 0)
	p.finish(t, 0)
	m, err := Open(path)
	must(t, err)
	var last, total int64
	must(t, m.Check(t.Context(), func(d, n int64) { last, total = d, n }))
	if last != total || total != m.Files()[0].Size {
		t.Errorf("%d of %d bytes of a file of %d were read", last, total, m.Files()[0].Size)
	}
	integrity, err := m.Integrity(VerifyAlways)
	must(t, err)
	if !m.HasChecksums() || m.Layout() != "grouped" {
		t.Errorf("checksums %v, layout %q", m.HasChecksums(), m.Layout())
	}
	piece, end := 0, int64(0)
	for i, want := range packedTensors() {
		tensor := m.Tensors()[i]
		next := (end + PackAlignment - 1) / PackAlignment * PackAlignment
		if tensor.Name != want.name || tensor.Type != want.kind || i > 0 && tensor.Offset != next ||
			tensor.Offset%PackAlignment != 0 {
			t.Errorf("tensor %+v, want %+v at %d", tensor, want, next)
		}
		end = tensor.Offset + tensor.Size
		got, err := m.ReadTensor(want.name, 1<<20)
		must(t, err)
		n := pieces(tensor.Shape)
		if joined := bytes.Join(p.data[piece:piece+n], nil); !bytes.Equal(got, joined) {
			t.Errorf("%s has other bytes", want.name)
		}
		for slice := range n {
			e := tensor.Extent()
			if n > 1 {
				e, err = tensor.Slice(int64(slice))
				must(t, err)
			}
			if sum, ok := integrity.Sum(e); !ok || sum != xxh3.Hash(p.data[piece]) {
				t.Errorf("%s[%d] has checksum %x, %v", want.name, slice, sum, ok)
			}
			piece++
		}
	}
	numbers, err := m.Metadata().Ints("numbers")
	must(t, err)
	if fmt.Sprint(numbers) != "[1 -2 3]" {
		t.Errorf("numbers are %v", numbers)
	}
}

// TestInterruptedPackGoesOn stops at every piece, in order and by a crash, and compares the bytes
// with those of an undisturbed run.
func TestInterruptedPackGoesOn(t *testing.T) {
	want := undisturbed(t)
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(3, 4))
	for stop := 1; stop < len(newPacking(t, filepath.Join(dir, "x"), PackOptions{}).data); stop++ {
		path := filepath.Join(dir, "m.gguf")
		// A checkpoint every 4000 bytes: some pieces before the crash are on record, some are not.
		p := newPacking(t, path, PackOptions{CheckpointBytes: 4000})
		p.begin(t, 0)
		must(t, p.pieces(0, stop))
		kept := stop
		if random.IntN(2) == 0 {
			must(t, p.Write(p.data[stop][:1+random.IntN(len(p.data[stop])-1)])) // part of a piece
			must(t, p.Suspend())
		} else {
			kept = p.state.flushed
			p.crash(t)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the target is there before it is complete: %v", err)
		}
		p = newPacking(t, path, PackOptions{})
		p.begin(t, kept)
		if got := p.finish(t, kept); !bytes.Equal(got, want) {
			t.Fatalf("stopped at %d: other bytes", stop)
		}
		must(t, os.Remove(path))
	}
}

// TestDamagedStateIsNotBelieved cuts and changes the journal at random, and loses the data.
func TestDamagedStateIsNotBelieved(t *testing.T) {
	want := undisturbed(t)
	random := rand.New(rand.NewPCG(5, 6))
	for trial := range 16 {
		path := filepath.Join(t.TempDir(), "m.gguf")
		p := newPacking(t, path, PackOptions{})
		p.begin(t, 0)
		must(t, p.pieces(0, 6))
		must(t, p.Suspend())
		state, part := path+packStateExt, path+packPartExt
		b, err := os.ReadFile(state)
		must(t, err)
		switch at := random.IntN(len(b)); trial % 4 {
		case 0:
			must(t, os.WriteFile(state, b[:at], 0o600))
		case 1:
			b[at] ^= 1 << random.IntN(8)
			must(t, os.WriteFile(state, b, 0o600))
		case 2:
			must(t, os.WriteFile(state, append(b, b[at:]...), 0o600))
		case 3:
			must(t, os.Remove(part))
		}
		p = newPacking(t, path, PackOptions{})
		done, err := p.Begin("grouped")
		must(t, err)
		if done > 6 {
			t.Fatalf("%d pieces are done, of 6", done)
		}
		if got := p.finish(t, done); !bytes.Equal(got, want) {
			t.Fatalf("trial %d: other bytes after %d pieces", trial, done)
		}
	}
}

// TestOtherContentStartsOver changes each thing that the bytes depend on.
func TestOtherContentStartsOver(t *testing.T) {
	for name, begin := range map[string]func(*packing) (int, error){
		"the source": func(p *packing) (int, error) {
			p.options.Source = "another"
			return p.Begin("grouped")
		},
		"the layout":   func(p *packing) (int, error) { return p.Begin("stacked") },
		"the metadata": func(p *packing) (int, error) { p.SetMetadata("x", Scalar(true)); return p.Begin("grouped") },
		"the tensors": func(p *packing) (int, error) {
			p.Declare("f", quant.F32, []int64{2})
			return p.Begin("grouped")
		},
	} {
		path := filepath.Join(t.TempDir(), "m.gguf")
		p := newPacking(t, path, PackOptions{})
		p.begin(t, 0)
		must(t, p.pieces(0, 4))
		must(t, p.Suspend())
		q := newPacking(t, path, PackOptions{})
		if done, err := begin(q); done != 0 || err != nil {
			t.Errorf("%s changed: %d pieces are done, %v", name, done, err)
		}
		must(t, q.Suspend())
	}
}

// fullDisk takes so many bytes and no more, and may refuse to sync.
type fullDisk struct {
	packFile
	left   int
	noSync bool
}

func (d *fullDisk) WriteAt(b []byte, offset int64) (int, error) {
	n := min(len(b), d.left)
	d.left -= n
	if written, err := d.packFile.WriteAt(b[:n], offset); err != nil || n == len(b) {
		return written, err
	}
	return n, syscall.ENOSPC
}

func (d *fullDisk) Sync() error {
	if d.noSync {
		return syscall.EIO
	}
	return d.packFile.Sync()
}

// TestFullDiskLosesNothing fills the disk at random moments: the error says so, the target is not
// there, and when there is room the pack goes on.
func TestFullDiskLosesNothing(t *testing.T) {
	want := undisturbed(t)
	random := rand.New(rand.NewPCG(7, 8))
	total := int(newPacking(t, "x", PackOptions{}).Total())
	for trial := range 10 {
		path := filepath.Join(t.TempDir(), "m.gguf")
		p := newPacking(t, path, PackOptions{CheckpointBytes: 1})
		disk := &fullDisk{left: random.IntN(total), noSync: trial%5 == 4}
		p.wrap = func(f packFile) packFile { disk.packFile = f; return disk }
		p.begin(t, 0)
		err := p.pieces(0, len(p.data))
		full := errors.Is(err, syscall.ENOSPC) || disk.noSync && errors.Is(err, syscall.EIO)
		if !full || !errors.Is(err, ErrIO) || !strings.Contains(err.Error(), path) {
			t.Fatalf("trial %d: %v", trial, err)
		}
		if again := p.Write(p.data[0][:1]); again == nil || p.Commit() == nil {
			t.Fatal("the failure does not stick")
		}
		disk.noSync = false
		must(t, p.Suspend())
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the target is there: %v", err)
		}
		p = newPacking(t, path, PackOptions{})
		done, err := p.Begin("grouped")
		must(t, err)
		if got := p.finish(t, done); !bytes.Equal(got, want) {
			t.Fatalf("trial %d: other bytes after %d pieces", trial, done)
		}
	}
}

// TestNoRoomIsSaidBefore declares more than any disk has.
func TestNoRoomIsSaidBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	p, err := NewPacker(path, PackOptions{})
	must(t, err)
	must(t, p.Declare("big", quant.F32, []int64{1 << 23, 1 << 23}))
	_, err = p.Begin("grouped")
	wantError(t, err, ErrIO, path, "are free", "are needed")
	if !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestPackerRefuses tries each wrong call.
func TestPackerRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.gguf")
	must(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, err := newPacking(t, path, PackOptions{}).Begin("grouped")
	wantError(t, err, ErrUsage, path, "there already")
	_, err = newPacking(t, dir, PackOptions{Force: true}).Begin("grouped")
	wantError(t, err, ErrUsage, "not a regular file")

	p := newPacking(t, path, PackOptions{Force: true})
	wantError(t, p.SetMetadata("moering.pack.version", Scalar(1.0)), ErrUsage, "set by the packer")
	wantError(t, p.SetMetadata("general.alignment", Scalar(1.0)), ErrUsage, "alignment")
	wantError(t, p.Write([]byte{1}), ErrUsage, "nothing to be written")
	wantError(t, p.Commit(), ErrUsage, "closed")
	p.begin(t, 0)
	wantError(t, p.SetMetadata("late", Scalar(true)), ErrUsage, "after Begin")
	wantError(t, p.Declare("late", quant.F32, []int64{1}), ErrUsage, "after Begin")
	_, err = newPacking(t, path, PackOptions{Force: true}).Begin("grouped")
	wantError(t, err, ErrUsage, "another process")
	must(t, p.pieces(0, 2))
	wantError(t, p.Commit(), ErrUsage, "not complete: 2 of 13")
	must(t, p.Suspend())

	p = newPacking(t, path, PackOptions{Force: true})
	p.begin(t, 2)
	wantError(t, p.Write(make([]byte, len(p.data[2])+1)), ErrUsage, "b.exps", "1 bytes more")
	must(t, p.Suspend())
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Fatalf("the old file is %q, %v", b, err)
	}
	p = newPacking(t, path, PackOptions{Force: true})
	p.begin(t, 2)
	if got := p.finish(t, 2); !bytes.Equal(got, undisturbed(t)) {
		t.Error("other bytes")
	}
}
