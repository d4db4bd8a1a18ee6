package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// raw builds the bytes of a header by hand, right or wrong.
type raw struct{ b []byte }

func (r *raw) u32(v uint32) *raw { r.b = binary.LittleEndian.AppendUint32(r.b, v); return r }
func (r *raw) u64(v uint64) *raw { r.b = binary.LittleEndian.AppendUint64(r.b, v); return r }
func (r *raw) str(s string) *raw { r.b = appendString(r.b, s); return r }
func (r *raw) fill(n int) *raw   { r.b = append(r.b, make([]byte, n)...); return r }
func (r *raw) bytes() []byte     { return r.b }

// header begins a GGUF file.
func header(version uint32, tensors, keys uint64) *raw {
	r := &raw{b: []byte(ggufMagic)}
	return r.u32(version).u64(tensors).u64(keys)
}

// tensor appends an entry, dims innermost first.
func (r *raw) tensor(name string, kind uint32, offset uint64, dims ...uint64) *raw {
	r.str(name).u32(uint32(len(dims)))
	for _, dim := range dims {
		r.u64(dim)
	}
	return r.u32(kind).u64(offset)
}

// data pads to the default alignment and appends n zeros.
func (r *raw) data(n int) *raw {
	return r.fill(int(alignUp(int64(len(r.b)), ggufAlignmentDefault)) - len(r.b)).fill(n)
}

// parseGGUF and parseSafetensors read a header from memory.
func parseGGUF(b []byte) (part, error) {
	return readGGUF(bytes.NewReader(b), File{Path: "x.gguf", Size: int64(len(b))})
}

func parseSafetensors(b []byte) (part, error) {
	return readSafetensors(bytes.NewReader(b), File{Path: "x.safetensors", Size: int64(len(b))})
}

// withLength puts the length before a safetensors header, and n bytes of data behind it.
func withLength(json string, n int) []byte {
	r := (&raw{}).u64(uint64(len(json)))
	r.b = append(r.b, json...)
	return r.fill(n).bytes()
}

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantError checks kind, the file, and words of the message.
func wantError(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kind) {
		t.Fatalf("error %v, want an *Error of kind %q", err, kind)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}

// wellFormed checks what Open promises of the tensors of one file.
func wellFormed(t *testing.T, p part, size int64) {
	t.Helper()
	tensors := append([]Tensor(nil), p.tensors...)
	sortByOffset(tensors)
	end, names := int64(0), map[string]bool{}
	for _, tensor := range tensors {
		if tensor.Name == "" || names[tensor.Name] {
			t.Fatalf("name %q is empty or there twice", tensor.Name)
		}
		names[tensor.Name] = true
		if tensor.Offset < end || tensor.Size < 0 || tensor.Offset > size-tensor.Size {
			t.Fatalf("tensor %+v is outside the file of %d bytes or overlaps", tensor, size)
		}
		end = tensor.Offset + tensor.Size
		if tensor.Elements() < 0 || tensor.DType == "" {
			t.Fatalf("tensor %+v", tensor)
		}
		if tensor.Type != NoType {
			blocks := tensor.Elements() / int64(tensor.Type.BlockSize())
			if blocks*int64(tensor.Type.BlockBytes()) != tensor.Size {
				t.Fatalf("tensor %+v: size is not that of its type", tensor)
			}
		}
		for i := range min(4, append(tensor.Shape, 0)[0]) {
			e, err := tensor.Slice(i)
			if err == nil && (e.Offset < tensor.Offset || e.End() > tensor.Offset+tensor.Size) {
				t.Fatalf("slice %d of %+v is %+v", i, tensor, e)
			}
		}
	}
}

// checkOutcome accepts a well-formed result or an *Error that names the file.
func checkOutcome(t *testing.T, p part, err error, size int) {
	t.Helper()
	if err == nil {
		wellFormed(t, p, int64(size))
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.File == "" || e.Kind == nil || e.Reason == "" {
		t.Fatalf("error %#v does not say where and what", err)
	}
}
