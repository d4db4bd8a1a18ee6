// Decoders of published blocks to float32, for token embeddings and for exact products. The
// formulas and roundings are those of kernels/quant.
#include "internal.h"

static const int8_t table_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69,
                                     89, 113};
static const int8_t table_mxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static float half_at(const uint8_t *b) { return half_f32(load_u16(b)); }

// nibbles decodes 32 elements: i in the low nibble of byte i, 16+i in the high one, with fifth bits.
static void nibbles(const uint8_t *q, uint32_t high, int offset, float d, float m, float *y)
{
	for (int i = 0; i < 16; i++) {
		int lo = (q[i] & 15) + (int)(high >> i & 1) * 16 - offset;
		int hi = (q[i] >> 4) + (int)(high >> (16 + i) & 1) * 16 - offset;
		float a = d * (float)lo, b = d * (float)hi;
		y[i] = a + m;
		y[16 + i] = b + m;
	}
}

// signed_nibbles is for the formats without a minimum, where d*0 keeps its sign.
static void signed_nibbles(const uint8_t *q, uint32_t high, int offset, float d, float *y)
{
	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)((q[i] & 15) + (int)(high >> i & 1) * 16 - offset);
		y[16 + i] = d * (float)((q[i] >> 4) + (int)(high >> (16 + i) & 1) * 16 - offset);
	}
}

static void table_nibbles(const uint8_t *q, const int8_t *table, float d, float *y)
{
	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)table[q[i] & 15];
		y[16 + i] = d * (float)table[q[i] >> 4];
	}
}

static void decode_q2(const uint8_t *b, float *y)
{
	float d = half_at(b + 80), dmin = half_at(b + 82);
	for (int s = 0; s < 16; s++) {
		float dl = d * (float)(b[s] & 15), ml = dmin * (float)(b[s] >> 4);
		const uint8_t *q = b + 16 + s / 8 * 32 + s % 2 * 16;
		for (int i = 0; i < 16; i++) {
			float v = dl * (float)(q[i] >> (s / 2 % 4 * 2) & 3);
			y[16 * s + i] = v - ml;
		}
	}
}

static void decode_q3(const uint8_t *b, float *y)
{
	float d = half_at(b + 108);
	const uint8_t *scales = b + 96;
	for (int s = 0; s < 16; s++) {
		int scale = (scales[s % 8] >> (s / 8 * 4) & 15) | (scales[8 + s % 4] >> (s / 4 * 2) & 3) << 4;
		float dl = d * (float)(scale - 32);
		const uint8_t *q = b + 32 + s / 8 * 32 + s % 2 * 16, *third = b + s % 2 * 16;
		for (int i = 0; i < 16; i++) {
			int v = (q[i] >> (s / 2 % 4 * 2) & 3) + (third[i] >> (s / 2) & 1) * 4 - 4;
			y[16 * s + i] = dl * (float)v;
		}
	}
}

// decode_q45 decodes Q4_K (no high bits) and Q5_K.
static void decode_q45(const uint8_t *b, const uint8_t *high, const uint8_t *codes, float *y)
{
	float d = half_at(b), dmin = half_at(b + 2);
	const uint8_t *p = b + 4;
	for (int j = 0; j < 8; j++) {
		int scale = j < 4 ? p[j] & 63 : (p[4 + j] & 15) | p[j - 4] >> 6 << 4;
		int min = j < 4 ? p[4 + j] & 63 : p[4 + j] >> 4 | p[j] >> 6 << 4;
		float dl = d * (float)scale, ml = dmin * (float)min;
		const uint8_t *q = codes + j / 2 * 32;
		for (int i = 0; i < 32; i++) {
			int v = (q[i] >> (j % 2 * 4) & 15) | (high ? high[i] >> j & 1 : 0) << 4;
			float w = dl * (float)v;
			y[32 * j + i] = w - ml;
		}
	}
}

static void decode_q6(const uint8_t *b, float *y)
{
	float d = half_at(b + 208);
	for (int s = 0; s < 16; s++) {
		float dl = d * (float)(int8_t)b[192 + s];
		const uint8_t *low = b + s / 8 * 64 + s % 4 * 16, *high = b + 128 + s / 8 * 32 + s % 2 * 16;
		for (int i = 0; i < 16; i++) {
			int v = (low[i] >> (s / 4 % 2 * 4) & 15) | (high[i] >> (s / 2 % 4 * 2) & 3) << 4;
			y[16 * s + i] = dl * (float)(v - 32);
		}
	}
}

static void decode_iq4xs(const uint8_t *b, float *y)
{
	float d = half_at(b);
	uint16_t high = load_u16(b + 2);
	for (int j = 0; j < 8; j++) {
		int scale = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4;
		table_nibbles(b + 8 + 16 * j, table_iq4, d * (float)(scale - 32), y + 32 * j);
	}
}

// e8m0_half returns half of 2^(e-127).
static float e8m0_half(uint8_t e)
{
	return as_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

static int decode_block(int type, const uint8_t *b, float *y)
{
	switch (type) {
	case T_Q4_0: signed_nibbles(b + 2, 0, 8, half_at(b), y); return 18;
	case T_Q4_1: nibbles(b + 4, 0, 0, half_at(b), half_at(b + 2), y); return 20;
	case T_Q5_0: signed_nibbles(b + 6, load_u32(b + 2), 16, half_at(b), y); return 22;
	case T_Q5_1: nibbles(b + 8, load_u32(b + 4), 0, half_at(b), half_at(b + 2), y); return 24;
	case T_Q8_0:
		for (int i = 0; i < 32; i++)
			y[i] = half_at(b) * (float)(int8_t)b[2 + i];
		return 34;
	case T_IQ4NL: table_nibbles(b + 2, table_iq4, half_at(b), y); return 18;
	case T_MXFP4: table_nibbles(b + 1, table_mxfp4, e8m0_half(b[0]), y); return 17;
	case T_Q2_K: decode_q2(b, y); return 84;
	case T_Q3_K: decode_q3(b, y); return 110;
	case T_Q4_K: decode_q45(b, NULL, b + 16, y); return 144;
	case T_Q5_K: decode_q45(b, b + 16, b + 48, y); return 176;
	case T_Q6_K: decode_q6(b, y); return 210;
	default: decode_iq4xs(b, y); return 136;
	}
}

void decode_row(int type, const uint8_t *src, int64_t n, float *dst)
{
	const format *f = type_format(type);
	if (!f) {
		for (int64_t i = 0; i < n; i++)
			dst[i] = type == T_F32 ? load_f32(src + 4 * i)
			       : type == T_F16 ? half_at(src + 2 * i)
			                       : as_f32((uint32_t)load_u16(src + 2 * i) << 16);
		return;
	}
	int block = f->elements == 64 ? 32 : 256;
	for (int64_t i = 0; i < n; i += block)
		src += decode_block(type, src, dst + i);
}

// encode_q8 is quant.Encode's: halves are rounded away from zero.
static void encode_q8(const float *x, uint8_t *b)
{
	uint32_t top = 0;
	for (int i = 0; i < 32; i++) {
		uint32_t u = as_u32(x[i]) & 0x7fffffff;
		top = u > top ? u : top;
	}
	float d = as_f32(top) / 127.0f, by = 1.0f / d;
	if (by > 3.40282347e38f) // of zero, and of what is nearly zero
		by = 0;
	int good = top < 0x7f800000 && d <= 65504.0f;
	uint16_t scale = good ? f32_half(d) : 0x7e00;
	memcpy(b, &scale, 2);
	for (int i = 0; i < 32; i++) {
		float v = good ? x[i] * by : 0;
		int32_t q = (int32_t)((double)as_f32(as_u32(v) & 0x7fffffff) + 0.5);
		b[2 + i] = (uint8_t)(as_u32(v) >> 31 ? -q : q);
	}
}

void encode_cache_row(int type, const float *src, int64_t n, uint8_t *dst)
{
	if (type == T_F32) {
		memcpy(dst, src, sizeof(float) * (size_t)n);
		return;
	}
	if (type == T_Q8_0) {
		for (int64_t i = 0; i < n; i += 32, dst += 34)
			encode_q8(src + i, dst);
		return;
	}
	for (int64_t i = 0; i < n; i++) {
		uint16_t h = f32_half(src[i]);
		memcpy(dst + 2 * i, &h, 2);
	}
}
