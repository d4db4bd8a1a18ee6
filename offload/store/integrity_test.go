package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// packedModel writes and opens the packed file of pack_test.go.
func packedModel(t testing.TB) (m *Model, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "m.gguf")
	must(t, os.WriteFile(path, packedBytes(t), 0o600))
	m, err := Open(path)
	must(t, err)
	return m, path
}

// packedBytes is a packed file, for tests and fuzzing.
func packedBytes(t testing.TB) []byte {
	t.Helper()
	w, err := NewPacker(filepath.Join(t.TempDir(), "m.gguf"), PackOptions{})
	must(t, err)
	must(t, w.SetMetadata("general.architecture", Scalar("test")))
	must(t, w.SetMetadata("flag", Scalar(true)))
	must(t, w.SetMetadata("list", Array([]float32{1, 0.5})))
	for _, tensor := range packedTensors() {
		must(t, w.Declare(tensor.name, tensor.kind, tensor.shape))
	}
	_, err = w.Begin("stacked")
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	for _, piece := range w.Pieces() {
		b := make([]byte, piece.Size)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		must(t, w.Write(b))
	}
	must(t, w.Commit())
	b, err := os.ReadFile(w.path)
	must(t, err)
	return b
}

// pieceBytes reads one slice of a tensor.
func pieceBytes(t testing.TB, m *Model, name string, slice int64) (Extent, []byte) {
	t.Helper()
	tensor, err := m.Tensor(name)
	must(t, err)
	e, err := tensor.Slice(slice)
	must(t, err)
	all, err := m.ReadTensor(name, 1<<20)
	must(t, err)
	return e, all[e.Offset-tensor.Offset:][:e.Size]
}

// TestEveryBitOfAWeightIsChecked flips each bit of one slice.
func TestEveryBitOfAWeightIsChecked(t *testing.T) {
	m, path := packedModel(t)
	integrity, err := m.Integrity(VerifyAlways)
	must(t, err)
	e, b := pieceBytes(t, m, "b.exps", 3)
	must(t, integrity.Verify(e, b))
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		wantError(t, integrity.Verify(e, b), ErrFormat, path, `"b.exps[3]"`,
			fmt.Sprintf("at byte %d", e.Offset), "xxh3-64")
		b[bit/8] ^= 1 << (bit % 8)
	}
	must(t, integrity.Verify(e, b))
}

// TestFirstReadIsCheckedOnce: bytes that were found right are believed from then on, those that were
// not are looked at again; always looks every time.
func TestFirstReadIsCheckedOnce(t *testing.T) {
	m, _ := packedModel(t)
	for _, mode := range []VerifyMode{VerifyFirst, VerifyAlways} {
		integrity, err := m.Integrity(mode)
		must(t, err)
		e, b := pieceBytes(t, m, "d.exps", 1)
		bad := bytes.Clone(b)
		bad[7]++
		if integrity.Verify(e, bad) == nil || integrity.Verify(e, bad) == nil {
			t.Errorf("%v: bad bytes are right", mode)
		}
		must(t, integrity.Verify(e, b))
		if failed := integrity.Verify(e, bad) != nil; failed != (mode == VerifyAlways) {
			t.Errorf("%v: after a right read, failed is %v", mode, failed)
		}
		other, _ := pieceBytes(t, m, "d.exps", 2)
		if integrity.Verify(other, bad) == nil {
			t.Errorf("%v: a right read vouches for its neighbour", mode)
		}
	}
	none, err := m.Integrity(VerifyOff)
	must(t, err)
	if none != nil || none.Verify(Extent{}, nil) != nil {
		t.Error("off still checks")
	}
	if _, ok := none.Sum(Extent{}); ok {
		t.Error("off has a checksum")
	}
}

// TestVerifyTakesWholePiecesAlone: what has no checksum is a mistake of the caller, never right.
func TestVerifyTakesWholePiecesAlone(t *testing.T) {
	m, _ := packedModel(t)
	integrity, err := m.Integrity(VerifyAlways)
	must(t, err)
	e, b := pieceBytes(t, m, "b.exps", 1)
	tensor, err := m.Tensor("b.exps")
	must(t, err)
	for _, c := range []struct {
		e Extent
		b []byte
	}{{Extent{e.File, e.Offset + 1, e.Size}, b}, {Extent{e.File, e.Offset, e.Size - 1}, b[1:]},
		{Extent{e.File + 1, e.Offset, e.Size}, b}, {Extent{-1, e.Offset, e.Size}, b}, {e, b[1:]},
		{Extent{}, nil}, {tensor.Extent(), make([]byte, tensor.Size)}, {Extent{0, 1 << 50, 4}, b[:4]},
		{Extent{0, tensor.Offset + tensor.Size, e.Size}, b}} {
		wantError(t, integrity.Verify(c.e, c.b), ErrUsage)
	}
}

// TestVerifyAllocatesNothing and is safe for concurrent use (with -race).
func TestVerifyAllocatesNothing(t *testing.T) {
	m, _ := packedModel(t)
	integrity, err := m.Integrity(VerifyAlways)
	must(t, err)
	e, b := pieceBytes(t, m, "b.exps", 1)
	if n := testing.AllocsPerRun(100, func() {
		if integrity.Verify(e, b) != nil {
			t.Error("right bytes are wrong")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	first, err := m.Integrity(VerifyFirst)
	must(t, err)
	var all sync.WaitGroup
	for slice := range int64(4) {
		e, b := pieceBytes(t, m, "b.exps", slice)
		for range 3 {
			all.Go(func() {
				for range 50 {
					if err := first.Verify(e, b); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
}

// TestNoDamageGoesUnseen flips a bit of every header byte, of bytes throughout the weights and the
// padding, and cuts and extends the file: opening or checking it fails, and names the file.
func TestNoDamageGoesUnseen(t *testing.T) {
	whole := packedBytes(t)
	path := filepath.Join(t.TempDir(), "m.gguf")
	random := rand.New(rand.NewPCG(9, 9))
	found := func() error {
		m, err := Open(path)
		if err != nil {
			return err
		}
		return m.Check(context.Background(), nil)
	}
	must(t, os.WriteFile(path, whole, 0o600))
	must(t, found())
	m, err := Open(path)
	must(t, err)
	flips := []int{8 * len(ggufMagic)} // bits: version 2 is read the same
	for at := range int(m.headerEnd[0]) {
		flips = append(flips, 8*at+random.IntN(8))
	}
	for _, tensor := range m.Tensors() {
		for _, at := range []int64{tensor.Offset - 1, tensor.Offset, tensor.Offset + tensor.Size/2,
			tensor.Offset + tensor.Size - 1, tensor.Offset + tensor.Size} {
			flips = append(flips, 8*int(at)+random.IntN(8))
		}
	}
	for range 60 {
		flips = append(flips, random.IntN(8*len(whole)))
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	put := func(at int, v byte) {
		_, err := file.WriteAt([]byte{v}, int64(at))
		must(t, err)
	}
	for _, flip := range flips {
		at, bit := flip/8, byte(1)<<(flip%8)
		put(at, whole[at]^bit)
		if err := found(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("bit %08b of byte %d of %d (header %d): %v", bit, at, len(whole), m.headerEnd[0], err)
		}
		put(at, whole[at])
	}
	must(t, found())
	for _, size := range []int{len(whole) - 1, len(whole) / 2, len(whole) + 1} {
		must(t, file.Truncate(int64(size)))
		if err := found(); err == nil {
			t.Errorf("%d bytes of %d pass", size, len(whole))
		}
		must(t, os.WriteFile(path, whole, 0o600))
	}
}

// TestCheckReportsEachPlace damages two weights and a padding.
func TestCheckReportsEachPlace(t *testing.T) {
	m, path := packedModel(t)
	b, err := os.ReadFile(path)
	must(t, err)
	c, err := m.Tensor("c")
	must(t, err)
	slice, _ := pieceBytes(t, m, "b.exps", 4)
	b[c.Offset+5]++
	b[slice.Offset+1]++
	b[c.Offset+c.Size+1]++
	must(t, os.WriteFile(path, b, 0o600))
	m, err = Open(path)
	must(t, err)
	last := int64(-1)
	err = m.Check(t.Context(), func(done, total int64) {
		if done < last || done > total || total != int64(len(b)) {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	wantError(t, errors.Unwrap(fmt.Errorf("%w", err)), ErrFormat, `"c"`, `"b.exps[4]"`, "padding")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Check(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v after cancellation", err)
	}
	_, err = m.ReadTensor("c", 1<<20)
	wantError(t, err, ErrFormat, `"c"`, "xxh3-64")
}

// TestHostilePackMetadata: metadata that is not what the packer writes is refused by key.
func TestHostilePackMetadata(t *testing.T) {
	whole := func() map[string]Value {
		return map[string]Value{packVersionKey: Scalar(uint32(1)), packMethodKey: Scalar(packMethod),
			packLayoutKey: Scalar("grouped"), packChecksumsKey: Array([]uint64{1, 2, 3}),
			packHeaderKey: Scalar(uint64(9))}
	}
	open := func(keys map[string]Value) error {
		p := part{file: File{Path: "x.gguf"}, metadata: newMetadata("x.gguf")}
		for key, v := range keys {
			p.metadata.add(key, v)
		}
		for i, shape := range [][]int64{{4}, {2, 1, 4}} {
			tensor := Tensor{Name: fmt.Sprint(i), Shape: shape, Offset: int64(i) * 4096, Size: 32}
			tensor.setLayout(layout{"F32", 1, 4})
			p.tensors = append(p.tensors, tensor)
		}
		_, err := newModel(FormatGGUF, "x.gguf", ".", []part{p})
		return err
	}
	must(t, open(whole()))
	must(t, open(nil))
	for key := range whole() {
		keys := whole()
		delete(keys, key)
		if key == packLayoutKey {
			must(t, open(keys)) // for people
			continue
		}
		wantError(t, open(keys), ErrFormat, key, "missing")
	}
	for _, c := range []struct {
		key  string
		v    Value
		kind error
	}{
		{packVersionKey, Scalar(uint32(2)), ErrUnsupported}, {packVersionKey, Scalar("1"), ErrFormat},
		{packMethodKey, Scalar("crc32"), ErrUnsupported}, {packMethodKey, Scalar(true), ErrFormat},
		{packChecksumsKey, Array([]uint64{1, 2}), ErrFormat},
		{packChecksumsKey, Array([]uint64{1, 2, 3, 4}), ErrFormat},
		{packChecksumsKey, Array([]int64{1, 2, 3}), ErrFormat},
		{packChecksumsKey, Scalar(uint64(1)), ErrFormat}, {packHeaderKey, Scalar("0"), ErrFormat},
		{packHeaderKey, Scalar(int64(9)), ErrFormat},
	} {
		keys := whole()
		keys[c.key] = c.v
		wantError(t, open(keys), c.kind)
	}
	if _, err := ParseVerifyMode("sometimes"); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
	for _, v := range []VerifyMode{VerifyFirst, VerifyAlways, VerifyOff} {
		if got, err := ParseVerifyMode(v.String()); got != v || err != nil {
			t.Errorf("%v is read as %v, %v", v, got, err)
		}
	}
}

// FuzzPacked: no packed file, however damaged, does more than fail.
func FuzzPacked(f *testing.F) {
	whole := packedBytes(f)
	f.Add(whole)
	for at := 0; at < 1200; at += 97 {
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseGGUF(b)
		if err != nil {
			return
		}
		m, err := newModel(FormatGGUF, "x.gguf", ".", []part{p})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no *Error", err)
			}
			return
		}
		integrity, err := m.Integrity(VerifyFirst)
		if err != nil || integrity == nil {
			return
		}
		for _, tensor := range m.Tensors() {
			for slice := range int64(pieces(tensor.Shape)) {
				e := tensor.Extent()
				if pieces(tensor.Shape) > 1 {
					if e, err = tensor.Slice(slice); err != nil {
						t.Fatal(err)
					}
				}
				if _, ok := integrity.Sum(e); !ok {
					t.Fatalf("%s[%d] has no checksum", tensor.Name, slice)
				}
				if err := integrity.Verify(e, b[e.Offset:e.End()]); err != nil &&
					!errors.Is(err, ErrFormat) {
					t.Fatal(err)
				}
			}
		}
	})
}
