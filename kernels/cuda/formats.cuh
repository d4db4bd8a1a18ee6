// The storage formats of weights, as kernels/quant has them: each in one function that gives eight
// consecutive values of a row. Sources of the layouts: kernels/quant/decode.go.
//
// A row lies at any byte; w is an address that is a multiple of 4, at the offset of the row's first
// block from there, k the first element, a multiple of 8. Products and sums are rounded one by one,
// as quant.Decode has them, so that the values are equal to the bit.
#pragma once

#include "common.cuh"

enum {
	MR_F32 = 0, MR_F16 = 1, MR_Q4_0 = 2, MR_Q4_1 = 3, MR_Q5_0 = 6, MR_Q5_1 = 7, MR_Q8_0 = 8,
	MR_Q2_K = 10, MR_Q3_K = 11, MR_Q4_K = 12, MR_Q5_K = 13, MR_Q6_K = 14, MR_IQ4_NL = 20,
	MR_IQ4_XS = 23, MR_BF16 = 30, MR_MXFP4 = 39,
	MR_ANY = -1, // a block format, known when the kernel runs
};

// mr_block_bytes and mr_block_size are of a format's blocks.
MR_FN constexpr int mr_block_bytes(int type)
{
	return type == MR_F32 ? 4 : type == MR_F16 || type == MR_BF16 ? 2 :
		type == MR_Q4_0 || type == MR_IQ4_NL ? 18 : type == MR_Q4_1 ? 20 : type == MR_Q5_0 ? 22 :
		type == MR_Q5_1 ? 24 : type == MR_Q8_0 ? 34 : type == MR_MXFP4 ? 17 :
		type == MR_Q2_K ? 84 : type == MR_Q3_K ? 110 : type == MR_Q4_K ? 144 :
		type == MR_Q5_K ? 176 : type == MR_Q6_K ? 210 : 136;
}

MR_FN constexpr int mr_block_size(int type)
{
	return type == MR_F32 || type == MR_F16 || type == MR_BF16 ? 1 :
		type == MR_Q2_K || type == MR_Q3_K || type == MR_Q4_K || type == MR_Q5_K ||
		type == MR_Q6_K || type == MR_IQ4_XS ? 256 : 32;
}

// mr_word, mr_pair and mr_byte read little-endian numbers at any byte, and touch no word that has
// none of their bytes.
MR_FN uint32_t mr_word(const uint32_t *w, uint32_t at)
{
	uint32_t i = at / 4, shift = at % 4 * 8;
	return __funnelshift_r(w[i], shift ? w[i + 1] : 0, shift);
}

MR_FN uint32_t mr_pair(const uint32_t *w, uint32_t at)
{
	uint32_t i = at / 4, shift = at % 4 * 8;
	return __funnelshift_r(w[i], shift == 24 ? w[i + 1] : 0, shift) & 0xffff;
}

MR_FN uint32_t mr_byte(const uint32_t *w, uint32_t at) { return w[at / 4] >> at % 4 * 8 & 0xff; }

MR_FN float mr_half_at(const uint32_t *w, uint32_t at) { return mr_half_float(mr_pair(w, at)); }

// mr_code is byte i of four, less bias, as a float: the byte becomes the last of the significand of
// 2^23, which is taken off with the bias; exact, and cheaper than a conversion.
MR_FN float mr_code(uint32_t bytes, int i, float bias)
{
	return __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7440 + i)) - (8388608.0f + bias);
}

// mr_spread puts the four low bits into the low bits of four bytes.
MR_FN uint32_t mr_spread(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

// mr_table looks up four nibbles, one a byte, in a table of sixteen signed bytes.
MR_FN uint32_t mr_table(uint32_t q, uint32_t t0, uint32_t t1, uint32_t t2, uint32_t t3)
{
	uint32_t pick = (q | q >> 4) & 0x00ff00ff;
	pick = (pick | pick >> 8) & 0x7777;
	uint32_t low = __byte_perm(t0, t1, pick), high = __byte_perm(t2, t3, pick);
	uint32_t upper = (q >> 3 & 0x01010101) * 0xff;
	return (low & ~upper) | (high & upper);
}

// The values of IQ4_NL and IQ4_XS, -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, and
// the doubled ones of E2M1, 0 1 2 3 4 6 8 12 0 -1 -2 -3 -4 -6 -8 -12, as bytes.
MR_FN uint32_t mr_iq4(uint32_t q)
{
	return mr_table(q, 0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
}

MR_FN uint32_t mr_e2m1(uint32_t q)
{
	return mr_table(q, 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);
}

// mr_scaled: out = d * (code - bias), mr_affine: out = d * code + m, of eight codes, one a byte.
MR_FN void mr_scaled(const uint32_t q[2], float d, float bias, float out[8])
{
	MR_UNROLL
	for (int i = 0; i < 8; i++)
		out[i] = d * mr_code(q[i / 4], i % 4, bias);
}

MR_FN void mr_affine(const uint32_t q[2], float d, float m, float out[8])
{
	MR_UNROLL
	for (int i = 0; i < 8; i++)
		out[i] = d * mr_code(q[i / 4], i % 4, 0.0f) + m;
}

// mr_signed is mr_scaled for signed bytes.
MR_FN void mr_signed(uint32_t q[2], float d, float out[8])
{
	q[0] ^= 0x80808080u;
	q[1] ^= 0x80808080u;
	mr_scaled(q, d, 128.0f, out);
}

// mr_nibbles reads the codes of elements j to j+7 of 32, whose nibbles lie in 16 bytes.
MR_FN void mr_nibbles(const uint32_t *w, uint32_t at, uint32_t j, uint32_t q[2])
{
	uint32_t shift = j / 16 * 4;
	at += j % 16;
	q[0] = mr_word(w, at) >> shift & 0x0f0f0f0f;
	q[1] = mr_word(w, at + 4) >> shift & 0x0f0f0f0f;
}

// mr_bits reads eight bytes and keeps of each the bits of mask at shift.
MR_FN void mr_bits(const uint32_t *w, uint32_t at, uint32_t shift, uint32_t mask, uint32_t q[2])
{
	q[0] = mr_word(w, at) >> shift & mask;
	q[1] = mr_word(w, at + 4) >> shift & mask;
}

// mr_scale_min is quant.scaleMin: scale and minimum of sub-block j of Q4_K and Q5_K.
MR_FN void mr_scale_min(const uint32_t *w, uint32_t at, uint32_t j, float d, float dmin,
	float *dl, float *ml)
{
	uint32_t scale, minimum;
	if (j < 4) {
		scale = mr_byte(w, at + j) & 63;
		minimum = mr_byte(w, at + 4 + j) & 63;
	} else {
		uint32_t low = mr_byte(w, at + 4 + j);
		scale = (low & 15) | mr_byte(w, at + j - 4) >> 6 << 4;
		minimum = low >> 4 | mr_byte(w, at + j) >> 6 << 4;
	}
	*dl = d * (float)scale;
	*ml = dmin * (float)minimum;
}

// mr_values gives elements k to k+7 of the row.
template <int TYPE>
MR_FN void mr_values(const uint32_t *w, uint32_t at, uint32_t k, float out[8])
{
	uint32_t q[2], h[2];
	if (TYPE == MR_F32) {
		MR_UNROLL
		for (int i = 0; i < 8; i++)
			out[i] = __uint_as_float(mr_word(w, at + 4 * (k + i)));
	} else if (TYPE == MR_F16 || TYPE == MR_BF16) {
		MR_UNROLL
		for (int i = 0; i < 4; i++) {
			uint32_t v = mr_word(w, at + 2 * k + 4 * i);
			out[2 * i] = TYPE == MR_F16 ? mr_half_float(v & 0xffff) : __uint_as_float(v << 16);
			out[2 * i + 1] = TYPE == MR_F16 ? mr_half_float(v >> 16) :
				__uint_as_float(v & 0xffff0000u);
		}
	} else if (TYPE == MR_Q8_0) {
		at += k / 32 * 34;
		q[0] = mr_word(w, at + 2 + k % 32);
		q[1] = mr_word(w, at + 6 + k % 32);
		mr_signed(q, mr_half_at(w, at), out);
	} else if (TYPE == MR_Q4_0) {
		at += k / 32 * 18;
		mr_nibbles(w, at + 2, k % 32, q);
		mr_scaled(q, mr_half_at(w, at), 8.0f, out);
	} else if (TYPE == MR_Q4_1) {
		at += k / 32 * 20;
		mr_nibbles(w, at + 4, k % 32, q);
		mr_affine(q, mr_half_at(w, at), mr_half_at(w, at + 2), out);
	} else if (TYPE == MR_Q5_0 || TYPE == MR_Q5_1) {
		bool minimum = TYPE == MR_Q5_1;
		at += k / 32 * (minimum ? 24 : 22);
		uint32_t head = minimum ? 4 : 2;
		mr_nibbles(w, at + head + 4, k % 32, q);
		uint32_t fifth = mr_word(w, at + head) >> k % 32;
		q[0] |= mr_spread(fifth) << 4;
		q[1] |= mr_spread(fifth >> 4) << 4;
		if (minimum)
			mr_affine(q, mr_half_at(w, at), mr_half_at(w, at + 2), out);
		else
			mr_scaled(q, mr_half_at(w, at), 16.0f, out);
	} else if (TYPE == MR_IQ4_NL) {
		at += k / 32 * 18;
		mr_nibbles(w, at + 2, k % 32, q);
		q[0] = mr_iq4(q[0]);
		q[1] = mr_iq4(q[1]);
		mr_signed(q, mr_half_at(w, at), out);
	} else if (TYPE == MR_MXFP4) {
		at += k / 32 * 17;
		mr_nibbles(w, at + 1, k % 32, q);
		q[0] = mr_e2m1(q[0]);
		q[1] = mr_e2m1(q[1]);
		uint32_t e = mr_byte(w, at); // halved: the values are doubled
		mr_signed(q, __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23), out);
	} else if (TYPE == MR_Q2_K) {
		at += k / 256 * 84;
		uint32_t s = k / 16 % 16, scale = mr_byte(w, at + s);
		mr_bits(w, at + 16 + s / 8 * 32 + s % 2 * 16 + k % 16, s / 2 % 4 * 2, 0x03030303, q);
		float dl = mr_half_at(w, at + 80) * (float)(scale & 15);
		mr_affine(q, dl, -(mr_half_at(w, at + 82) * (float)(scale >> 4)), out);
	} else if (TYPE == MR_Q3_K) {
		at += k / 256 * 110;
		uint32_t s = k / 16 % 16, run = s % 2 * 16 + k % 16;
		mr_bits(w, at + 32 + s / 8 * 32 + run, s / 2 % 4 * 2, 0x03030303, q);
		mr_bits(w, at + run, s / 2, 0x01010101, h);
		q[0] |= h[0] << 2;
		q[1] |= h[1] << 2;
		uint32_t low = mr_byte(w, at + 96 + s % 8) >> s / 8 * 4 & 15;
		uint32_t high = mr_byte(w, at + 104 + s % 4) >> s / 4 * 2 & 3;
		float scale = (float)((int32_t)(low | high << 4) - 32);
		mr_scaled(q, mr_half_at(w, at + 108) * scale, 4.0f, out);
	} else if (TYPE == MR_Q4_K || TYPE == MR_Q5_K) {
		bool fifth = TYPE == MR_Q5_K;
		at += k / 256 * (fifth ? 176 : 144);
		uint32_t j = k / 32 % 8;
		float dl, ml;
		mr_scale_min(w, at + 4, j, mr_half_at(w, at), mr_half_at(w, at + 2), &dl, &ml);
		mr_bits(w, at + (fifth ? 48 : 16) + j / 2 * 32 + k % 32, j % 2 * 4, 0x0f0f0f0f, q);
		if (fifth) {
			mr_bits(w, at + 16 + k % 32, j, 0x01010101, h);
			q[0] |= h[0] << 4;
			q[1] |= h[1] << 4;
		}
		mr_affine(q, dl, -ml, out);
	} else if (TYPE == MR_Q6_K) {
		at += k / 256 * 210;
		uint32_t s = k / 16 % 16, k8 = k % 16;
		mr_bits(w, at + s / 8 * 64 + s % 4 * 16 + k8, s / 4 % 2 * 4, 0x0f0f0f0f, q);
		mr_bits(w, at + 128 + s / 8 * 32 + s % 2 * 16 + k8, s / 2 % 4 * 2, 0x03030303, h);
		q[0] |= h[0] << 4;
		q[1] |= h[1] << 4;
		float scale = (float)(int8_t)mr_byte(w, at + 192 + s);
		mr_scaled(q, mr_half_at(w, at + 208) * scale, 32.0f, out);
	} else { // MR_IQ4_XS
		at += k / 256 * 136;
		uint32_t j = k / 32 % 8;
		uint32_t low = mr_byte(w, at + 4 + j / 2) >> j % 2 * 4 & 15;
		uint32_t high = mr_pair(w, at + 2) >> 2 * j & 3;
		float scale = (float)((int32_t)(low | high << 4) - 32);
		mr_nibbles(w, at + 8 + 16 * j, k % 32, q);
		q[0] = mr_iq4(q[0]);
		q[1] = mr_iq4(q[1]);
		mr_signed(q, mr_half_at(w, at) * scale, out);
	}
}

// mr_values_any is mr_values for a block format that is known when the kernel runs; not inlined,
// for it is large and few want it.
MR_FN_LARGE void mr_values_any(int type, const uint32_t *w, uint32_t at, uint32_t k, float out[8])
{
	switch (type) {
	case MR_Q4_0: return mr_values<MR_Q4_0>(w, at, k, out);
	case MR_Q4_1: return mr_values<MR_Q4_1>(w, at, k, out);
	case MR_Q5_0: return mr_values<MR_Q5_0>(w, at, k, out);
	case MR_Q5_1: return mr_values<MR_Q5_1>(w, at, k, out);
	case MR_Q8_0: return mr_values<MR_Q8_0>(w, at, k, out);
	case MR_Q2_K: return mr_values<MR_Q2_K>(w, at, k, out);
	case MR_Q3_K: return mr_values<MR_Q3_K>(w, at, k, out);
	case MR_Q4_K: return mr_values<MR_Q4_K>(w, at, k, out);
	case MR_Q5_K: return mr_values<MR_Q5_K>(w, at, k, out);
	case MR_Q6_K: return mr_values<MR_Q6_K>(w, at, k, out);
	case MR_IQ4_NL: return mr_values<MR_IQ4_NL>(w, at, k, out);
	case MR_IQ4_XS: return mr_values<MR_IQ4_XS>(w, at, k, out);
	default: return mr_values<MR_MXFP4>(w, at, k, out);
	}
}

// mr_row gives elements k to k+7 of a row that ends at element end; beyond it there are zeros, and
// nothing is read.
template <int TYPE>
MR_FN void mr_row(int type, const uint32_t *w, uint32_t at, uint32_t k, uint32_t end, float out[8])
{
	if (TYPE == MR_ANY) {
		mr_values_any(type, w, at, k, out);
	} else if (mr_block_size(TYPE) > 1 || k + 8 <= end) {
		mr_values<TYPE>(w, at, k, out);
	} else {
		MR_UNROLL
		for (uint32_t i = 0; i < 8; i++) {
			uint32_t from = at + (k + i) * mr_block_bytes(TYPE);
			if (k + i >= end)
				out[i] = 0.0f;
			else if (TYPE == MR_F32)
				out[i] = __uint_as_float(mr_word(w, from));
			else if (TYPE == MR_F16)
				out[i] = mr_half_at(w, from);
			else
				out[i] = __uint_as_float(mr_pair(w, from) << 16);
		}
	}
}
