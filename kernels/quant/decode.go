package quant

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrUnsupported is wrapped by the errors of Decode and Encode for a format they do not know.
var ErrUnsupported = errors.New("unsupported storage format")

// ErrLength is wrapped by the errors of Decode and Encode for slices that are not the same whole
// number of blocks.
var ErrLength = errors.New("not the same whole number of blocks")

// kvaluesIQ4 are the sixteen values of the non-linear four-bit formats IQ4_NL and IQ4_XS.
var kvaluesIQ4 = [16]float32{
	-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
}

// kvaluesMXFP4 are the E2M1 numbers of the OCP Microscaling specification, doubled; the block
// scale is halved to match.
var kvaluesMXFP4 = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// CanDecode reports whether Decode knows the format: every floating-point and block format of this
// package except F64.
func (t Type) CanDecode() bool { return t.IsFloat() || t.IsQuantized() }

// Decode writes the float32 values of src to dst. Src holds whole blocks, at any alignment, and dst
// exactly their elements. Values are bit-equal to those of the gguf Python package: each product
// and sum is rounded to float32. Decode keeps no state, and is safe for concurrent use.
//
// Errors wrap ErrUnsupported or ErrLength; dst is then unchanged.
func Decode(t Type, dst []float32, src []byte) error {
	if !t.CanDecode() {
		return fmt.Errorf("decode %v: %w", t, ErrUnsupported)
	}
	if err := checkLengths(t, len(dst), len(src)); err != nil {
		return fmt.Errorf("decode %v: %w", t, err)
	}
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
		return nil
	case F16:
		for i := range dst {
			dst[i] = F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
		return nil
	case BF16:
		for i := range dst {
			dst[i] = BF16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
		return nil
	}
	decode := blockDecoder(t)
	elements, bytes := t.BlockSize(), t.BlockBytes()
	for len(src) > 0 {
		decode(dst[:elements], src[:bytes])
		dst, src = dst[elements:], src[bytes:]
	}
	return nil
}

func checkLengths(t Type, elements, bytes int) error {
	want, ok := t.RowBytes(int64(elements))
	if !ok || int64(bytes) != want {
		return fmt.Errorf("%d elements and %d bytes: %w of %d elements in %d bytes", elements,
			bytes, ErrLength, t.BlockSize(), t.BlockBytes())
	}
	return nil
}

func blockDecoder(t Type) func(y []float32, b []byte) {
	switch t {
	case Q4_0:
		return decodeQ4_0
	case Q4_1:
		return decodeQ4_1
	case Q5_0:
		return decodeQ5_0
	case Q5_1:
		return decodeQ5_1
	case Q8_0:
		return decodeQ8_0
	case Q2_K:
		return decodeQ2_K
	case Q3_K:
		return decodeQ3_K
	case Q4_K:
		return decodeQ4_K
	case Q5_K:
		return decodeQ5_K
	case Q6_K:
		return decodeQ6_K
	case IQ4NL:
		return decodeIQ4NL
	case IQ4XS:
		return decodeIQ4XS
	}
	return decodeMXFP4
}

func half(b []byte) float32 { return F16ToF32(binary.LittleEndian.Uint16(b)) }

// Q4_0: half d; 16 bytes, element i in the low nibble of byte i, element 16+i in the high one.
// Value d*(q-8).
func decodeQ4_0(y []float32, b []byte) {
	d, y := half(b), y[:32]
	for i, q := range b[2:18] {
		y[i] = d * float32(int(q&15)-8)
		y[16+i] = d * float32(int(q>>4)-8)
	}
}

// Q4_1: half d, half m; nibbles as in Q4_0. Value d*q + m. The conversions keep the compiler from
// fusing product and sum, here and below.
func decodeQ4_1(y []float32, b []byte) {
	d, m, y := half(b), half(b[2:]), y[:32]
	for i, q := range b[4:20] {
		y[i] = float32(d*float32(q&15)) + m
		y[16+i] = float32(d*float32(q>>4)) + m
	}
}

// Q5_0: half d; 32 fifth bits, bit i for element i; nibbles as in Q4_0. Value d*(q-16).
func decodeQ5_0(y []float32, b []byte) {
	d, high, y := half(b), binary.LittleEndian.Uint32(b[2:]), y[:32]
	for i, q := range b[6:22] {
		y[i] = d * float32(int(q&15)+int(high>>i&1)<<4-16)
		y[16+i] = d * float32(int(q>>4)+int(high>>(16+i)&1)<<4-16)
	}
}

// Q5_1: half d, half m; then as Q5_0. Value d*q + m.
func decodeQ5_1(y []float32, b []byte) {
	d, m, high, y := half(b), half(b[2:]), binary.LittleEndian.Uint32(b[4:]), y[:32]
	for i, q := range b[8:24] {
		y[i] = float32(d*float32(uint32(q&15)+high>>i&1<<4)) + m
		y[16+i] = float32(d*float32(uint32(q>>4)+high>>(16+i)&1<<4)) + m
	}
}

// Q8_0: half d; 32 signed bytes. Value d*q.
func decodeQ8_0(y []float32, b []byte) {
	d, y := half(b), y[:32]
	for i, q := range b[2:34] {
		y[i] = d * float32(int8(q))
	}
}

// Q2_K: 16 bytes of scale (low nibble) and minimum (high); 64 bytes of two-bit codes, four runs of
// 32 elements in each 32 bytes; half d, half dmin. Value d*scale*q - dmin*minimum.
func decodeQ2_K(y []float32, b []byte) {
	d, dmin, codes := half(b[80:]), half(b[82:]), b[16:80]
	for s := range 16 {
		dl, ml := d*float32(b[s]&15), dmin*float32(b[s]>>4)
		from := codes[s/8*32+s%2*16:]
		shift := s / 2 % 4 * 2
		run := y[16*s : 16*s+16]
		for i := range run {
			run[i] = float32(dl*float32(from[i]>>shift&3)) - ml
		}
	}
}

// Q3_K: 32 bytes of third bits (bit e/32 of byte e%32; set means no offset); 64 bytes of two-bit
// codes as in Q2_K; 16 six-bit scales in 12 bytes; half d. Value d*(scale-32)*(q-4).
func decodeQ3_K(y []float32, b []byte) {
	d, high, codes, scales := half(b[108:]), b[:32], b[32:96], b[96:108]
	for s := range 16 {
		low := scales[s%8] >> (s / 8 * 4) & 15
		scale := int(low|scales[8+s%4]>>(s/4*2)&3<<4) - 32
		dl := d * float32(scale)
		from, third := codes[s/8*32+s%2*16:], high[s%2*16:]
		shift := s / 2 % 4 * 2
		run := y[16*s : 16*s+16]
		for i := range run {
			q := int(from[i]>>shift&3) + int(third[i]>>(s/2)&1)<<2 - 4
			run[i] = dl * float32(q)
		}
	}
}

// scaleMin unpacks the six-bit scale and minimum of sub-block j of Q4_K and Q5_K from 12 bytes: the
// first four pairs lie in the low six bits of bytes 0-3 and 4-7, whose top two bits complete the
// nibbles of bytes 8-11 for the last four.
func scaleMin(p []byte, j int) (scale, minimum byte) {
	if j < 4 {
		return p[j] & 63, p[4+j] & 63
	}
	return p[4+j]&15 | p[j-4]>>6<<4, p[4+j]>>4 | p[j]>>6<<4
}

// Q4_K: half d, half dmin; 12 bytes of scales; 128 bytes of nibbles, two runs of 32 elements in
// each 32 bytes. Value d*scale*q - dmin*minimum.
func decodeQ4_K(y []float32, b []byte) {
	d, dmin := half(b), half(b[2:])
	for j := range 8 {
		scale, minimum := scaleMin(b[4:16], j)
		dl, ml := d*float32(scale), dmin*float32(minimum)
		codes, shift := b[16+j/2*32:][:32], j%2*4
		run := y[32*j:][:32]
		for i := range run {
			run[i] = float32(dl*float32(codes[i]>>shift&15)) - ml
		}
	}
}

// Q5_K: as Q4_K, with 32 bytes of fifth bits (bit e/32 of byte e%32) before the nibbles.
func decodeQ5_K(y []float32, b []byte) {
	d, dmin, high := half(b), half(b[2:]), b[16:48]
	for j := range 8 {
		scale, minimum := scaleMin(b[4:16], j)
		dl, ml := d*float32(scale), dmin*float32(minimum)
		codes, shift := b[48+j/2*32:][:32], j%2*4
		run := y[32*j:][:32]
		for i := range run {
			q := codes[i]>>shift&15 | high[i]>>j&1<<4
			run[i] = float32(dl*float32(q)) - ml
		}
	}
}

// Q6_K: 128 bytes of low nibbles, two runs of 64 elements in each 64 bytes; 64 bytes of high bit
// pairs, four runs of 32 in each 32 bytes; 16 signed scales; half d. Value d*scale*(q-32).
func decodeQ6_K(y []float32, b []byte) {
	d, low, high, scales := half(b[208:]), b[:128], b[128:192], b[192:208]
	for s := range 16 {
		dl := d * float32(int8(scales[s]))
		nibbles, nibbleShift := low[s/8*64+s%4*16:][:16], s/4%2*4
		pairs, pairShift := high[s/8*32+s%2*16:][:16], s/2%4*2
		run := y[16*s:][:16]
		for i := range run {
			q := nibbles[i]>>nibbleShift&15 | pairs[i]>>pairShift&3<<4
			run[i] = dl * float32(int(q)-32)
		}
	}
}

// IQ4_NL: as Q4_0, with nibbles that index a table.
func decodeIQ4NL(y []float32, b []byte) {
	d, y := half(b), y[:32]
	for i, q := range b[2:18] {
		y[i] = d * kvaluesIQ4[q&15]
		y[16+i] = d * kvaluesIQ4[q>>4]
	}
}

// IQ4_XS: half d; eight six-bit scales, high bit pairs in 16 bits and low nibbles in 4 bytes; eight
// sub-blocks of 32 as in IQ4_NL. Value d*(scale-32)*table[q].
func decodeIQ4XS(y []float32, b []byte) {
	d, high := half(b), binary.LittleEndian.Uint16(b[2:])
	for j := range 8 {
		scale := int(b[4+j/2]>>(j%2*4)&15) | int(high>>(2*j)&3)<<4
		dl := d * float32(scale-32)
		run := y[32*j:][:32]
		for i, q := range b[8+16*j:][:16] {
			run[i] = dl * kvaluesIQ4[q&15]
			run[16+i] = dl * kvaluesIQ4[q>>4]
		}
	}
}

// MXFP4: an exponent byte (E8M0, bias 127, here halved); nibbles as in Q4_0 that index E2M1.
func decodeMXFP4(y []float32, b []byte) {
	bits := uint32(b[0]-1) << 23
	if b[0] < 2 { // the half of 2^-127 and of 2^-126 are subnormal
		bits = 0x00200000 << b[0]
	}
	d, y := math.Float32frombits(bits), y[:32]
	for i, q := range b[1:17] {
		y[i] = d * kvaluesMXFP4[q&15]
		y[16+i] = d * kvaluesMXFP4[q>>4]
	}
}
