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

// CanEncode reports whether Encode knows the format.
func (t Type) CanEncode() bool {
	switch t {
	case F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K:
		return true
	}
	return false
}

// Encode writes src to dst in the given format: F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K. Src
// holds whole blocks, and dst exactly their bytes. F16, BF16, Q8_0 and Q4_0 have the bytes of the
// gguf Python package; the K formats choose scales by a search of least squared error in each
// sub-block (encode_k.go). Encode keeps no state, and is safe for concurrent use.
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
	case Q4_K:
		return encodeQ4_K
	case Q5_K:
		return encodeQ5_K
	case Q6_K:
		return encodeQ6_K
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

func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
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
