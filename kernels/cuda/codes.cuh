// The storage formats of weights as the products want them: integer codes, which bfloat16 holds
// exactly, and the scale of 32 or 16 of them in float32, so that no weight is rounded:
//
//	w = d * code - m
//
// A lane of a matrix instruction has, of each 32 elements of a row, the elements 4t to 4t+3 (a[0])
// and 16+4t to 16+4t+3 (a[1]), as pairs (0,2) and (1,3) of the four: that is how they fall out of a
// word of bytes, and mr_prepare brings activations into the same order. Layouts:
// kernels/quant/decode.go.
#pragma once

#include "formats.cuh"

// mr_cursor is a place in shared memory, at any byte.
struct mr_cursor {
	const uint32_t *words;
	uint32_t shift;
};

MR_FN mr_cursor mr_point(const unsigned char *memory, uint32_t at)
{
	mr_cursor c = {(const uint32_t *)(memory + (at & ~3u)), (at & 3) * 8};
	return c;
}

// mr_get reads word i from the cursor on, and touches the word behind it.
MR_FN uint32_t mr_get(const mr_cursor &c, int i)
{
	return __funnelshift_r(c.words[i], c.words[i + 1], c.shift);
}

MR_FN float mr_low_half(uint32_t v) { return mr_half_float(v & 0xffff); }
MR_FN float mr_high_half(uint32_t v) { return mr_half_float(v >> 16); }

// mr_small converts numbers below 2^23 without the conversion unit.
MR_FN float mr_small(uint32_t v) { return __uint_as_float(v | 0x4b000000u) - 8388608.0f; }

#define MR_BF16_ONE 0x3f803f80u // 1, twice

// mr_unsigned makes bfloat16 pairs of four codes below 128, one a byte, less a bias: 128 + code is
// a bfloat16 whose last bits are the code; minus is -(128 + bias), twice.
MR_FN void mr_unsigned(uint32_t q, uint32_t minus, uint32_t a[2])
{
	a[0] = mr_fma_bf16x2((q & 0x007f007f) | 0x43004300, MR_BF16_ONE, minus);
	a[1] = mr_fma_bf16x2((q >> 8 & 0x007f007f) | 0x43004300, MR_BF16_ONE, minus);
}

// mr_signed does so with signed bytes: what is taken off is 128, or 256 where the sign is set, and
// the two differ in the bit where the sign lies.
MR_FN void mr_signed_codes(uint32_t q, uint32_t a[2])
{
	a[0] = mr_fma_bf16x2((q & 0x007f007f) | 0x43004300, MR_BF16_ONE, (q & 0x00800080) | 0xc300c300);
	q >>= 8;
	a[1] = mr_fma_bf16x2((q & 0x007f007f) | 0x43004300, MR_BF16_ONE, (q & 0x00800080) | 0xc300c300);
}

#define MR_MINUS_0 0xc300c300u  // -(128 + 0), and so on
#define MR_MINUS_4 0xc304c304u
#define MR_MINUS_8 0xc308c308u
#define MR_MINUS_16 0xc310c310u
#define MR_MINUS_32 0xc320c320u

// mr_grain is how many elements share a scale.
MR_FN constexpr int mr_grain(int type)
{
	return type == MR_Q2_K || type == MR_Q3_K || type == MR_Q6_K || type == MR_ANY ? 16 : 32;
}

// mr_has_minimum reports whether m is not zero.
MR_FN constexpr bool mr_has_minimum(int type)
{
	return type == MR_Q4_1 || type == MR_Q5_1 || type == MR_Q2_K || type == MR_Q4_K ||
		type == MR_Q5_K || type == MR_ANY;
}

// mr_codes gives lane t's part of elements c to c+31 of a chunk of a row, which lies at a byte of
// memory and is one block in the formats with blocks of 256; d and m are of elements 0 to 15 and 16
// to 31.
template <int TYPE>
MR_FN void mr_codes(const unsigned char *memory, uint32_t at, uint32_t c, uint32_t t,
	uint32_t a[2][2], float d[2], float m[2])
{
	const uint32_t nibbles = 0x0f0f0f0f, ones = 0x01010101, pairs = 0x03030303;
	if (mr_block_size(TYPE) == 32) // a chunk is one block of the others
		at += c / 32 * mr_block_bytes(TYPE);
	mr_cursor p = mr_point(memory, at);
	uint32_t j = c / 32 % 8, s = 2 * j; // the part of 32, and of 16, in a block of 256
	d[1] = m[0] = m[1] = 0.0f;
	if (TYPE == MR_Q8_0) {
		mr_cursor q = mr_point(memory, at + 2);
		d[0] = d[1] = mr_low_half(mr_get(p, 0));
		mr_signed_codes(mr_get(q, t), a[0]);
		mr_signed_codes(mr_get(q, 4 + t), a[1]);
	} else if (TYPE == MR_Q4_0 || TYPE == MR_IQ4_NL || TYPE == MR_MXFP4) {
		mr_cursor q = mr_point(memory, at + (TYPE == MR_MXFP4 ? 1 : 2));
		uint32_t v = mr_get(q, t), low = v & nibbles, high = v >> 4 & nibbles;
		uint32_t head = mr_get(p, 0), e = head & 0xff;
		if (TYPE == MR_Q4_0) {
			mr_unsigned(low, MR_MINUS_8, a[0]);
			mr_unsigned(high, MR_MINUS_8, a[1]);
		} else {
			mr_signed_codes(TYPE == MR_IQ4_NL ? mr_iq4(low) : mr_e2m1(low), a[0]);
			mr_signed_codes(TYPE == MR_IQ4_NL ? mr_iq4(high) : mr_e2m1(high), a[1]);
		}
		d[0] = TYPE != MR_MXFP4 ? mr_low_half(head) : // an exponent, halved for doubled values
			__uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
		d[1] = d[0];
	} else if (TYPE == MR_Q4_1) {
		uint32_t head = mr_get(p, 0), v = mr_get(p, 1 + t);
		d[0] = d[1] = mr_low_half(head);
		m[0] = m[1] = -mr_high_half(head);
		mr_unsigned(v & nibbles, MR_MINUS_0, a[0]);
		mr_unsigned(v >> 4 & nibbles, MR_MINUS_0, a[1]);
	} else if (TYPE == MR_Q5_0 || TYPE == MR_Q5_1) {
		constexpr bool minimum = TYPE == MR_Q5_1;
		mr_cursor q = mr_point(memory, at + (minimum ? 4 : 2));
		uint32_t head = mr_get(p, 0), high = mr_get(q, 0) >> 4 * t, v = mr_get(q, 1 + t);
		uint32_t low4 = (v & nibbles) | mr_spread(high) << 4;
		uint32_t high4 = (v >> 4 & nibbles) | mr_spread(high >> 16) << 4;
		d[0] = d[1] = mr_low_half(head);
		if (minimum)
			m[0] = m[1] = -mr_high_half(head);
		mr_unsigned(low4, minimum ? MR_MINUS_0 : MR_MINUS_16, a[0]);
		mr_unsigned(high4, minimum ? MR_MINUS_0 : MR_MINUS_16, a[1]);
	} else if (TYPE == MR_Q2_K) {
		uint32_t scales = mr_get(p, s / 4) >> s % 4 * 8, head = mr_get(p, 20);
		float all = mr_low_half(head), least = mr_high_half(head);
		int from = 4 + s / 8 * 8 + t, shift = j % 4 * 2;
		mr_unsigned(mr_get(p, from) >> shift & pairs, MR_MINUS_0, a[0]);
		mr_unsigned(mr_get(p, from + 4) >> shift & pairs, MR_MINUS_0, a[1]);
		d[0] = all * mr_small(scales & 15);
		d[1] = all * mr_small(scales >> 8 & 15);
		m[0] = least * mr_small(scales >> 4 & 15);
		m[1] = least * mr_small(scales >> 12 & 15);
	} else if (TYPE == MR_Q3_K) {
		int from = 8 + s / 8 * 8 + t, shift = j % 4 * 2;
		uint32_t low = mr_get(p, from) >> shift & pairs;
		uint32_t high = mr_get(p, from + 4) >> shift & pairs;
		low |= (mr_get(p, t) >> j & ones) << 2;
		high |= (mr_get(p, 4 + t) >> j & ones) << 2;
		mr_unsigned(low, MR_MINUS_4, a[0]);
		mr_unsigned(high, MR_MINUS_4, a[1]);
		uint32_t scales = mr_get(p, 24 + s % 8 / 4) >> s % 4 * 8 >> s / 8 * 4;
		uint32_t tops = mr_get(p, 26) >> s % 4 * 8 >> s / 4 * 2;
		float all = mr_low_half(mr_get(p, 27));
		d[0] = all * (mr_small((scales & 15) | (tops & 3) << 4) - 32.0f);
		d[1] = all * (mr_small((scales >> 8 & 15) | (tops >> 8 & 3) << 4) - 32.0f);
	} else if (TYPE == MR_Q4_K || TYPE == MR_Q5_K) {
		constexpr bool fifth = TYPE == MR_Q5_K;
		uint32_t head = mr_get(p, 0), shift = j % 4 * 8;
		uint32_t s0 = mr_get(p, 1) >> shift, s1 = mr_get(p, 2) >> shift, s2 = mr_get(p, 3) >> shift;
		uint32_t scale = j < 4 ? s0 & 63 : (s2 & 15) | (s0 >> 2 & 0x30);
		uint32_t minimum = j < 4 ? s1 & 63 : (s2 >> 4 & 15) | (s1 >> 2 & 0x30);
		d[0] = d[1] = mr_low_half(head) * mr_small(scale);
		m[0] = m[1] = mr_high_half(head) * mr_small(minimum);
		int from = (fifth ? 12 : 4) + j / 2 * 8 + t;
		uint32_t low = mr_get(p, from) >> j % 2 * 4 & nibbles;
		uint32_t high = mr_get(p, from + 4) >> j % 2 * 4 & nibbles;
		if (fifth) {
			low |= (mr_get(p, 4 + t) >> j & ones) << 4;
			high |= (mr_get(p, 8 + t) >> j & ones) << 4;
		}
		mr_unsigned(low, MR_MINUS_0, a[0]);
		mr_unsigned(high, MR_MINUS_0, a[1]);
	} else if (TYPE == MR_Q6_K) {
		int from = s / 8 * 16 + s % 4 * 4 + t, pair = 32 + s / 8 * 8 + t;
		uint32_t low = mr_get(p, from) >> s / 4 % 2 * 4 & nibbles;
		uint32_t high = mr_get(p, from + 4) >> s / 4 % 2 * 4 & nibbles;
		low |= (mr_get(p, pair) >> j % 4 * 2 & pairs) << 4;
		high |= (mr_get(p, pair + 4) >> j % 4 * 2 & pairs) << 4;
		mr_unsigned(low, MR_MINUS_32, a[0]);
		mr_unsigned(high, MR_MINUS_32, a[1]);
		uint32_t scales = mr_get(p, 48 + s / 4) >> s % 4 * 8;
		float all = mr_low_half(mr_get(p, 52));
		d[0] = all * (mr_small((scales & 0xff) ^ 0x80) - 128.0f);
		d[1] = all * (mr_small((scales >> 8 & 0xff) ^ 0x80) - 128.0f);
	} else { // MR_IQ4_XS
		uint32_t head = mr_get(p, 0), v = mr_get(p, 2 + 4 * j + t);
		uint32_t scale = (mr_get(p, 1) >> j * 4 & 15) | (head >> 16 >> 2 * j & 3) << 4;
		d[0] = d[1] = mr_low_half(head) * (mr_small(scale) - 32.0f);
		mr_signed_codes(mr_iq4(v & nibbles), a[0]);
		mr_signed_codes(mr_iq4(v >> 4 & nibbles), a[1]);
	}
}

// mr_codes_any is mr_codes for a block format that is known when the kernel runs.
MR_FN_LARGE void mr_codes_any(int type, const unsigned char *memory, uint32_t at, uint32_t c,
	uint32_t t, uint32_t a[2][2], float d[2], float m[2])
{
	switch (type) {
	case MR_Q4_0: return mr_codes<MR_Q4_0>(memory, at, c, t, a, d, m);
	case MR_Q4_1: return mr_codes<MR_Q4_1>(memory, at, c, t, a, d, m);
	case MR_Q5_0: return mr_codes<MR_Q5_0>(memory, at, c, t, a, d, m);
	case MR_Q5_1: return mr_codes<MR_Q5_1>(memory, at, c, t, a, d, m);
	case MR_Q8_0: return mr_codes<MR_Q8_0>(memory, at, c, t, a, d, m);
	case MR_Q2_K: return mr_codes<MR_Q2_K>(memory, at, c, t, a, d, m);
	case MR_Q3_K: return mr_codes<MR_Q3_K>(memory, at, c, t, a, d, m);
	case MR_Q4_K: return mr_codes<MR_Q4_K>(memory, at, c, t, a, d, m);
	case MR_Q5_K: return mr_codes<MR_Q5_K>(memory, at, c, t, a, d, m);
	case MR_Q6_K: return mr_codes<MR_Q6_K>(memory, at, c, t, a, d, m);
	case MR_IQ4_NL: return mr_codes<MR_IQ4_NL>(memory, at, c, t, a, d, m);
	case MR_IQ4_XS: return mr_codes<MR_IQ4_XS>(memory, at, c, t, a, d, m);
	default: return mr_codes<MR_MXFP4>(memory, at, c, t, a, d, m);
	}
}

// mr_floats_part is mr_floats; WHOLE says that no element lies at or beyond end.
template <int TYPE, int WP, bool WHOLE>
MR_FN void mr_floats_part(const unsigned char *memory, uint32_t at, uint32_t c, uint32_t t,
	uint32_t end, uint32_t a[WP][2][2])
{
	MR_UNROLL
	for (int i = 0; i < 2; i++) {
		uint32_t k = c + 16 * i + 4 * t;
		mr_cursor p = mr_point(memory, at + k * mr_block_bytes(TYPE));
		float v[4];
		if (TYPE == MR_F32) {
			MR_UNROLL
			for (int e = 0; e < 4; e++)
				v[e] = WHOLE || k + e < end ? __uint_as_float(mr_get(p, e)) : 0.0f;
		} else if (TYPE == MR_BF16 && WHOLE) {
			uint32_t first = mr_get(p, 0), second = mr_get(p, 1);
			a[0][i][0] = __byte_perm(first, second, 0x5410);
			a[0][i][1] = __byte_perm(first, second, 0x7632);
			continue;
		} else {
			MR_UNROLL
			for (int e = 0; e < 2; e++) {
				uint32_t pair = mr_get(p, e);
				if (!WHOLE && k + 2 * e + 1 >= end)
					pair = k + 2 * e < end ? pair & 0xffff : 0;
				v[2 * e] = TYPE == MR_F16 ? mr_low_half(pair) : __uint_as_float(pair << 16);
				v[2 * e + 1] = TYPE == MR_F16 ? mr_high_half(pair) :
					__uint_as_float(pair & 0xffff0000u);
			}
		}
		MR_UNROLL
		for (int piece = 0; piece < WP; piece++)
			MR_UNROLL
			for (int e = 0; e < 2; e++) {
				uint32_t pair = mr_bf16x2(v[e], v[e + 2]);
				a[piece][i][e] = pair;
				v[e] = v[e] - __uint_as_float(pair << 16);
				v[e + 2] = v[e + 2] - __uint_as_float(pair & 0xffff0000u);
			}
	}
}

// mr_floats splits lane t's part of elements c to c+31 of a chunk into WP pieces, a[piece][half of
// 16][pair]; elements from end on are zero, and not looked at.
template <int TYPE, int WP>
MR_FN void mr_floats(const unsigned char *memory, uint32_t at, uint32_t c, uint32_t t, uint32_t end,
	uint32_t a[WP][2][2])
{
	if (c + 32 <= end)
		mr_floats_part<TYPE, WP, true>(memory, at, c, t, end, a);
	else
		mr_floats_part<TYPE, WP, false>(memory, at, c, t, end, a);
}
