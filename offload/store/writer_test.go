package store

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moering/moering/kernels/quant"
)

// writtenValues has every kind of value at its limits.
func writtenValues(t testing.TB) []struct {
	key string
	v   Value
} {
	nested, err := ArrayOfArrays([]Value{Array([]int32{1}), Array([]string{}), Array([]bool{true})})
	if err != nil {
		t.Fatal(err)
	}
	return []struct {
		key string
		v   Value
	}{
		{"general.architecture", Scalar("test")}, {"u8", Scalar[uint8](255)},
		{"i8", Scalar[int8](-128)}, {"u16", Scalar[uint16](65535)}, {"i16", Scalar[int16](-32768)},
		{"u32", Scalar[uint32](math.MaxUint32)}, {"i32", Scalar[int32](math.MinInt32)},
		{"u64", Scalar[uint64](math.MaxUint64)}, {"i64", Scalar[int64](math.MinInt64)},
		{"f32", Scalar[float32](math.MaxFloat32)}, {"f64", Scalar(math.SmallestNonzeroFloat64)},
		{"true", Scalar(true)}, {"false", Scalar(false)}, {"empty", Scalar("")},
		{"long", Scalar(strings.Repeat("long ", sourceBufferBytes))},
		{"a.u8", Array([]uint8{1, 2})}, {"a.i8", Array([]int8{-1})}, {"a.u16", Array([]uint16{9})},
		{"a.i16", Array([]int16{-9})}, {"a.u32", Array([]uint32{7})}, {"a.i32", Array([]int32{-7})},
		{"a.u64", Array([]uint64{math.MaxUint64})}, {"a.i64", Array([]int64{math.MinInt64, 0})},
		{"a.f32", Array([]float32{0.5})}, {"a.f64", Array([]float64{-0.5})},
		{"a.bool", Array([]bool{true, false})}, {"a.str", Array([]string{"a", ""})},
		{"a.none", Array([]uint16{})}, {"a.nested", nested},
	}
}

// TestWhatIsWrittenIsRead writes random tensors and every kind of value, and reads them back.
func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, alignment := range []uint32{0, 32, 4096} {
		path := filepath.Join(t.TempDir(), "m.gguf")
		random := rand.New(rand.NewPCG(1, 2))
		w, err := NewGGUFWriter(path, WriterOptions{Alignment: alignment})
		must(t, err)
		for _, pair := range writtenValues(t) {
			must(t, w.SetMetadata(pair.key, pair.v))
		}
		shapes := map[string][]int64{"a": {}, "b": {7}, "c": {3, 64}, "d": {2, 3, 256},
			"e": {2, 1, 3, 32}}
		kinds := map[string]quant.Type{"a": quant.F32, "b": quant.BF16, "c": quant.Q8_0,
			"d": quant.Q4_K, "e": quant.Q4_0}
		data := map[string][]byte{}
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			must(t, w.Declare(name, kinds[name], shapes[name]))
			l, _ := ggufLayout(uint32(kinds[name]))
			size, err := l.bytesOf(shapes[name], true)
			must(t, err)
			data[name] = make([]byte, size)
			for i := range data[name] {
				data[name][i] = byte(random.Uint32())
			}
		}
		for i, name := range []string{"a", "b", "c", "d", "e"} {
			if i%2 == 0 {
				must(t, w.WriteTensor(name, iotest.OneByteReader(bytes.NewReader(data[name]))))
				continue
			}
			must(t, w.WriteChunk(name, data[name][:5]))
			must(t, w.WriteChunk(name, data[name][5:]))
		}
		must(t, w.Commit())
		must(t, w.Abort())
		m, err := Open(path)
		must(t, err)
		for name, want := range data {
			tensor, err := m.Tensor(name)
			must(t, err)
			got, err := m.ReadTensor(name, math.MaxInt64)
			must(t, err)
			if !bytes.Equal(got, want) || !reflect.DeepEqual(tensor.Shape, shapes[name]) ||
				tensor.Type != kinds[name] || tensor.Offset%int64(max(alignment, 32)) != 0 {
				t.Errorf("tensor %q is read as %+v", name, tensor)
			}
		}
		for _, pair := range writtenValues(t) {
			got, err := m.Metadata().Value(pair.key)
			must(t, err)
			if !reflect.DeepEqual(got, pair.v) {
				t.Errorf("%s is read as %#v, want %#v", pair.key, got, pair.v)
			}
		}
		onlyFile(t, path)
	}
}

// onlyFile checks that no temporary file is left beside path; with "" that nothing is.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("the directory holds %v", entries)
	}
}

// TestWriterRefuses tries each wrong call, and checks that the old file stays and nothing is left.
func TestWriterRefuses(t *testing.T) {
	full := func() io.Reader { return bytes.NewReader(make([]byte, 16)) }
	for _, c := range []struct {
		name  string
		wrong func(w *Writer) error
		kind  error
		words string
	}{
		{"short data", func(w *Writer) error {
			return w.WriteTensor("a", bytes.NewReader(make([]byte, 15)))
		}, ErrUsage, "15 of its 16"},
		{"no data", func(w *Writer) error { return w.WriteTensor("a", &bytes.Buffer{}) }, ErrUsage,
			"0 of its 16"},
		{"long data", func(w *Writer) error {
			return w.WriteTensor("a", bytes.NewReader(make([]byte, 17)))
		}, ErrUsage, "1 bytes more than the 16"},
		{"failing data", func(w *Writer) error {
			return w.WriteTensor("a", iotest.ErrReader(os.ErrDeadlineExceeded))
		}, ErrIO, "timeout"},
		{"stuck data", func(w *Writer) error { return w.WriteTensor("a", stuckReader{}) }, ErrIO,
			"no data"},
		{"out of order", func(w *Writer) error { return w.WriteTensor("b", full()) }, ErrUsage, "order"},
		{"not declared", func(w *Writer) error { return w.WriteTensor("c", full()) }, ErrUsage, "order"},
		{"next before complete", func(w *Writer) error {
			must(t, w.WriteChunk("a", make([]byte, 3)))
			return w.WriteChunk("b", make([]byte, 3))
		}, ErrUsage, "3 of its 16"},
		{"incomplete", func(w *Writer) error {
			must(t, w.WriteTensor("a", full()))
			return w.Commit()
		}, ErrUsage, "not complete"},
		{"after a failure", func(w *Writer) error {
			if err := w.WriteChunk("b", nil); err == nil {
				t.Error("out of order")
			}
			return w.WriteTensor("a", full())
		}, ErrUsage, "order"},
		{"declared twice", func(w *Writer) error {
			return w.Declare("a", quant.F32, []int64{4})
		}, ErrUsage, "twice"},
		{"declared late", func(w *Writer) error {
			must(t, w.WriteTensor("a", full()))
			return w.Declare("c", quant.F32, []int64{4})
		}, ErrUsage, "after"},
		{"half a block", func(w *Writer) error {
			return w.Declare("c", quant.Q8_0, []int64{2, 16})
		}, ErrUsage, "whole number"},
		{"empty tensor", func(w *Writer) error {
			return w.Declare("c", quant.F32, []int64{0})
		}, ErrUsage, "cannot be written"},
		{"too large", func(w *Writer) error {
			return w.Declare("c", quant.F32, []int64{1 << 30, 1 << 30})
		}, ErrUsage, "larger"},
		{"five dims", func(w *Writer) error {
			return w.Declare("c", quant.F32, []int64{1, 1, 1, 1, 1})
		}, ErrUsage, "5 dims"},
		{"no type", func(w *Writer) error { return w.Declare("c", NoType, []int64{1}) }, ErrUsage,
			"cannot be written"},
		{"long name", func(w *Writer) error {
			return w.Declare(strings.Repeat("n", 64), quant.F32, []int64{1})
		}, ErrUsage, "at most 63"},
		{"key twice", func(w *Writer) error {
			must(t, w.SetMetadata("k", Scalar(true)))
			return w.SetMetadata("k", Scalar(true))
		}, ErrUsage, "already"},
		{"own alignment", func(w *Writer) error {
			return w.SetMetadata(ggufAlignmentKey, Scalar[uint32](64))
		}, ErrUsage, "options"},
		{"no value", func(w *Writer) error { return w.SetMetadata("k", Value{}) }, ErrUsage, "no value"},
		{"arrays too deep", func(w *Writer) error {
			v := Array([]bool{true})
			for range ggufDepthMax {
				v, _ = ArrayOfArrays([]Value{v})
			}
			return w.SetMetadata("k", v)
		}, ErrUsage, "cannot be written"},
		{"closed", func(w *Writer) error {
			must(t, w.Abort())
			return w.WriteTensor("a", full())
		}, ErrUsage, "closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.gguf")
			write(t, path, []byte("old"))
			w, err := NewGGUFWriter(path, WriterOptions{})
			must(t, err)
			must(t, w.Declare("a", quant.F32, []int64{4}))
			must(t, w.Declare("b", quant.F32, []int64{2, 2}))
			wantError(t, c.wrong(w), c.kind, path, c.words)
			must(t, w.Abort())
			must(t, w.Abort())
			onlyFile(t, path)
			if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
				t.Errorf("the old file is %q, %v", b, err)
			}
		})
	}
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

func TestWriterOptionsAreChecked(t *testing.T) {
	for _, alignment := range []uint32{24, 1 << 25} {
		_, err := NewGGUFWriter(filepath.Join(t.TempDir(), "m.gguf"),
			WriterOptions{Alignment: alignment})
		wantError(t, err, ErrUsage, "alignment")
	}
	_, err := NewGGUFWriter(filepath.Join(t.TempDir(), "none", "m.gguf"), WriterOptions{})
	wantError(t, err, ErrIO, "temporary")
	_, err = ArrayOfArrays([]Value{Scalar(true)})
	if !errors.Is(err, ErrUsage) {
		t.Errorf("an array of a bool: %v", err)
	}
}

// zeros gives n zero bytes for next to nothing.
func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { return len(p), nil }

// TestWriterMemoryIsConstant writes 64 MiB, and allocates the buffers and small change.
func TestWriterMemoryIsConstant(t *testing.T) {
	const rows, columns = 4096, 4096
	var last, calls int64
	options := WriterOptions{Progress: func(written, total int64) {
		if written < last || total != rows*columns*4 {
			t.Errorf("progress goes from %d to %d of %d", last, written, total)
		}
		last, calls = written, calls+1
	}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	path := filepath.Join(t.TempDir(), "m.gguf")
	w, err := NewGGUFWriter(path, options)
	must(t, err)
	must(t, w.Declare("t", quant.F32, []int64{rows, columns}))
	must(t, w.WriteTensor("t", zeros(w.Total())))
	must(t, w.Commit())
	runtime.ReadMemStats(&after)
	const allocatedMax = writerBufferBytes + writerChunkBytes + 1<<20
	if got := after.TotalAlloc - before.TotalAlloc; got > allocatedMax {
		t.Errorf("%d bytes allocated, want at most %d", got, allocatedMax)
	}
	if last != rows*columns*4 || calls < 2 {
		t.Errorf("progress ended at %d after %d calls", last, calls)
	}
	m, err := Open(path)
	must(t, err)
	if m.Bytes() != last || len(m.Tensors()) != 1 || m.Format() != FormatGGUF || m.Path() != path {
		t.Errorf("%d bytes in %v", m.Bytes(), m.Tensors())
	}
}

func BenchmarkWriter(b *testing.B) {
	path := filepath.Join(b.TempDir(), "m.gguf")
	b.SetBytes(256 << 20)
	for b.Loop() {
		w, err := NewGGUFWriter(path, WriterOptions{})
		if err != nil {
			b.Fatal(err)
		}
		err = errors.Join(w.Declare("t", quant.F32, []int64{64 << 10, 1 << 10}),
			w.WriteTensor("t", zeros(w.Total())), w.out.Flush(), w.Abort())
		if err != nil {
			b.Fatal(err)
		}
	}
}
