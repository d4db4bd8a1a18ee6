// Vectors of 16 lanes: AVX-512 with VNNI.
#include <immintrin.h>

enum { L = 16 };
typedef __m512i VI;
typedef __m512 VF;

INLINE VI vi_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE VI vi_set1(int32_t v) { return _mm512_set1_epi32(v); }
INLINE VI vi_u8(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
INLINE VI vi_u16(const void *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(p)); }
INLINE VI vi_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
INLINE VI vi_and(VI a, VI b) { return _mm512_and_si512(a, b); }
INLINE VI vi_or(VI a, VI b) { return _mm512_or_si512(a, b); }
INLINE VI vi_add(VI a, VI b) { return _mm512_add_epi32(a, b); }
INLINE VI vi_sub(VI a, VI b) { return _mm512_sub_epi32(a, b); }
INLINE VI vi_mul(VI a, VI b) { return _mm512_mullo_epi32(a, b); }
INLINE VI vi_srl(VI a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
INLINE VI vi_sra(VI a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
INLINE VI vi_sll(VI a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
INLINE VI vi_table(const uint8_t *t, VI index)
{
	return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)t)), index);
}

INLINE VI vi_max(VI a, VI b) { return _mm512_max_epi32(a, b); }
INLINE int32_t vi_most(VI a) { return _mm512_reduce_max_epi32(a); }
INLINE int32_t vi_sum(VI a) { return _mm512_reduce_add_epi32(a); }
INLINE void vi_store_i8(void *p, VI a) { _mm_storeu_si128(p, _mm512_cvtepi32_epi8(a)); }

INLINE VF vf_load(const void *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(void *p, VF v) { _mm512_storeu_ps(p, v); }
INLINE VF vf_set1(float v) { return _mm512_set1_ps(v); }
INLINE VF vf_half(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE VF vf_int(VI v) { return _mm512_cvtepi32_ps(v); }
INLINE VF vf_bits(VI v) { return _mm512_castsi512_ps(v); }
INLINE VI vi_round(VF v) { return _mm512_cvtps_epi32(v); }
INLINE VF vf_add(VF a, VF b) { return _mm512_add_ps(a, b); }
INLINE VF vf_mul(VF a, VF b) { return _mm512_mul_ps(a, b); }
INLINE VF vf_div(VF a, VF b) { return _mm512_div_ps(a, b); }
INLINE VF vf_fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
INLINE VF vf_min(VF a, VF b) { return _mm512_min_ps(a, b); } // b where either is NaN
INLINE VF vf_max(VF a, VF b) { return _mm512_max_ps(a, b); }

// vi_dot_start is what sums of products begin with: -offset times the sum of the activations. offset is what the weights are raised by, n is -8 times the sum of the activations.
// Products of four unsigned weights a lane and dword with 16 activations are added to it by vi_dots.
INLINE VI vi_dot_start(int offset, VI n)
{
	switch (offset) {
	case 0: return _mm512_setzero_si512();
	case 4: return vi_sra(n, 1);
	case 8: return n;
	case 16: return vi_sll(n, 1);
	case 32: return vi_sll(n, 2);
	default: return vi_sll(n, 4);
	}
}
// vi_dots does so for mr rows in lockstep, x[i]+at being the activations of row i. The broadcast is
// part of the instruction: compilers make two of it, and the loop then waits for the decoder.
INLINE void vi_dots(int offset, int max, int mr, VI *c, const VI *w, const uint8_t *const *x, long at)
{
	typedef int32_t __attribute__((may_alias)) dword;
	(void)offset, (void)max;
	UNROLL(4)
	for (int j = 0; j < 4; j++)
		UNROLL(8)
		for (int i = 0; i < mr; i++)
			__asm__("vpdpbusd %2%{1to16%}, %1, %0"
			        : "+v"(c[i])
			        : "v"(w[j]), "m"(*(const dword *)(x[i] + at + 4 * j)));
}

// vf_store_columns writes column i of four rows to to + i*stride.
INLINE void vf_store_columns(const VF *r, float *to, long stride)
{
	__m512 a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
	__m512 c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
	__m512 o[4] = {_mm512_shuffle_ps(a, c, 0x44), _mm512_shuffle_ps(a, c, 0xee),
	               _mm512_shuffle_ps(b, d, 0x44), _mm512_shuffle_ps(b, d, 0xee)};
UNROLL(4)
	for (int i = 0; i < 4; i++) {
		_mm_storeu_ps(to + i * stride, _mm512_castps512_ps128(o[i]));
		_mm_storeu_ps(to + (4 + i) * stride, _mm512_extractf32x4_ps(o[i], 1));
		_mm_storeu_ps(to + (8 + i) * stride, _mm512_extractf32x4_ps(o[i], 2));
		_mm_storeu_ps(to + (12 + i) * stride, _mm512_extractf32x4_ps(o[i], 3));
	}
}

INLINE float vf_max16(const VF *a) { return _mm512_reduce_max_ps(a[0]); }

INLINE float vf_sum16(const VF *a)
{
	__m256 h = _mm256_add_ps(_mm512_castps512_ps256(a[0]), _mm512_extractf32x8_ps(a[0], 1));
	__m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
	q = _mm_add_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
