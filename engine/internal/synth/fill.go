package synth

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels/quant"
)

// canFill reports whether fill knows a type.
func canFill(t quant.Type) bool {
	switch t {
	case quant.F32, quant.F16, quant.BF16, quant.Q8_0, quant.Q4_0, quant.Q4_K, quant.Q5_K, quant.Q6_K:
		return true
	}
	return false
}

// fill writes whole blocks of uniformly distributed weights with mean 0 and the given standard
// deviation to p. Codes are random bytes, which costs a hundredth of encoding floats; only scales
// are set. Where codes are not symmetric about zero (0 to 15 less 8), every block has a scale of random
// sign, so that there is no mean that would add up over a row.
func fill(t quant.Type, p []byte, r *rand.PCG, deviation float64) {
	if t.IsFloat() {
		fillFloats(t, p, r, deviation)
		return
	}
	randomBytes(p, r)
	size := t.BlockBytes()
	for b := p; len(b) >= size; b = b[size:] {
		switch t {
		case quant.Q8_0:
			putScale(b, deviation/uniformDeviation(256), b[size-1])
		case quant.Q4_0:
			putScale(b, deviation/uniformDeviation(16), b[size-1])
		case quant.Q4_K:
			putScalesK(b, deviation, 16)
		case quant.Q5_K:
			putScalesK(b, deviation, 32)
		case quant.Q6_K:
			for i := 192; i < 208; i++ { // sixteen int8 scales
				b[i] = scaleQ6
			}
			putScale(b[208:], deviation/uniformDeviation(64)/scaleQ6, b[0])
		}
	}
}

// Scales of sub-blocks: large enough that the half-precision scale of the block is a normal number.
const (
	scaleK  = 8
	scaleQ6 = 4
)

// uniformDeviation is the root mean square of the integers -n/2 to n/2-1.
func uniformDeviation(n float64) float64 { return math.Sqrt((n*n + 2) / 12) }

// putScale writes a half-precision scale whose sign is the lowest bit of a random byte.
func putScale(b []byte, scale float64, sign byte) {
	bits := quant.F32ToF16(float32(scale)) | uint16(sign&1)<<15
	binary.LittleEndian.PutUint16(b, bits)
}

// putScalesK writes the scales of a Q4_K or Q5_K block: all eight sub-blocks have scale and minimum
// 8, and the minimum's factor is such that codes 0 to n-1 are centred.
func putScalesK(b []byte, deviation float64, n int) {
	d := deviation / math.Sqrt(float64(n*n-1)/12) / scaleK
	binary.LittleEndian.PutUint16(b, quant.F32ToF16(float32(d)))
	binary.LittleEndian.PutUint16(b[2:], quant.F32ToF16(float32(d*float64(n-1)/2)))
	for i := range 8 {
		b[4+i] = scaleK // six bits of sub-blocks 0 to 3; the upper two, of 4 to 7, are 0
	}
	for i := range 4 {
		b[12+i] = scaleK | scaleK<<4 // the lower four bits of sub-blocks 4 to 7
	}
}

func randomBytes(p []byte, r *rand.PCG) {
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, r.Uint64())
	}
	var last [8]byte
	binary.LittleEndian.PutUint64(last[:], r.Uint64())
	copy(p, last[:])
}

func fillFloats(t quant.Type, p []byte, r *rand.PCG, deviation float64) {
	scale := float32(deviation * math.Sqrt(3) / (1 << 31)) // uniform in +-sqrt(3) deviations
	size := t.BlockBytes()
	for ; len(p) >= size; p = p[size:] {
		v := float32(int32(r.Uint64()>>32)) * scale
		switch t {
		case quant.F32:
			binary.LittleEndian.PutUint32(p, math.Float32bits(v))
		case quant.F16:
			binary.LittleEndian.PutUint16(p, quant.F32ToF16(v))
		default:
			binary.LittleEndian.PutUint16(p, quant.F32ToBF16(v))
		}
	}
}

// fillOnes writes ones of a float type.
func fillOnes(t quant.Type, p []byte) {
	for size := t.BlockBytes(); len(p) >= size; p = p[size:] {
		switch t {
		case quant.F32:
			binary.LittleEndian.PutUint32(p, math.Float32bits(1))
		case quant.F16:
			binary.LittleEndian.PutUint16(p, quant.F32ToF16(1))
		default:
			binary.LittleEndian.PutUint16(p, quant.F32ToBF16(1))
		}
	}
}
