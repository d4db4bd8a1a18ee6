// Vectors of 4 lanes: NEON with the dot product of ARMv8.2.
#include <arm_neon.h>
#include <math.h>

enum { L = 4 };
typedef int32x4_t VI;
typedef float32x4_t VF;

INLINE VI vi_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
INLINE VI vi_set1(int32_t v) { return vdupq_n_s32(v); }
INLINE VI vi_u8(const void *p)
{
	uint8x8_t b = vreinterpret_u8_u32(vdup_n_u32(load_u32(p)));
	return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(b))));
}
INLINE VI vi_i8(const void *p)
{
	int8x8_t b = vreinterpret_s8_u32(vdup_n_u32(load_u32(p)));
	return vmovl_s16(vget_low_s16(vmovl_s8(b)));
}
INLINE VI vi_u16(const void *p)
{
	return vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(p))));
}
INLINE VI vi_and(VI a, VI b) { return vandq_s32(a, b); }
INLINE VI vi_or(VI a, VI b) { return vorrq_s32(a, b); }
INLINE VI vi_add(VI a, VI b) { return vaddq_s32(a, b); }
INLINE VI vi_sub(VI a, VI b) { return vsubq_s32(a, b); }
INLINE VI vi_mul(VI a, VI b) { return vmulq_s32(a, b); }
INLINE VI vi_srl(VI a, int n)
{
	return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-n)));
}
INLINE VI vi_sra(VI a, int n) { return vshlq_s32(a, vdupq_n_s32(-n)); }
INLINE VI vi_sll(VI a, int n) { return vshlq_s32(a, vdupq_n_s32(n)); }
INLINE VI vi_table(const uint8_t *t, VI index)
{
	return vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(t), vreinterpretq_u8_s32(index)));
}

INLINE VI vi_max(VI a, VI b) { return vmaxq_s32(a, b); }
INLINE int32_t vi_most(VI a) { return vmaxvq_s32(a); }
INLINE int32_t vi_sum(VI a) { return vaddvq_s32(a); }
INLINE void vi_store_i8(void *p, VI a)
{
	int16x4_t h = vmovn_s32(a);
	uint32_t v = vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(h, h))), 0);
	memcpy(p, &v, 4);
}

INLINE VF vf_load(const void *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
INLINE void vf_store(void *p, VF v) { vst1q_u8(p, vreinterpretq_u8_f32(v)); }
INLINE VF vf_set1(float v) { return vdupq_n_f32(v); }
INLINE VF vf_half(const void *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
INLINE VF vf_int(VI v) { return vcvtq_f32_s32(v); }
INLINE VF vf_bits(VI v) { return vreinterpretq_f32_s32(v); }
INLINE VI vi_round(VF v) { return vcvtnq_s32_f32(v); }
INLINE VF vf_add(VF a, VF b) { return vaddq_f32(a, b); }
INLINE VF vf_mul(VF a, VF b) { return vmulq_f32(a, b); }
INLINE VF vf_div(VF a, VF b) { return vdivq_f32(a, b); }
INLINE VF vf_fma(VF a, VF b, VF c) { return vfmaq_f32(c, a, b); }
INLINE VF vf_min(VF a, VF b) { return vbslq_f32(vcltq_f32(a, b), a, b); } // b where either is NaN
INLINE VF vf_max(VF a, VF b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

// The dot product is of signed bytes. Weights of up to 7 bits are positive ones, and raised ones of 8
// bits are lowered again, so that nothing has to be taken off for them.
INLINE VI vi_dot_start(int offset, VI n)
{
	switch (offset) {
	case 4: return vi_sra(n, 1);
	case 8: return n;
	case 16: return vi_sll(n, 1);
	case 32: return vi_sll(n, 2);
	default: return vi_set1(0);
	}
}
INLINE void vi_dots(int offset, int max, int mr, VI *c, const VI *w, const uint8_t *const *x, long at)
{
	int8x16_t v[4];
	(void)max;
UNROLL(4)
	for (int j = 0; j < 4; j++) {
		v[j] = vreinterpretq_s8_s32(w[j]);
		if (offset == 128)
			v[j] = veorq_s8(v[j], vdupq_n_s8(-128));
	}
UNROLL(8)
	for (int i = 0; i < mr; i++) {
		int8x16_t q = vreinterpretq_s8_u8(vld1q_u8(x[i] + at));
		c[i] = vdotq_laneq_s32(c[i], v[0], q, 0);
		c[i] = vdotq_laneq_s32(c[i], v[1], q, 1);
		c[i] = vdotq_laneq_s32(c[i], v[2], q, 2);
		c[i] = vdotq_laneq_s32(c[i], v[3], q, 3);
	}
}

// vf_store_columns writes column i of four rows to to + i*stride.
INLINE void vf_store_columns(const VF *r, float *to, long stride)
{
	float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
	vf_store(to, vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0])));
	vf_store(to + stride, vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1])));
	vf_store(to + 2 * stride, vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0])));
	vf_store(to + 3 * stride, vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1])));
}

INLINE float vf_max16(const VF *a)
{
	VF q = vf_max(vf_max(a[0], a[2]), vf_max(a[1], a[3]));
	float h = q[0] > q[2] ? q[0] : q[2], k = q[1] > q[3] ? q[1] : q[3];
	return h > k ? h : k;
}

INLINE float vf_sum16(const VF *a)
{
	VF q = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
	return (q[0] + q[2]) + (q[1] + q[3]);
}
