package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

// encodeMetadata renders metadata as the metadata of a file without tensors.
func encodeMetadata(m *Metadata) []byte {
	r := header(ggufVersionMax, 0, uint64(m.Len()))
	for _, key := range m.keys {
		r.str(key).u32(uint32(m.values[key].Kind()))
		r.b = appendValue(r.b, m.values[key].v)
	}
	return r.bytes()
}

// FuzzGGUF reads any bytes as a GGUF file: an error that says where, or a well-formed result whose
// metadata survives writing and reading.
func FuzzGGUF(f *testing.F) {
	for _, name := range []string{"v2.gguf", "aligned.gguf", "split-00001-of-00003.gguf"} {
		f.Add(readTestdata(f, name))
	}
	for _, c := range absurdGGUF() {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseGGUF(b)
		checkOutcome(t, p, err, len(b))
		if err != nil {
			return
		}
		encoded := encodeMetadata(p.metadata)
		again, err := parseGGUF(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encodeMetadata(again.metadata), encoded) {
			t.Fatal("metadata changes when written and read")
		}
	})
}

// FuzzSplit reads any three files as a split set.
func FuzzSplit(f *testing.F) {
	name := splitName{prefix: "split", count: 3}
	shard := func(i int) []byte { return readTestdata(f, name.shard(i)) }
	f.Add(shard(0), shard(1), shard(2))
	f.Add(shard(0), shard(2), shard(1))
	f.Add(shard(1), shard(1), shard(1))
	f.Add(shard(0), readTestdata(f, "v3.gguf"), []byte{})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		var parts []part
		for i, shard := range [][]byte{a, b, c} {
			file := File{Path: name.shard(i), Size: int64(len(shard))}
			p, err := readGGUF(bytes.NewReader(shard), file)
			if err != nil {
				checkOutcome(t, p, err, len(shard))
				return
			}
			parts = append(parts, p)
		}
		err := checkSplit(parts)
		if err == nil {
			_, err = newModel(FormatGGUF, "split", ".", parts)
		}
		if err != nil {
			checkOutcome(t, part{}, err, 0)
			return
		}
		for i, p := range parts {
			if count, err := splitCount(p); count != 3 || err != nil {
				t.Fatalf("part %d says that it is one of %d, %v", i, count, err)
			}
		}
	})
}

// FuzzSafetensors reads any bytes as a safetensors file.
func FuzzSafetensors(f *testing.F) {
	f.Add(readTestdata(f, "hf-single/model.safetensors"))
	f.Add(readTestdata(f, "hf-sharded/model-00002-of-00002.safetensors"))
	for _, c := range absurdSafetensors() {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseSafetensors(b)
		checkOutcome(t, p, err, len(b))
		if err != nil {
			return
		}
		covered := safetensorsLengthBytes + int(binary.LittleEndian.Uint64(b))
		for _, tensor := range p.tensors {
			covered += int(tensor.Size)
		}
		if covered != len(b) {
			t.Fatalf("header and tensors take %d bytes of %d", covered, len(b))
		}
	})
}

// FuzzIndex reads any text as model.safetensors.index.json: no name in a result leads out of the
// directory.
func FuzzIndex(f *testing.F) {
	f.Add(readTestdata(f, "hf-sharded/model.safetensors.index.json"))
	for _, file := range []string{"../m.safetensors", "/m.safetensors", `..\\m.safetensors`, "",
		"..", "c:m.safetensors", "m.safetensors\\u0000", "a/b.safetensors", ".safetensors"} {
		f.Add(fmt.Appendf(nil, `{"metadata":{"x":[1,{}]},"weight_map":{"t":"%s"}}`, file))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := parseIndex("index.json", text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.File == "" {
				t.Fatalf("error %#v", err)
			}
			return
		}
		if len(w.files) == 0 || len(w.fileOf) < len(w.files) {
			t.Fatalf("index %+v", w)
		}
		for _, file := range w.files {
			if bytes.ContainsAny([]byte(file), "/\\:\x00\n") || file == ".." {
				t.Fatalf("the index leads to %q", file)
			}
		}
	})
}
