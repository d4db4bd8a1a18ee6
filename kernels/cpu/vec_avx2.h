// Vectors of 8 lanes: AVX2 with FMA and F16C.
#include <immintrin.h>

enum { L = 8 };
typedef __m256i VI;
typedef __m256 VF;

INLINE VI vi_load(const void *p) { return _mm256_loadu_si256(p); }
INLINE VI vi_set1(int32_t v) { return _mm256_set1_epi32(v); }
INLINE VI vi_u8(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
INLINE VI vi_u16(const void *p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128(p)); }
INLINE VI vi_i8(const void *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(p)); }
INLINE VI vi_and(VI a, VI b) { return _mm256_and_si256(a, b); }
INLINE VI vi_or(VI a, VI b) { return _mm256_or_si256(a, b); }
INLINE VI vi_add(VI a, VI b) { return _mm256_add_epi32(a, b); }
INLINE VI vi_sub(VI a, VI b) { return _mm256_sub_epi32(a, b); }
INLINE VI vi_mul(VI a, VI b) { return _mm256_mullo_epi32(a, b); }
INLINE VI vi_srl(VI a, int n) { return _mm256_srli_epi32(a, n); }
INLINE VI vi_sra(VI a, int n) { return _mm256_srai_epi32(a, n); }
INLINE VI vi_sll(VI a, int n) { return _mm256_slli_epi32(a, n); }
INLINE VI vi_table(const uint8_t *t, VI index)
{
	return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)t)), index);
}

INLINE VI vi_max(VI a, VI b) { return _mm256_max_epi32(a, b); }
INLINE int32_t vi_most(VI a)
{
	__m128i h = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
	h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
	return _mm_cvtsi128_si32(_mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
INLINE int32_t vi_sum(VI a)
{
	__m128i h = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
	h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
	return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
INLINE void vi_store_i8(void *p, VI a) // of values that fit
{
	__m128i h = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
	_mm_storel_epi64(p, _mm_packs_epi16(h, h));
}

INLINE VF vf_load(const void *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(void *p, VF v) { _mm256_storeu_ps(p, v); }
INLINE VF vf_set1(float v) { return _mm256_set1_ps(v); }
INLINE VF vf_half(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE VF vf_int(VI v) { return _mm256_cvtepi32_ps(v); }
INLINE VF vf_bits(VI v) { return _mm256_castsi256_ps(v); }
INLINE VI vi_round(VF v) { return _mm256_cvtps_epi32(v); }
INLINE VF vf_add(VF a, VF b) { return _mm256_add_ps(a, b); }
INLINE VF vf_mul(VF a, VF b) { return _mm256_mul_ps(a, b); }
INLINE VF vf_div(VF a, VF b) { return _mm256_div_ps(a, b); }
INLINE VF vf_fma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
INLINE VF vf_min(VF a, VF b) { return _mm256_min_ps(a, b); }
INLINE VF vf_max(VF a, VF b) { return _mm256_max_ps(a, b); }

#if defined(VNNI)
INLINE VI vi_dot_start(int offset, VI n)
{
	switch (offset) {
	case 0: return _mm256_setzero_si256();
	case 4: return vi_sra(n, 1);
	case 8: return n;
	case 16: return vi_sll(n, 1);
	case 32: return vi_sll(n, 2);
	default: return vi_sll(n, 4);
	}
}
INLINE VI vi_dot(int offset, int max, VI c, const VI *w, const uint8_t *x)
{
	(void)offset, (void)max;
UNROLL(4)
	for (int j = 0; j < 4; j++)
		c = _mm256_dpbusd_avx_epi32(c, w[j], vi_set1(load_i32(x + 4 * j)));
	return c;
}
#else
// Sums of two products are 16 bits wide here and saturate. Unsigned weights up to max leave room for
// 32767/(254*max) of them to be added before they are widened; weights of 8 bits do not fit at all,
// and are multiplied as |w| * (x with the sign of w): at most 2*128*127, as x is never -128.
INLINE VI vi_dot_start(int offset, VI n)
{
	switch (offset) {
	case 4: return vi_sra(n, 1);
	case 8: return n;
	case 16: return vi_sll(n, 1);
	case 32: return vi_sll(n, 2);
	default: return _mm256_setzero_si256();
	}
}
INLINE VI vi_dot(int offset, int max, VI c, const VI *w, const uint8_t *x)
{
	const VI ones = _mm256_set1_epi16(1);
	VI s = _mm256_setzero_si256();
UNROLL(4)
	for (int j = 0; j < 4; j++) {
		VI xj = vi_set1(load_i32(x + 4 * j)), p;
		if (offset == 128) {
			VI v = _mm256_xor_si256(w[j], _mm256_set1_epi8((char)0x80));
			p = _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(xj, v));
		} else {
			p = _mm256_maddubs_epi16(w[j], xj);
		}
		int fit = 32767 / (254 * max);
		int first = fit >= 4 ? j == 0 : fit >= 2 ? j % 2 == 0 : 1;
		int last = fit >= 4 ? j == 3 : fit >= 2 ? j % 2 == 1 : 1;
		s = first ? p : _mm256_add_epi16(s, p);
		if (last)
			c = vi_add(c, _mm256_madd_epi16(s, ones));
	}
	return c;
}
#endif

INLINE void vi_dots(int offset, int max, int mr, VI *c, const VI *w, const uint8_t *const *x, long at)
{
	UNROLL(8)
	for (int i = 0; i < mr; i++)
		c[i] = vi_dot(offset, max, c[i], w, x[i] + at);
}

// vf_store_columns writes column i of four rows to to + i*stride.
INLINE void vf_store_columns(const VF *r, float *to, long stride)
{
	__m256 a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
	__m256 c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
	__m256 o[4] = {_mm256_shuffle_ps(a, c, 0x44), _mm256_shuffle_ps(a, c, 0xee),
	               _mm256_shuffle_ps(b, d, 0x44), _mm256_shuffle_ps(b, d, 0xee)};
UNROLL(4)
	for (int i = 0; i < 4; i++) {
		_mm_storeu_ps(to + i * stride, _mm256_castps256_ps128(o[i]));
		_mm_storeu_ps(to + (4 + i) * stride, _mm256_extractf128_ps(o[i], 1));
	}
}

INLINE float vf_max16(const VF *a)
{
	__m256 h = _mm256_max_ps(a[0], a[1]);
	__m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
	q = _mm_max_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

INLINE float vf_sum16(const VF *a)
{
	__m256 h = _mm256_add_ps(a[0], a[1]);
	__m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
	q = _mm_add_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
