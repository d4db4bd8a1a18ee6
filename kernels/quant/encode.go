package quant

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrRange is wrapped by the errors of Encode for values that a block format cannot hold: NaN,
// infinities, and magnitudes whose scale exceeds half precision.
var ErrRange = errors.New("value outside the range of the format")

// scaleMax bounds the magnitude of a block scale: the largest finite half-precision number.
const scaleMax = 65504

// CanEncode reports whether Encode knows the format: all that Decode knows.
func (t Type) CanEncode() bool { return t.CanDecode() }

// Encode writes src to dst in the given format. Src holds whole blocks, and dst exactly their
// bytes. F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and MXFP4 have the bytes of the gguf Python
// package (but that it rounds the logarithm of a maximum just below a power of two up, and MXFP4
// then has twice the scale). The K and IQ4 formats choose scales by a search of least squared
// error in each sub-block (encode_k.go, encode_iq4.go). Encode keeps no state, and is safe for
// concurrent use.
//
// Errors wrap ErrUnsupported, ErrLength or ErrRange; after ErrRange dst is partly written.
func Encode(t Type, dst []byte, src []float32) error {
	if !t.CanEncode() {
		return fmt.Errorf("encode %v: %w", t, ErrUnsupported)
	}
	if err := checkLengths(t, len(src), len(dst)); err != nil {
		return fmt.Errorf("encode %v: %w", t, err)
	}
	switch t {
	case F32:
		for i, v := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
		return nil
	case F16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToF16(v))
		}
		return nil
	case BF16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToBF16(v))
		}
		return nil
	}
	encode := blockEncoder(t)
	elements, bytes := t.BlockSize(), t.BlockBytes()
	for block := 0; len(src) > 0; block++ {
		if !encode(dst[:bytes], src[:elements]) {
			return fmt.Errorf("encode %v: block %d: %w", t, block, ErrRange)
		}
		dst, src = dst[bytes:], src[elements:]
	}
	return nil
}

// blockEncoder returns the encoder of one block, which reports false for values out of range.
func blockEncoder(t Type) func(b []byte, x []float32) bool {
	switch t {
	case Q4_0:
		return encodeQ4_0
	case Q4_1:
		return encodeQ4_1
	case Q5_0:
		return encodeQ5_0
	case Q5_1:
		return encodeQ5_1
	case Q2_K:
		return encodeQ2_K
	case Q3_K:
		return encodeQ3_K
	case Q4_K:
		return encodeQ4_K
	case Q5_K:
		return encodeQ5_K
	case Q6_K:
		return encodeQ6_K
	case IQ4NL:
		return encodeIQ4NL
	case IQ4XS:
		return encodeIQ4XS
	case MXFP4:
		return encodeMXFP4
	}
	return encodeQ8_0
}

// largest returns the value of largest magnitude, the first among equals, and whether all values
// are finite.
func largest(x []float32) (value float32, finite bool) {
	const infinity = 0x7F800000
	var top uint32 // magnitudes order as their bits do, with NaNs above infinity
	for _, v := range x {
		if a := math.Float32bits(v) &^ (1 << 31); a > top {
			top, value = a, v
		}
	}
	return value, top < infinity
}

// inverse returns 1/d; 0 where that is infinite, as values then are of no size that counts.
func inverse(d float32) float32 {
	if id := 1 / d; id <= math.MaxFloat32 && id >= -math.MaxFloat32 {
		return id
	}
	return 0
}

// encodeQ4_0 maps the value of largest magnitude to code 0, so that it is exact whatever its sign.
func encodeQ4_0(b []byte, x []float32) bool {
	top, finite := largest(x)
	d := top / -8
	if !finite || d > scaleMax || d < -scaleMax {
		return false
	}
	id := inverse(d)
	binary.LittleEndian.PutUint16(b, F32ToF16(d))
	low, high, out := x[:16], x[16:32], b[2:18]
	for i := range out {
		out[i] = code4(low[i], id) | code4(high[i], id)<<4
	}
	return true
}

func code4(v, id float32) byte {
	q := int32(float32(v*id) + 8.5) // 0.5 .. 16.5
	return byte(min(max(q, 0), 15))
}

// encodeQ5_0 is encodeQ4_0 with one bit more.
func encodeQ5_0(b []byte, x []float32) bool {
	top, finite := largest(x)
	d := top / -16
	if !finite || d > scaleMax || d < -scaleMax {
		return false
	}
	id := inverse(d)
	binary.LittleEndian.PutUint16(b, F32ToF16(d))
	var codes [32]byte
	for i, v := range x[:32] {
		codes[i] = byte(min(max(int32(float32(v*id)+16.5), 0), 31))
	}
	packFifths(b[2:6], &codes)
	packPairs(b[6:22], &codes)
	return true
}

func encodeQ4_1(b []byte, x []float32) bool {
	var codes [32]byte
	if !encodeRange(b, &codes, x, 15) {
		return false
	}
	packPairs(b[4:20], &codes)
	return true
}

func encodeQ5_1(b []byte, x []float32) bool {
	var codes [32]byte
	if !encodeRange(b, &codes, x, 31) {
		return false
	}
	packFifths(b[4:8], &codes)
	packPairs(b[8:24], &codes)
	return true
}

// encodeRange divides the range of the values in top steps, writes step and least value, and
// returns the codes.
func encodeRange(b []byte, codes *[32]byte, x []float32, top float32) bool {
	low, high := x[0], x[0]
	for _, v := range x[1:32] {
		low, high = min(low, v), max(high, v)
	}
	d := (high - low) / top
	if _, finite := largest(x); !finite || !(d <= scaleMax) || low > scaleMax || low < -scaleMax {
		return false
	}
	id := inverse(d)
	binary.LittleEndian.PutUint16(b, F32ToF16(d))
	binary.LittleEndian.PutUint16(b[2:], F32ToF16(low))
	for i, v := range x[:32] {
		codes[i] = byte(min(float32(float32(v-low)*id)+0.5, top))
	}
	return true
}

// packPairs stores low nibbles, element i beside element 16+i.
func packPairs(b []byte, codes *[32]byte) {
	for i := range b[:16] {
		b[i] = codes[i]&15 | codes[16+i]<<4
	}
}

// packFifths stores fifth bits, bit i for element i.
func packFifths(b []byte, codes *[32]byte) {
	var high uint32
	for i, q := range codes {
		high |= uint32(q>>4) << i
	}
	binary.LittleEndian.PutUint32(b, high)
}

// encodeMXFP4 takes the largest power of two by which the value of largest magnitude is at least 4,
// as the OCP Microscaling specification does; what is above 6 of it is cut off. Values go to the
// nearest code, halfway to the smaller magnitude.
func encodeMXFP4(b []byte, x []float32) bool {
	top, finite := largest(x)
	if !finite {
		return false
	}
	b[0] = 0
	if top != 0 {
		_, exponent := math.Frexp(float64(top)) // |top| in 2^(exponent-1) .. 2^exponent
		b[0] = byte(min(max(exponent-1-2+127, 0), 254))
	}
	d := float32(math.Ldexp(1, int(b[0])-128))
	var codes [32]byte
	for i, v := range x[:32] {
		best := float32(math.Inf(1))
		for q, k := range kvaluesMXFP4 {
			e := float32(d*k) - v
			if e = max(e, -e); e < best {
				best, codes[i] = e, byte(q)
			}
		}
	}
	packPairs(b[1:17], &codes)
	return true
}

// encodeQ8_0 rounds halves away from zero, as ggml's reference does.
func encodeQ8_0(b []byte, x []float32) bool {
	top, finite := largest(x)
	d := math.Float32frombits(math.Float32bits(top)&^(1<<31)) / 127
	if !finite || d > scaleMax {
		return false
	}
	id := inverse(d)
	binary.LittleEndian.PutUint16(b, F32ToF16(d))
	x, out := x[:32], b[2:34]
	for i := range out {
		// In float64 the sum is exact, and positive: truncation is rounding. The code of a negative
		// value is that of its magnitude, negated.
		bits := math.Float32bits(x[i] * id)
		q := int32(float64(math.Float32frombits(bits&^(1<<31))) + 0.5)
		sign := int32(bits) >> 31
		out[i] = byte(q ^ sign - sign)
	}
	return true
}
