package store

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// headerBytes is where the data of a file begins: all before it is header.
func headerBytes(p part) int {
	first := int64(math.MaxInt64)
	for _, tensor := range p.tensors {
		first = min(first, tensor.Offset)
	}
	return int(first)
}

// TestEveryTruncationIsAnError cuts small files at every byte.
func TestEveryTruncationIsAnError(t *testing.T) {
	for _, name := range []string{"v2.gguf", "v3.gguf", "aligned.gguf", "split-00002-of-00003.gguf",
		"hf-single/model.safetensors"} {
		whole, parse := readTestdata(t, name), parseGGUF
		if strings.HasSuffix(name, safetensorsExt) {
			parse = parseSafetensors
		}
		p, err := parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		last := p.tensors[len(p.tensors)-1]
		end := int(last.Offset + last.Size) // padding may follow
		for n := range end {
			p, err := parse(whole[:n])
			if err == nil {
				t.Fatalf("%s: %d of %d bytes are read without an error", name, n, end)
			}
			checkOutcome(t, p, err, n)
		}
	}
}

// TestEveryFlippedBitIsAnErrorOrWellFormed flips every bit of the headers of small files.
func TestEveryFlippedBitIsAnErrorOrWellFormed(t *testing.T) {
	for _, name := range []string{"v3.gguf", "split-00001-of-00003.gguf",
		"hf-single/model.safetensors"} {
		whole, parse := readTestdata(t, name), parseGGUF
		if strings.HasSuffix(name, safetensorsExt) {
			parse = parseSafetensors
		}
		p, err := parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for bit := range 8 * headerBytes(p) {
			whole[bit/8] ^= 1 << (bit % 8)
			p, err := parse(whole)
			whole[bit/8] ^= 1 << (bit % 8)
			checkOutcome(t, p, err, len(whole))
			if err != nil {
				refused++
			}
		}
		if refused == 0 {
			t.Errorf("%s: not one flipped bit was found", name)
		}
	}
}

const huge = 1 << 63

// absurdGGUF are headers that are wrong in one way each.
func absurdGGUF() map[string]struct {
	bytes []byte
	kind  error
	words string
} {
	type c = struct {
		bytes []byte
		kind  error
		words string
	}
	kv := func(key string, kind Kind) *raw { return header(3, 0, 1).str(key).u32(uint32(kind)) }
	nested := kv("k", KindArray)
	for range ggufDepthMax + 1 {
		nested.u32(uint32(KindArray)).u64(1)
	}
	return map[string]c{
		"empty":              {nil, ErrFormat, "at byte 0"},
		"other magic":        {[]byte("PK\x03\x04........"), ErrFormat, "not a GGUF file"},
		"version 1":          {header(1, 0, 0).bytes(), ErrUnsupported, "version 1"},
		"version 4":          {header(4, 0, 0).bytes(), ErrUnsupported, "version 4"},
		"big-endian":         {header(3<<24, 0, 0).bytes(), ErrUnsupported, "big-endian"},
		"tensors 2^63":       {header(3, huge, 0).bytes(), ErrFormat, "number of tensors"},
		"keys 2^63":          {header(3, 0, huge).bytes(), ErrFormat, "number of metadata keys"},
		"keys beyond file":   {header(3, 0, 9).fill(40).bytes(), ErrFormat, "only 40 bytes remain"},
		"key 2^63":           {header(3, 0, 1).u64(huge).fill(99).bytes(), ErrFormat, "at byte 24"},
		"empty key":          {header(3, 0, 1).str("").fill(99).bytes(), ErrFormat, "empty"},
		"string 2^63":        {kv("k", KindString).u64(huge).bytes(), ErrFormat, `"k"`},
		"string beyond file": {kv("k", KindString).u64(9).bytes(), ErrFormat, "needs 9 bytes"},
		"value type 13":      {kv("k", 13).fill(9).bytes(), ErrFormat, "value type 13"},
		"bool 2":             {append(kv("k", KindBool).bytes(), 2), ErrFormat, "bool of value 2"},
		"array 2^63": {kv("k", KindArray).u32(uint32(KindUint8)).u64(huge).bytes(), ErrFormat,
			"number of elements"},
		"array of type 99": {kv("k", KindArray).u32(99).u64(1).fill(9).bytes(), ErrFormat,
			"element type 99"},
		"array too deep": {nested.fill(99).bytes(), ErrFormat, "nested"},
		"key twice": {header(3, 0, 2).str("k").u32(4).u32(1).str("k").u32(4).u32(1).bytes(),
			ErrFormat, "twice"},
		"alignment 0": {kv(ggufAlignmentKey, KindUint32).u32(0).bytes(), ErrFormat, "alignment is 0"},
		"alignment 24": {kv(ggufAlignmentKey, KindUint32).u32(24).bytes(), ErrFormat,
			"alignment is 24"},
		"alignment 2^31": {kv(ggufAlignmentKey, KindUint32).u32(1 << 31).bytes(), ErrFormat,
			"power of two"},
		"alignment a string": {kv(ggufAlignmentKey, KindString).str("32").bytes(), ErrFormat,
			"not an integer"},
		"name 2^63":     {header(3, 1, 0).u64(huge).fill(99).bytes(), ErrFormat, "tensor name"},
		"name too long": {header(3, 1, 0).u64(1025).fill(2000).bytes(), ErrFormat, "limit of 1024"},
		"no name":       {header(3, 1, 0).tensor("", 0, 0, 1).data(4).bytes(), ErrFormat, "empty"},
		"five dims": {header(3, 1, 0).tensor("t", 0, 0, 1, 1, 1, 1, 1).data(4).bytes(), ErrFormat,
			"5 dims"},
		"2^32-1 dims": {header(3, 1, 0).str("t").u32(1<<32 - 1).fill(99).bytes(), ErrFormat, "dims"},
		"dim 0":       {header(3, 1, 0).tensor("t", 0, 0, 0).data(4).bytes(), ErrFormat, "dim 0 is 0"},
		"dim 2^63":    {header(3, 1, 0).tensor("t", 0, 0, huge).data(4).bytes(), ErrFormat, `"t"`},
		"elements overflow": {header(3, 1, 0).tensor("t", 0, 0, 1<<32, 1<<32).data(4).bytes(),
			ErrFormat, "more elements"},
		"bytes overflow": {header(3, 1, 0).tensor("t", 0, 0, 1<<62).data(4).bytes(), ErrFormat,
			"more bytes"},
		"half a block": {header(3, 1, 0).tensor("t", 8, 0, 16, 2).data(34).bytes(), ErrFormat,
			"whole number of Q8_0 blocks"},
		"type 99": {header(3, 1, 0).tensor("t", 99, 0, 1).data(4).bytes(), ErrUnsupported,
			"type number 99"},
		"removed type 4": {header(3, 1, 0).tensor("t", 4, 0, 32).data(40).bytes(), ErrUnsupported,
			"type number 4"},
		"offset 2^63": {header(3, 1, 0).tensor("t", 0, huge, 1).data(4).bytes(), ErrFormat, "offset"},
		"offset 2^63-32": {header(3, 1, 0).tensor("t", 0, huge-32, 1).data(4).bytes(), ErrFormat,
			"past the end"},
		"misaligned": {header(3, 1, 0).tensor("t", 0, 4, 1).data(8).bytes(), ErrFormat,
			"not a multiple of the alignment"},
		"one byte short": {header(3, 1, 0).tensor("t", 0, 0, 2).data(7).bytes(), ErrFormat,
			"past the end"},
		"tensor twice": {header(3, 2, 0).tensor("t", 0, 0, 1).tensor("t", 0, 32, 1).data(36).bytes(),
			ErrFormat, "twice"},
		"overlap": {header(3, 2, 0).tensor("a", 0, 32, 1).tensor("b", 0, 0, 9).data(64).bytes(),
			ErrFormat, `overlaps tensor "b"`},
		"same place": {header(3, 2, 0).tensor("a", 0, 0, 1).tensor("b", 0, 0, 1).data(64).bytes(),
			ErrFormat, "overlaps"},
	}
}

func TestAbsurdGGUFHeaders(t *testing.T) {
	for name, c := range absurdGGUF() {
		t.Run(name, func(t *testing.T) {
			_, err := parseGGUF(c.bytes)
			wantError(t, err, c.kind, "x.gguf", c.words)
		})
	}
	good := header(2, 2, 0).tensor("a", 0, 64, 1).tensor("b", 0, 0, 9).data(68).bytes()
	if _, err := parseGGUF(good); err != nil {
		t.Errorf("the good header that the bad ones vary: %v", err)
	}
}

// absurdSafetensors are headers that are wrong in one way each.
func absurdSafetensors() map[string]struct {
	bytes []byte
	words string
} {
	type c = struct {
		bytes []byte
		words string
	}
	one := func(fields string, n int) []byte { return withLength(`{"t":{`+fields+`}}`, n) }
	two := func(a, b string, n int) []byte {
		f := `{"a":{"dtype":"U8","shape":[4],"data_offsets":%s},` +
			`"b":{"dtype":"U8","shape":[4],"data_offsets":%s}}`
		return withLength(fmt.Sprintf(f, a, b), n)
	}
	return map[string]c{
		"empty":         {nil, "too few"},
		"length 2^63":   {(&raw{}).u64(huge).fill(99).bytes(), "limit of 100000000"},
		"length of all": {(&raw{}).u64(100).fill(99).bytes(), "only 99 remain"},
		"length 0":      {(&raw{}).u64(0).fill(9).bytes(), "begin"},
		"no brace":      {withLength(` {}`, 0), "begin"},
		"no JSON":       {withLength(`{"t":`, 0), "not JSON"},
		"no UTF-8":      {withLength("{\"\xff\":1}", 0), "not UTF-8"},
		"text behind":   {withLength(`{}{}`, 0), "not JSON"},
		"list":          {withLength(`{"t":[]}`, 0), "an object"},
		"name twice": {withLength(`{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},`+
			`"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "twice"},
		"name twice, escaped": {withLength(`{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},`+
			`"\u0074":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "twice"},
		"field twice": {one(`"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]`, 1), "twice"},
		"more fields": {one(`"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1`, 1), "unknown field"},
		"no dtype":    {one(`"shape":[1],"data_offsets":[0,1]`, 1), "dtype, shape"},
		"no shape":    {one(`"dtype":"U8","data_offsets":[0,1]`, 1), "dtype, shape"},
		"one offset":  {one(`"dtype":"U8","shape":[1],"data_offsets":[0]`, 1), "data_offsets"},
		"three offsets": {one(`"dtype":"U8","shape":[1],"data_offsets":[0,1,1]`, 1),
			"more than 2"},
		"fraction":   {one(`"dtype":"U8","shape":[1.0],"data_offsets":[0,1]`, 1), "not an integer"},
		"negative":   {one(`"dtype":"U8","shape":[-1],"data_offsets":[0,1]`, 1), "not an integer"},
		"minus zero": {one(`"dtype":"U8","shape":[-0],"data_offsets":[0,0]`, 0), "not an integer"},
		"2^63": {one(`"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]`, 1),
			"2^63"},
		"nine dims": {one(`"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]`, 1), "8"},
		"overflow": {one(`"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]`, 1),
			"63 bits"},
		"wrong size":      {one(`"dtype":"F32","shape":[1],"data_offsets":[0,2]`, 2), "takes 4 bytes"},
		"odd F4":          {one(`"dtype":"F4","shape":[3],"data_offsets":[0,2]`, 2), "whole number"},
		"backwards":       {one(`"dtype":"U8","shape":[1],"data_offsets":[1,0]`, 1), "end before"},
		"past the end":    {one(`"dtype":"U8","shape":[2],"data_offsets":[0,2]`, 1), "past the end"},
		"text shape":      {one(`"dtype":"U8","shape":"1","data_offsets":[0,1]`, 1), "an array"},
		"metadata number": {withLength(`{"__metadata__":{"a":1}}`, 0), "a string"},
		"hole at start":   {two("[1,5]", "[5,9]", 9), "hole"},
		"hole":            {two("[0,4]", "[5,9]", 9), "hole"},
		"overlap":         {two("[0,4]", "[3,7]", 7), "overlaps"},
		"same place":      {two("[0,4]", "[0,4]", 4), "overlaps"},
		"hole at end":     {two("[0,4]", "[4,8]", 9), "end here"},
		"offset 2^63-5": {one(`"dtype":"U8","shape":[4],`+
			`"data_offsets":[9223372036854775803,9223372036854775807]`, 4), "hole"},
	}
}

func TestAbsurdSafetensorsHeaders(t *testing.T) {
	for name, c := range absurdSafetensors() {
		t.Run(name, func(t *testing.T) {
			_, err := parseSafetensors(c.bytes)
			wantError(t, err, ErrFormat, "x.safetensors", c.words)
		})
	}
	_, err := parseSafetensors(withLength(
		`{"t":{"dtype":"Q99","shape":[1],"data_offsets":[0,1]}}`, 1))
	wantError(t, err, ErrUnsupported, "x.safetensors", `"t"`, `"Q99"`)
	good := `{"b":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]},` +
		`"e":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},` +
		`"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[],"data_offsets":[4,6]}}  `
	p, err := parseSafetensors(withLength(good, 6))
	if err != nil {
		t.Fatal(err)
	}
	if b := p.tensors[0]; b.DType != "F8_E4M3" || b.Type != NoType || b.Size != 4 {
		t.Errorf("F8_E4M3 is listed as %+v", b)
	}
}

// TestClaimsTakeNoMemory gives small files that claim to be large. What is allocated is bounded by
// the read-ahead buffer and small change.
func TestClaimsTakeNoMemory(t *testing.T) {
	const allocatedMax = 256 << 10
	claims := [][]byte{
		header(3, 1, 0).tensor("t", 0, 0, 1<<60).fill(35).bytes(),
		header(3, 1<<60, 1<<60).fill(76).bytes(),
		header(3, 0, 1).str("k").u32(uint32(KindString)).u64(1 << 60).fill(55).bytes(),
		header(3, 0, 1).str("k").u32(uint32(KindArray)).u32(0).u64(1 << 60).fill(51).bytes(),
		header(3, 0, 1).str("k").u32(uint32(KindArray)).u32(9).u64(1 << 60).fill(51).bytes(),
		(&raw{}).u64(1 << 60).fill(92).bytes(),
		(&raw{}).u64(99_999_999).fill(92).bytes(),
		withLength(`{"t":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}`, 20),
	}
	for i, claim := range claims {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, errGGUF := parseGGUF(claim)
		_, errSafetensors := parseSafetensors(claim)
		runtime.ReadMemStats(&after)
		if errGGUF == nil || errSafetensors == nil {
			t.Errorf("claim %d is believed", i)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > allocatedMax {
			t.Errorf("claim %d took %d bytes, want at most %d", i, got, allocatedMax)
		}
	}
}

// TestSparseFilesTakeNoMemory claims arrays within a large file that is all hole: one longer than
// a header may be, and one that fits but is wrong in its first element, for which no memory may
// have been taken by then.
func TestSparseFilesTakeNoMemory(t *testing.T) {
	const allocatedMax = 1 << 20
	for count, words := range map[uint64]string{1 << 30: "number of elements", 1 << 24: "limit"} {
		path := filepath.Join(t.TempDir(), "sparse.gguf")
		start := header(3, 0, 1).str("k").u32(uint32(KindArray)).u32(uint32(KindString))
		write(t, path, start.u64(count).u64(1<<60).bytes())
		must(t, os.Truncate(path, 1<<40))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Open(path)
		runtime.ReadMemStats(&after)
		wantError(t, err, ErrFormat, path, words)
		if got := after.TotalAlloc - before.TotalAlloc; got > allocatedMax {
			t.Errorf("%d elements took %d bytes, want at most %d", count, got, allocatedMax)
		}
	}
}

// TestReadErrorIsNotAFormatError tells a failing disk from a damaged file.
func TestReadErrorIsNotAFormatError(t *testing.T) {
	whole := readTestdata(t, "v3.gguf")
	r := failingReader{bytes.NewReader(whole)}
	_, err := readGGUF(r, File{Path: "x.gguf", Size: int64(len(whole))})
	wantError(t, err, ErrIO, "x.gguf", os.ErrDeadlineExceeded.Error())
	_, err = readSafetensors(r, File{Path: "x.safetensors", Size: int64(len(whole))})
	wantError(t, err, ErrIO, "x.safetensors", os.ErrDeadlineExceeded.Error())
}

type failingReader struct{ *bytes.Reader }

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, os.ErrDeadlineExceeded }
