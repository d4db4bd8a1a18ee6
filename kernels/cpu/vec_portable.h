// Vectors of 4 lanes in the vector extension of GCC and Clang: any machine.
#include <math.h>

enum { L = 4 };
typedef int32_t VI __attribute__((vector_size(16)));
typedef uint32_t VU __attribute__((vector_size(16)));
typedef float VF __attribute__((vector_size(16)));

INLINE VI vi_load(const void *p) { VI v; memcpy(&v, p, 16); return v; }
INLINE VI vi_set1(int32_t v) { return (VI){v, v, v, v}; }
INLINE VI vi_u8(const void *p)
{
	const uint8_t *b = p;
	return (VI){b[0], b[1], b[2], b[3]};
}
INLINE VI vi_u16(const void *p)
{
	const uint8_t *b = p;
	return (VI){load_u16(b), load_u16(b + 2), load_u16(b + 4), load_u16(b + 6)};
}
INLINE VI vi_i8(const void *p)
{
	const int8_t *b = p;
	return (VI){b[0], b[1], b[2], b[3]};
}
INLINE VI vi_and(VI a, VI b) { return a & b; }
INLINE VI vi_or(VI a, VI b) { return a | b; }
INLINE VI vi_add(VI a, VI b) { return a + b; }
INLINE VI vi_sub(VI a, VI b) { return a - b; }
INLINE VI vi_mul(VI a, VI b) { return a * b; }
INLINE VI vi_srl(VI a, int n) { return (VI)((VU)a >> (uint32_t)n); }
INLINE VI vi_sra(VI a, int n) { return a >> n; }
INLINE VI vi_sll(VI a, int n) { return (VI)((VU)a << (uint32_t)n); }
INLINE VI vi_table(const uint8_t *t, VI index)
{
	uint8_t b[16];
	memcpy(b, &index, 16);
	for (int i = 0; i < 16; i++)
		b[i] = t[b[i]];
	return vi_load(b);
}

INLINE VI vi_max(VI a, VI b)
{
	VI more = a > b;
	return (a & more) | (b & ~more);
}
INLINE int32_t vi_most(VI a)
{
	int32_t m = a[0];
	for (int i = 1; i < L; i++)
		m = a[i] > m ? a[i] : m;
	return m;
}
INLINE int32_t vi_sum(VI a) { return a[0] + a[1] + a[2] + a[3]; }
INLINE void vi_store_i8(void *p, VI a)
{
	for (int i = 0; i < L; i++)
		((int8_t *)p)[i] = (int8_t)a[i];
}

INLINE VF vf_load(const void *p) { VF v; memcpy(&v, p, 16); return v; }
INLINE void vf_store(void *p, VF v) { memcpy(p, &v, 16); }
INLINE VF vf_set1(float v) { return (VF){v, v, v, v}; }
INLINE VF vf_half(const void *p)
{
	const uint8_t *b = p;
	return (VF){half_f32(load_u16(b)), half_f32(load_u16(b + 2)), half_f32(load_u16(b + 4)),
	            half_f32(load_u16(b + 6))};
}
INLINE VF vf_int(VI v) { return __builtin_convertvector(v, VF); }
INLINE VF vf_bits(VI v) { return (VF)v; }
INLINE VF vf_add(VF a, VF b) { return a + b; }
INLINE VF vf_mul(VF a, VF b) { return a * b; }
INLINE VF vf_div(VF a, VF b) { return a / b; }
INLINE VF vf_fma(VF a, VF b, VF c)
{
	return (VF){fmaf(a[0], b[0], c[0]), fmaf(a[1], b[1], c[1]), fmaf(a[2], b[2], c[2]),
	            fmaf(a[3], b[3], c[3])};
}
INLINE VF vf_select(VI mask, VF a, VF b) { return (VF)((mask & (VI)a) | (~mask & (VI)b)); }
INLINE VF vf_min(VF a, VF b) { return vf_select(a < b, a, b); }
INLINE VF vf_max(VF a, VF b) { return vf_select(a > b, a, b); }
// vi_round rounds to the nearest even for |v| < 2^22; what it gives for other values is not used.
INLINE VI vi_round(VF v) { return (VI)(v + 12582912.0f) - 0x4b400000; }

INLINE VI vi_dot_start(int offset, VI n)
{
	switch (offset) {
	case 0: return vi_set1(0);
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
	for (int j = 0; j < 4; j++) {
		const int8_t *b = (const int8_t *)x + 4 * j;
		c += (w[j] & 255) * b[0] + (vi_srl(w[j], 8) & 255) * b[1] + (vi_srl(w[j], 16) & 255) * b[2] +
		     vi_srl(w[j], 24) * b[3];
	}
	return c;
}

INLINE void vi_dots(int offset, int max, int mr, VI *c, const VI *w, const uint8_t *const *x, long at)
{
	UNROLL(8)
	for (int i = 0; i < mr; i++)
		c[i] = vi_dot(offset, max, c[i], w, x[i] + at);
}

// vf_store_columns writes column i of four rows to to + i*stride.
INLINE void vf_store_columns(const VF *r, float *to, long stride)
{
	for (int i = 0; i < 4; i++)
		vf_store(to + i * stride, (VF){r[0][i], r[1][i], r[2][i], r[3][i]});
}

INLINE float vf_max16(const VF *a)
{
	VF q = vf_max(vf_max(a[0], a[2]), vf_max(a[1], a[3]));
	float h = q[0] > q[2] ? q[0] : q[2], k = q[1] > q[3] ? q[1] : q[3];
	return h > k ? h : k;
}

INLINE float vf_sum16(const VF *a)
{
	VF q = (a[0] + a[2]) + (a[1] + a[3]);
	return (q[0] + q[2]) + (q[1] + q[3]);
}
