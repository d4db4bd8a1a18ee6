package quant

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goldenDir = "../../tests/testdata/quant"

// decodable are the formats that Decode knows.
var decodable = []Type{
	F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4NL, IQ4XS,
	MXFP4,
}

type golden struct {
	Type         string
	TypeID       uint32 `json:"type_id"`
	BlockWeights int    `json:"block_weights"`
	BlockBytes   int    `json:"block_bytes"`
	Dequantize   struct{ Bytes, Values []byte }
	Quantize     *struct{ Bytes, Values, Back []byte }
}

func readGolden(t *testing.T, typ Type) golden {
	t.Helper()
	name := filepath.Join(goldenDir, strings.ToLower(typ.String())+".json")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if g.TypeID != uint32(typ) || g.BlockWeights != typ.BlockSize() ||
		g.BlockBytes != typ.BlockBytes() {
		t.Fatalf("%s: type %d, %d weights in %d bytes; the table has %d, %d, %d", name, g.TypeID,
			g.BlockWeights, g.BlockBytes, typ, typ.BlockSize(), typ.BlockBytes())
	}
	return g
}

func floats(b []byte) []float32 {
	f := make([]float32, len(b)/4)
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return f
}

func TestDecodeIsBitEqualToGGUF(t *testing.T) {
	for _, typ := range decodable {
		if typ == F32 {
			continue // the identity; TestEncodeDecodeF32 has it
		}
		t.Run(typ.String(), func(t *testing.T) {
			g := readGolden(t, typ)
			want := floats(g.Dequantize.Values)
			got := make([]float32, len(want))
			// An odd address: Decode must not assume alignment.
			src := append([]byte{0}, g.Dequantize.Bytes...)[1:]
			if err := Decode(typ, got, src); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
					t.Fatalf("element %d (block %d): got %v, want %v", i, i/typ.BlockSize(),
						got[i], want[i])
				}
			}
		})
	}
}

func TestEncodeHasTheBytesOfGGUF(t *testing.T) {
	for _, typ := range []Type{F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4} {
		t.Run(typ.String(), func(t *testing.T) {
			g := readGolden(t, typ)
			if g.Quantize == nil {
				t.Fatal("no quantize section")
			}
			got := make([]byte, len(g.Quantize.Bytes))
			if err := Encode(typ, got, floats(g.Quantize.Values)); err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if got[i] != g.Quantize.Bytes[i] {
					t.Fatalf("byte %d (block %d): got %#x, want %#x", i, i/typ.BlockBytes(),
						got[i], g.Quantize.Bytes[i])
				}
			}
			back := make([]float32, len(g.Quantize.Back)/4)
			if err := Decode(typ, back, got); err != nil {
				t.Fatal(err)
			}
			for i, want := range floats(g.Quantize.Back) {
				if math.Float32bits(back[i]) != math.Float32bits(want) {
					t.Fatalf("read back, element %d: got %v, want %v", i, back[i], want)
				}
			}
		})
	}
}

func TestEncodeDecodeF32(t *testing.T) {
	src := []float32{0, 1, -2.5, float32(math.Inf(-1)), math.SmallestNonzeroFloat32}
	b, back := make([]byte, 4*len(src)), make([]float32, len(src))
	if err := errors.Join(Encode(F32, b, src), Decode(F32, back, b)); err != nil {
		t.Fatal(err)
	}
	for i := range src {
		if back[i] != src[i] {
			t.Fatalf("got %v, want %v", back, src)
		}
	}
}

// The relative rms errors of gaussian weights are measured and the bounds lie 5 to 10 % above. For
// scale they are to be read beside the ideal uniform quantiser's step/sqrt(12).
func TestEncodeErrorIsSmall(t *testing.T) {
	bounds := []struct {
		typ  Type
		most float64
	}{{Q8_0, 0.0058}, {Q4_0, 0.090}, {Q4_1, 0.081}, {Q5_0, 0.044}, {Q5_1, 0.039}, {Q2_K, 0.28},
		{Q3_K, 0.155}, {Q4_K, 0.076}, {Q5_K, 0.038}, {Q6_K, 0.0185}, {IQ4NL, 0.078}, {IQ4XS, 0.079},
		{MXFP4, 0.12}}
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, 64*256)
	for i := range x {
		x[i] = float32(rng.NormFloat64()) * 0.02
	}
	for _, c := range bounds {
		got := roundTrip(t, c.typ, x)
		t.Logf("%v: %.5f", c.typ, got)
		if !(got < c.most) {
			t.Errorf("%v: relative rms error %.5f, at most %.5f", c.typ, got, c.most)
		}
	}
}

func roundTrip(t *testing.T, typ Type, x []float32) float64 {
	t.Helper()
	size, ok := typ.RowBytes(int64(len(x)))
	if !ok {
		t.Fatalf("%v does not divide %d", typ, len(x))
	}
	b, back := make([]byte, size), make([]float32, len(x))
	if err := errors.Join(Encode(typ, b, x), Decode(typ, back, b)); err != nil {
		t.Fatal(err)
	}
	var e2, x2 float64
	for i := range x {
		e := float64(back[i]) - float64(x[i])
		e2, x2 = e2+e*e, x2+float64(x[i])*float64(x[i])
	}
	return math.Sqrt(e2 / x2)
}

func TestEncodeKeepsWhatTheFormatCanHold(t *testing.T) {
	for _, typ := range decodable[3:] {
		x := make([]float32, 256)
		b, back := make([]byte, 256/typ.BlockSize()*typ.BlockBytes()), make([]float32, 256)
		if err := errors.Join(Encode(typ, b, x), Decode(typ, back, b)); err != nil {
			t.Fatal(err)
		}
		for i, v := range back {
			if v != 0 {
				t.Fatalf("%v: zero block, element %d is %v", typ, i, v)
			}
		}
		// Numbers so small that their scale has no inverse come back as nearly zero.
		for i := range x {
			x[i] = math.Float32frombits(uint32(i) | uint32(i)<<31)
		}
		if err := errors.Join(Encode(typ, b, x), Decode(typ, back, b)); err != nil {
			t.Fatal(err)
		}
		for i, v := range back {
			if !(math.Abs(float64(v)) < 1e-37) {
				t.Fatalf("%v: element %d of %v is %v", typ, i, x[i], v)
			}
		}
		// One-sided and constant blocks: no sign may be lost, and a single value is nearly exact.
		for _, c := range []float32{0.5, -0.5} {
			for i := range x {
				x[i] = c
			}
			if e := roundTrip(t, typ, x); e > 0.02 {
				t.Errorf("%v: constant %v comes back with relative error %v", typ, c, e)
			}
		}
	}
}

func TestEncodeRefusesValuesOutOfRange(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, typ := range decodable[3:] {
		b := make([]byte, 256/typ.BlockSize()*typ.BlockBytes())
		for _, v := range []float32{nan, inf, -inf, 3e38, -3e38} {
			if typ == MXFP4 && math.Abs(float64(v)) < math.MaxFloat32 {
				continue // whose scale has the exponents of float32
			}
			x := make([]float32, 256)
			x[7] = v
			if err := Encode(typ, b, x); !errors.Is(err, ErrRange) {
				t.Errorf("%v of %v: got %v, want ErrRange", typ, v, err)
			}
		}
	}
}

func TestWrongLengthsAndTypesAreErrors(t *testing.T) {
	for _, typ := range decodable {
		n, size := typ.BlockSize(), typ.BlockBytes()
		for _, c := range []struct{ elements, bytes int }{
			{n, size - 1}, {n, size + 1}, {n - 1, size}, {n + 1, size}, {2 * n, size}, {0, size},
			{n, 0},
		} {
			err := Decode(typ, make([]float32, c.elements), make([]byte, c.bytes))
			if !errors.Is(err, ErrLength) {
				t.Errorf("decode %v, %d elements, %d bytes: %v", typ, c.elements, c.bytes, err)
			}
			err = Encode(typ, make([]byte, c.bytes), make([]float32, c.elements))
			if typ.CanEncode() && !errors.Is(err, ErrLength) {
				t.Errorf("encode %v, %d elements, %d bytes: %v", typ, c.elements, c.bytes, err)
			}
		}
		if err := Decode(typ, nil, nil); err != nil {
			t.Errorf("decode %v of nothing: %v", typ, err)
		}
	}
	for _, typ := range []Type{I8, I64, F64, 4, 40, 1 << 31} {
		err := Decode(typ, nil, nil)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), typ.String()) {
			t.Errorf("decode %v: %v", typ, err)
		}
	}
	for _, typ := range []Type{I8, I64, F64, 99} {
		err := Encode(typ, nil, nil)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), typ.String()) {
			t.Errorf("encode %v: %v", typ, err)
		}
	}
}

// halfValue is the definition: sign, 5-bit exponent with bias 15, 10-bit fraction.
func halfValue(h uint16) float64 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	exp, frac := int(h>>10&31), float64(h&0x3FF)/1024
	switch {
	case exp == 0:
		return sign * frac * math.Pow(2, -14)
	case exp == 31 && frac == 0:
		return math.Inf(int(sign))
	case exp == 31:
		return math.NaN()
	}
	return sign * (1 + frac) * math.Pow(2, float64(exp-15))
}

func TestEveryHalfConvertsExactlyAndBack(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		f, want := F16ToF32(h), halfValue(h)
		if math.IsNaN(want) {
			if f == f || F16ToF32(F32ToF16(f)) == F16ToF32(F32ToF16(f)) {
				t.Fatalf("%#04x: got %v, want NaN", h, f)
			}
			continue
		}
		if float64(f) != want || math.Signbit(float64(f)) != (h>>15 == 1) {
			t.Fatalf("%#04x: got %v, want %v", h, f, want)
		}
		if back := F32ToF16(f); back != h {
			t.Fatalf("%#04x -> %v -> %#04x", h, f, back)
		}
	}
}

// Between each two neighbouring halves: the middle goes to the even one, and what is next to the
// middle on either side to the nearer.
func TestHalfRoundingIsToNearestEven(t *testing.T) {
	for h := uint16(0); h < 0x7C00; h++ {
		low := float64(F16ToF32(h))
		high := 65536.0 // where infinity stands in the order
		if h+1 < 0x7C00 {
			high = float64(F16ToF32(h + 1))
		}
		middle := float32((low + high) / 2)
		even := h + h&1
		for _, c := range []struct {
			f    float32
			want uint16
		}{
			{math.Nextafter32(middle, 0), h}, {middle, even},
			{math.Nextafter32(middle, math.MaxFloat32), h + 1},
		} {
			if got := F32ToF16(c.f); got != c.want {
				t.Fatalf("%v: got %#04x, want %#04x", c.f, got, c.want)
			}
			if got := F32ToF16(-c.f); got != c.want|0x8000 {
				t.Fatalf("%v: got %#04x, want %#04x", -c.f, got, c.want|0x8000)
			}
		}
	}
	for _, f := range []float32{65520, 1e6, math.MaxFloat32, float32(math.Inf(1))} {
		if got := F32ToF16(f); got != 0x7C00 {
			t.Errorf("%v: got %#04x, want infinity", f, got)
		}
	}
}

func TestBrainFloatsConvertExactlyAndRoundToEven(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		f := BF16ToF32(h)
		if f != f {
			if g := BF16ToF32(F32ToBF16(f)); g == g {
				t.Fatalf("%#04x: a NaN became %v", h, g)
			}
			continue
		}
		if math.Float32bits(f) != uint32(h)<<16 || F32ToBF16(f) != h {
			t.Fatalf("%#04x -> %v -> %#04x", h, f, F32ToBF16(f))
		}
		if h&0x7FFF >= 0x7F80 {
			continue
		}
		bits := uint32(h) << 16
		for _, c := range []struct {
			add  uint32
			want uint16
		}{{0x7FFF, h}, {0x8000, h + h&1}, {0x8001, h + 1}} {
			if got := F32ToBF16(math.Float32frombits(bits + c.add)); got != c.want {
				t.Fatalf("%#08x: got %#04x, want %#04x", bits+c.add, got, c.want)
			}
		}
	}
}

func TestTypeNamesParseBack(t *testing.T) {
	for typ := range Type(64) {
		if !typ.Known() {
			continue
		}
		if got, ok := ParseType(typ.String()); !ok || got != typ {
			t.Errorf("%v parses as %v, %v", typ, got, ok)
		}
	}
}

// FuzzDecode: any bytes decode without a fault, to the same values at every alignment; and what an
// encoder makes of finite values, it makes again of its own output's F16, BF16 and F32.
func FuzzDecode(f *testing.F) {
	f.Add(uint32(Q4_K), []byte("seed"))
	raw, _ := base64.StdEncoding.DecodeString("TCIAAAAAAAAAAAAAAAAAAAAATCL//w==")
	f.Add(uint32(Q4_0), raw)
	f.Fuzz(func(t *testing.T, typ uint32, src []byte) {
		kind := Type(typ)
		if !kind.CanDecode() {
			if Decode(kind, nil, nil) == nil {
				t.Fatalf("%v decodes", kind)
			}
			return
		}
		blocks := len(src) / kind.BlockBytes()
		src = src[:blocks*kind.BlockBytes()]
		a, b := make([]float32, blocks*kind.BlockSize()), make([]float32, blocks*kind.BlockSize())
		moved := append([]byte{1}, src...)[1:]
		if err := errors.Join(Decode(kind, a, src), Decode(kind, b, moved)); err != nil {
			t.Fatal(err)
		}
		for i := range a {
			if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
				t.Fatalf("element %d: %v and %v", i, a[i], b[i])
			}
		}
		if kind == F32 || kind == BF16 {
			again := make([]byte, len(src))
			if err := Encode(kind, again, a); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(src, again) && !hasNaN(a) {
				t.Fatalf("%v: % x encodes back as % x", kind, src, again)
			}
		}
	})
}

func hasNaN(x []float32) bool {
	for _, v := range x {
		if v != v {
			return true
		}
	}
	return false
}

func BenchmarkEncode(b *testing.B) {
	x := make([]float32, 1<<16)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	for _, typ := range decodable[3:] {
		b.Run(typ.String(), func(b *testing.B) {
			size, _ := typ.RowBytes(int64(len(x)))
			out := make([]byte, size)
			b.SetBytes(size)
			for b.Loop() {
				if err := Encode(typ, out, x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	out := make([]float32, 1<<16)
	for _, typ := range decodable {
		b.Run(typ.String(), func(b *testing.B) {
			size, _ := typ.RowBytes(int64(len(out)))
			src := make([]byte, size)
			b.SetBytes(size)
			for b.Loop() {
				if err := Decode(typ, out, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
