// Products in float32, for one instruction set. The order is fixed: lane l of 16 takes the columns
// l, l+16, l+32, ... with one fma each; the 16 sums are then added as l + (l+8), l + (l+4), l + (l+2),
// l + (l+1). A row that is not a multiple of 16 is continued with zeros.

enum { PARTS = TILE / L };

INLINE void float16s(int type, const uint8_t *p, VF *v)
{
UNROLL(4)
	for (int i = 0; i < PARTS; i++) {
		if (type == T_F32)
			v[i] = vf_load(p + 4 * L * i);
		else if (type == T_F16)
			v[i] = vf_half(p + 2 * L * i);
		else
			v[i] = vf_bits(vi_sll(vi_u16(p + 2 * L * i), 16));
	}
}

INLINE int float_bytes(int type) { return type == T_F32 ? 4 : 2; }

// dots computes nr rows of weights times mr rows of x; acc is (mr, 16), from column 0.
INLINE void dots(int type, int nr, int mr, const uint8_t *w, int64_t stride, int k,
                 const void *const *x, float *acc)
{
	VF s[16][PARTS];
UNROLL(16)
	for (int i = 0; i < nr * mr; i++)
UNROLL(4)
		for (int p = 0; p < PARTS; p++)
			s[i][p] = vf_set1(0);
	int at = 0;
	for (; at + TILE <= k; at += TILE) {
		VF v[4][PARTS];
UNROLL(4)
		for (int r = 0; r < nr; r++)
			float16s(type, w + r * stride + (int64_t)at * float_bytes(type), v[r]);
UNROLL(4)
		for (int m = 0; m < mr; m++)
UNROLL(4)
			for (int p = 0; p < PARTS; p++) {
				VF y = vf_load((const float *)x[m] + at + L * p);
UNROLL(4)
				for (int r = 0; r < nr; r++)
					s[r * mr + m][p] = vf_fma(v[r][p], y, s[r * mr + m][p]);
			}
	}
	if (at < k) {
		for (int m = 0; m < mr; m++) {
			float y[TILE] = {0};
			memcpy(y, (const float *)x[m] + at, 4 * (size_t)(k - at));
			for (int r = 0; r < nr; r++) {
				uint8_t tail[4 * TILE] = {0};
				VF v[PARTS];
				memcpy(tail, w + r * stride + (int64_t)at * float_bytes(type),
				       (size_t)((k - at) * float_bytes(type)));
				float16s(type, tail, v);
				for (int p = 0; p < PARTS; p++)
					s[r * mr + m][p] = vf_fma(v[p], vf_load(y + L * p), s[r * mr + m][p]);
			}
		}
	}
UNROLL(16)
	for (int r = 0; r < nr; r++)
UNROLL(16)
		for (int m = 0; m < mr; m++)
			acc[TILE * m + r] = vf_sum16(s[r * mr + m]);
}

// Registers hold NR*MR*PARTS sums.
#if ROWS_MAX == 8
enum { NR = 4, MR = 4 };
#else
enum { NR = 2, MR = 2 };
#endif

#define DOTS(T)                                                                                       \
	static __attribute__((noinline)) void floats_##T(const uint8_t *w, int64_t stride, int n, int k,  \
	                                                 const void *const *x, int m, float *acc)         \
	{                                                                                                 \
		int i = 0, r = 0;                                                                             \
		for (; i + MR <= m; i += MR) {                                                                \
			for (r = 0; r + NR <= n; r += NR)                                                         \
				dots(T, NR, MR, w + r * stride, stride, k, x + i, acc + TILE * i + r);                \
			for (; r < n; r++)                                                                        \
				dots(T, 1, MR, w + r * stride, stride, k, x + i, acc + TILE * i + r);                 \
		}                                                                                             \
		for (; i < m; i++) {                                                                          \
			for (r = 0; r + 2 <= n; r += 2)                                                           \
				dots(T, 2, 1, w + r * stride, stride, k, x + i, acc + TILE * i + r);                  \
			if (r < n)                                                                                \
				dots(T, 1, 1, w + r * stride, stride, k, x + i, acc + TILE * i + r);                  \
		}                                                                                             \
	}

DOTS(T_F32)
DOTS(T_F16)
DOTS(T_BF16)

static void floats(int type, const uint8_t *w, int64_t stride, int n, int k, const void *const *x,
                   int m, float *acc)
{
	if (type == T_F32)
		floats_T_F32(w, stride, n, k, x, m, acc);
	else if (type == T_F16)
		floats_T_F16(w, stride, n, k, x, m, acc);
	else
		floats_T_BF16(w, stride, n, k, x, m, acc);
}

// dot is one product of two float rows in the order above.
INLINE float dot(const float *a, const float *b, int k)
{
	VF s[PARTS];
	for (int p = 0; p < PARTS; p++)
		s[p] = vf_set1(0);
	int at = 0;
	for (; at + TILE <= k; at += TILE)
UNROLL(4)
		for (int p = 0; p < PARTS; p++)
			s[p] = vf_fma(vf_load(a + at + L * p), vf_load(b + at + L * p), s[p]);
	if (at < k) {
		float x[TILE] = {0}, y[TILE] = {0};
		memcpy(x, a + at, 4 * (size_t)(k - at));
		memcpy(y, b + at, 4 * (size_t)(k - at));
		for (int p = 0; p < PARTS; p++)
			s[p] = vf_fma(vf_load(x + L * p), vf_load(y + L * p), s[p]);
	}
	return vf_sum16(s);
}

// vf_exp is e^x: x = n ln 2 + r with ln 2 in two parts, the Taylor series of e^r to r^7 (|r| <=
// ln2/2, truncation below 2^-27), and 2^n as two factors, so that results may be subnormal. The
// error is below 2 ulp; NaN stays NaN.
INLINE VF vf_exp(VF x)
{
	x = vf_max(vf_set1(-104.0f), vf_min(vf_set1(89.0f), x));
	VI n = vi_round(vf_mul(x, vf_set1(0x1.715476p+0f)));
	VF f = vf_int(n);
	VF r = vf_fma(f, vf_set1(-0x1.62e400p-1f), x);
	r = vf_fma(f, vf_set1(-0x1.7f7d1cp-20f), r);
	VF p = vf_set1(1.0f / 5040);
	p = vf_fma(p, r, vf_set1(1.0f / 720));
	p = vf_fma(p, r, vf_set1(1.0f / 120));
	p = vf_fma(p, r, vf_set1(1.0f / 24));
	p = vf_fma(p, r, vf_set1(1.0f / 6));
	p = vf_fma(p, r, vf_set1(0.5f));
	p = vf_fma(p, r, vf_set1(1.0f));
	p = vf_fma(p, r, vf_set1(1.0f));
	VI half = vi_sra(n, 1), rest = vi_add(n, vi_mul(half, vi_set1(-1)));
	VF a = vf_bits(vi_sll(vi_add(half, vi_set1(127)), 23));
	VF b = vf_bits(vi_sll(vi_add(rest, vi_set1(127)), 23));
	return vf_mul(vf_mul(p, a), b);
}

INLINE VF vf_sigmoid(VF x)
{
	VF one = vf_set1(1.0f);
	return vf_div(one, vf_add(one, vf_exp(vf_mul(x, vf_set1(-1.0f)))));
}

// exp16 replaces 16 values by their exponentials.
INLINE void exp16(float *v)
{
	for (int p = 0; p < TILE; p += L)
		vf_store(v + p, vf_exp(vf_load(v + p)));
}

INLINE float sigmoid(float x)
{
	float v[L];
	vf_store(v, vf_sigmoid(vf_set1(x)));
	return v[0];
}

static void silu(float *gate, const float *up, int n)
{
	int i = 0;
	for (; i + L <= n; i += L) {
		VF g = vf_load(gate + i);
		vf_store(gate + i, vf_mul(vf_mul(g, vf_sigmoid(g)), vf_load(up + i)));
	}
	for (; i < n; i++) {
		float g = gate[i] * sigmoid(gate[i]);
		gate[i] = g * up[i];
	}
}
