package quant

import "math"

// F16ToF32 returns the value of an IEEE 754 half-precision number; exact. A NaN keeps its payload
// and becomes quiet, as the hardware conversion has it.
func F16ToF32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp := uint32(h>>10) & 0x1F
	frac := uint32(h & 0x3FF)
	switch exp {
	case 0: // zero or subnormal: frac * 2^-24, a normal float32
		v := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1F:
		bits := sign | 0x7F800000 | frac<<13
		if frac != 0 {
			bits |= 1 << 22
		}
		return math.Float32frombits(bits)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}

// F32ToF16 rounds to half precision, to nearest with ties to even. Values from 65520 on become
// infinite; a NaN keeps the top of its payload and becomes quiet.
func F32ToF16(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits>>16) & 0x8000
	abs := bits & 0x7FFFFFFF
	switch {
	case abs > 0x7F800000:
		return sign | 0x7E00 | uint16(abs>>13)&0x3FF
	case abs >= 0x47800000: // 2^16 and above
		return sign | 0x7C00
	case abs >= 0x38800000: // 2^-14 and above: normal; a carry out of the fraction is right as it is
		abs -= (127 - 15) << 23
		return sign | uint16((abs+0xFFF+(abs>>13)&1)>>13)
	case abs < 0x33000000: // below 2^-25: zero
		return sign
	}
	frac := abs&0x7FFFFF | 0x800000
	shift := 126 - abs>>23 // 14 .. 24: what brings the fraction to units of 2^-24
	half := uint32(1)<<(shift-1) - 1
	return sign | uint16((frac+half+(frac>>shift)&1)>>shift)
}

// BF16ToF32 returns the value of a bfloat16 number; exact.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 rounds to bfloat16, to nearest with ties to even; a NaN becomes quiet.
func F32ToBF16(f float32) uint16 {
	bits := math.Float32bits(f)
	if bits&0x7FFFFFFF > 0x7F800000 {
		return uint16(bits>>16) | 0x40
	}
	return uint16((uint64(bits) + 0x7FFF + uint64(bits>>16)&1) >> 16)
}
