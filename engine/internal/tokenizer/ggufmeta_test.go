package tokenizer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"testing"
)

// ggufMeta reads the metadata of a trusted GGUF file, for the tests of this package alone: the
// reader of outside files is another package's.
type ggufMeta struct {
	r   io.Reader
	err error
}

func readGGUFVocab(t *testing.T, path string) GGUFVocab {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := &ggufMeta{r: bytes.NewReader(data)}
	if magic := m.u32(); magic != 0x46554747 {
		t.Fatalf("%s: magic %#x", path, magic)
	}
	m.u32() // version
	m.u64() // tensors
	values := map[string]any{}
	for n := m.u64(); n > 0 && m.err == nil; n-- {
		key := m.str()
		values[key] = m.value(m.u32())
	}
	if m.err != nil {
		t.Fatalf("%s: %v", path, m.err)
	}
	return vocabOf(values)
}

func vocabOf(kv map[string]any) GGUFVocab {
	const p = "tokenizer.ggml."
	id := func(key string) int32 {
		if v, ok := kv[p+key].(uint32); ok {
			return int32(v)
		}
		return -1
	}
	flag := func(key string) *bool {
		if v, ok := kv[p+key].(bool); ok {
			return &v
		}
		return nil
	}
	v := GGUFVocab{BOS: id("bos_token_id"), EOS: id("eos_token_id"), UNK: id("unknown_token_id"),
		PAD: id("padding_token_id"), EOT: id("eot_token_id"), AddBOS: flag("add_bos_token"),
		AddEOS: flag("add_eos_token"), AddSpacePrefix: flag("add_space_prefix")}
	v.Model, _ = kv[p+"model"].(string)
	v.Pre, _ = kv[p+"pre"].(string)
	v.Tokens, _ = kv[p+"tokens"].([]string)
	v.Merges, _ = kv[p+"merges"].([]string)
	v.Scores, _ = kv[p+"scores"].([]float32)
	v.Types, _ = kv[p+"token_type"].([]int32)
	return v
}

func (m *ggufMeta) read(v any) {
	if m.err == nil {
		m.err = binary.Read(m.r, binary.LittleEndian, v)
	}
}

func (m *ggufMeta) u32() (v uint32) { m.read(&v); return v }
func (m *ggufMeta) u64() (v uint64) { m.read(&v); return v }

func (m *ggufMeta) str() string {
	n := m.u64()
	if m.err != nil || n > 1<<24 {
		m.err = fmt.Errorf("string of %d bytes: %v", n, m.err)
		return ""
	}
	b := make([]byte, n)
	m.read(b)
	return string(b)
}

// value reads a value; of arrays only those of the types that a vocabulary has.
func (m *ggufMeta) value(kind uint32) any {
	switch kind {
	case 4:
		return m.u32()
	case 7:
		var b bool
		m.read(&b)
		return b
	case 8:
		return m.str()
	case 9:
		return m.array(m.u32(), int(m.u64()))
	}
	sizes := map[uint32]int{0: 1, 1: 1, 2: 2, 3: 2, 5: 4, 6: 4, 10: 8, 11: 8, 12: 8}
	m.read(make([]byte, sizes[kind]))
	return nil
}

func (m *ggufMeta) array(kind uint32, n int) any {
	switch kind {
	case 5:
		v := make([]int32, n)
		m.read(v)
		return v
	case 6:
		v := make([]float32, n)
		m.read(v)
		return v
	case 8:
		v := make([]string, n)
		for i := range v {
			v[i] = m.str()
		}
		return v
	}
	for range n {
		m.value(kind)
	}
	return nil
}
