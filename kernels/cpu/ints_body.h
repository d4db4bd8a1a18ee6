// Products of quantised weights with quantised activations, for one instruction set.
//
// A lane is an output row. For each block of 32 columns, in order:
//
//	f = fma(float(sum q*x), dw*dx, f)                  formats with a scale
//	f = fma(mw, float(sum x)*dx, f)                    then, formats with a minimum
//
// where the sums are exact integers (in formats with a scale for 16, the integer scales are inside)
// and dw*dx is rounded. Whatever computes the sums, the bits are the same.

// block is one block of 32 columns of a tile, unpacked: w[j] holds elements 4j..4j+3 of its lanes as
// unsigned bytes.
typedef struct {
	VI w[8];
	VF d, m;           // scale; minimum (negated, or times 1/8: see q2)
	VI s0, s1, t0, t1; // integer scales and minimums of the halves
} block;

static const uint8_t table_iq4_raised[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181,
                                             197, 217, 241};
static const uint8_t table_mxfp4_raised[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10,
                                               8, 4};

// fmt_* are properties of formats, folded at compile time.
INLINE int fmt_blocks(int t)
{
	return t == T_Q2_K || t == T_Q3_K || t == T_Q4_K || t == T_Q5_K || t == T_Q6_K || t == T_IQ4XS ? 8
	                                                                                               : 2;
}
// fmt_unit is without the head.
INLINE int fmt_unit(int t)
{
	switch (t) {
	case T_Q4_0: case T_IQ4NL: return 576;
	case T_Q4_1: return 640;
	case T_Q5_0: return 704;
	case T_Q5_1: return 768;
	case T_Q8_0: return 1088;
	case T_MXFP4: return 512;
	case T_Q2_K: return 1344;
	case T_Q3_K: return 1728;
	case T_Q4_K: return 2304;
	case T_Q5_K: return 2816;
	case T_Q6_K: return 3328;
	default: return 2176;
	}
}
INLINE int fmt_head(int t) { return t == T_MXFP4 || t == T_Q3_K || t == T_Q6_K ? 32 : 0; }
INLINE int fmt_offset(int t)
{
	switch (t) {
	case T_Q4_0: return 8;
	case T_Q5_0: case T_MXFP4: return 16;
	case T_Q8_0: case T_IQ4NL: case T_IQ4XS: return 128;
	case T_Q3_K: return 4;
	case T_Q6_K: return 32;
	default: return 0;
	}
}
INLINE int fmt_max(int t)
{
	switch (t) {
	case T_Q4_0: case T_Q4_1: case T_Q4_K: return 15;
	case T_Q5_0: case T_Q5_1: case T_Q5_K: return 31;
	case T_MXFP4: return 28;
	case T_Q2_K: return 3;
	case T_Q3_K: return 7;
	case T_Q6_K: return 63;
	default: return 255;
	}
}
INLINE int fmt_halves(int t) { return t == T_Q2_K || t == T_Q3_K || t == T_Q6_K; }
INLINE int fmt_minimum(int t) { return t == T_Q4_1 || t == T_Q5_1 || t == T_Q4_K || t == T_Q5_K; }

INLINE void unpack_nibbles(const uint8_t *p, VI *w)
{
	const VI low = vi_set1(0x0f0f0f0f);
UNROLL(4)
	for (int j = 0; j < 4; j++) {
		VI v = vi_load(p + 64 * j);
		w[j] = vi_and(v, low);
		w[4 + j] = vi_and(vi_srl(v, 4), low);
	}
}

INLINE void unpack_table(const uint8_t *t, VI *w)
{
UNROLL(8)
	for (int j = 0; j < 8; j++)
		w[j] = vi_table(t, w[j]);
}

// vi_move brings bit `from` to bit `to`.
INLINE VI vi_move(VI v, int from, int to)
{
	return from < to ? vi_sll(v, to - from) : from > to ? vi_srl(v, from - to) : v;
}

// add_high adds to each byte of w[j] the bit `from` of the bytes of dword vector j, at bit `to`.
INLINE void add_high(VI high, int from, int to, VI *w)
{
	*w = vi_or(*w, vi_and(vi_move(high, from, to), vi_set1(0x01010101 << to)));
}

// byte_at returns byte i of each lane.
INLINE VI byte_at(VI v, int i) { return i == 3 ? vi_srl(v, 24) : vi_and(vi_srl(v, 8 * i), vi_set1(255)); }

// shared is what the eight blocks of a unit of Q4_K and Q5_K have in common: scale, minimum (negated), and
// the blocks' factors for them, one a byte.
typedef struct {
	VF d, m;
	VI scales[2], minimums[2];
} shared;

INLINE void unpack_shared(int t, const uint8_t *u, int lane0, shared *s)
{
	if (t != T_Q4_K && t != T_Q5_K)
		return;
	const uint8_t *u4 = u + 4 * lane0, *u2 = u + 2 * lane0;
	const VI six = vi_set1(0x3f3f3f3f), low = vi_set1(0x0f0f0f0f), top = vi_set1(0x30303030);
	VI z0 = vi_load(u4 + 64), z1 = vi_load(u4 + 128), z2 = vi_load(u4 + 192);
	s->d = vf_half(u2);
	s->m = vf_mul(vf_half(u2 + 32), vf_set1(-1.0f));
	s->scales[0] = vi_and(z0, six);
	s->minimums[0] = vi_and(z1, six);
	s->scales[1] = vi_or(vi_and(z2, low), vi_and(vi_srl(z0, 2), top));
	s->minimums[1] = vi_or(vi_and(vi_srl(z2, 4), low), vi_and(vi_srl(z1, 2), top));
}

INLINE void unpack_k45(int t, const uint8_t *u4, const shared *s, int b, block *k)
{
	k->d = vf_mul(s->d, vf_int(byte_at(s->scales[b / 4], b % 4)));
	k->m = vf_mul(s->m, vf_int(byte_at(s->minimums[b / 4], b % 4)));
	const uint8_t *codes = u4 + (t == T_Q4_K ? 256 : 768) + b / 2 * 512;
UNROLL(8)
	for (int j = 0; j < 8; j++) {
		k->w[j] = vi_and(vi_srl(vi_load(codes + 64 * j), b % 2 * 4), vi_set1(0x0f0f0f0f));
		if (t == T_Q5_K)
			add_high(vi_load(u4 + 256 + 64 * j), b, 4, &k->w[j]);
	}
}

INLINE void unpack_q2(const uint8_t *u4, const uint8_t *u2, int b, block *k)
{
	VI z = vi_load(u4 + 64 + b / 2 * 64);
	VI a = byte_at(z, b % 2 * 2), c = byte_at(z, b % 2 * 2 + 1);
	k->s0 = vi_and(a, vi_set1(15));
	k->s1 = vi_and(c, vi_set1(15));
	k->t0 = vi_srl(a, 4);
	k->t1 = vi_srl(c, 4);
	k->d = vf_half(u2);
	// Sums of activations are kept as -8 times the sum: the factor is -1/8 of -dmin.
	k->m = vf_mul(vf_half(u2 + 32), vf_set1(0.125f));
UNROLL(8)
	for (int j = 0; j < 8; j++)
		k->w[j] = vi_and(vi_srl(vi_load(u4 + 320 + b / 4 * 512 + 64 * j), b % 4 * 2),
		                 vi_set1(0x03030303));
}

INLINE VI scale_q3(const uint8_t *u4, int s)
{
	VI low = vi_srl(vi_load(u4 + s % 8 / 4 * 64), 8 * (s % 4) + 4 * (s / 8));
	VI high = vi_srl(vi_load(u4 + 128), 8 * (s % 4) + 2 * (s / 4));
	VI v = vi_or(vi_and(low, vi_set1(15)), vi_sll(vi_and(high, vi_set1(3)), 4));
	return vi_add(v, vi_set1(-32));
}

INLINE void unpack_q3(const uint8_t *u4, const uint8_t *head2, int b, block *k)
{
	k->s0 = scale_q3(u4, 2 * b);
	k->s1 = scale_q3(u4, 2 * b + 1);
	k->d = vf_half(head2);
UNROLL(8)
	for (int j = 0; j < 8; j++) {
		k->w[j] = vi_and(vi_srl(vi_load(u4 + 704 + b / 4 * 512 + 64 * j), b % 4 * 2),
		                 vi_set1(0x03030303));
		add_high(vi_load(u4 + 192 + 64 * j), b, 2, &k->w[j]);
	}
}

INLINE VI signed_byte_at(VI v, int i) { return vi_sra(vi_sll(v, 24 - 8 * i), 24); }

INLINE void unpack_q6(const uint8_t *u4, const uint8_t *head2, int b, block *k)
{
	const uint8_t *half = u4 + b / 4 * 1664;
	VI z = vi_load(half + b / 2 % 2 * 64);
	k->s0 = signed_byte_at(z, b % 2 * 2);
	k->s1 = signed_byte_at(z, b % 2 * 2 + 1);
	k->d = vf_half(head2);
UNROLL(8)
	for (int j = 0; j < 8; j++) {
		VI low = vi_srl(vi_load(half + 128 + b % 2 * 1024 + 64 * j), b / 2 % 2 * 4);
		VI high = vi_move(vi_load(half + 640 + 64 * j), b % 4 * 2, 4);
		k->w[j] = vi_or(vi_and(low, vi_set1(0x0f0f0f0f)), vi_and(high, vi_set1(0x30303030)));
	}
}

// unpack reads block b of the unit at u, lanes lane0 to lane0+L-1; head is what lies before the pair
// of units and belongs to this one.
INLINE void unpack(int t, const uint8_t *u, const uint8_t *head, const shared *s, int lane0, int b, block *k)
{
	const uint8_t *u4 = u + 4 * lane0, *u2 = u + 2 * lane0; // for dwords, for halves
	switch (t) {
	case T_Q4_0:
	case T_IQ4NL:
		k->d = vf_half(u2 + 32 * b);
		unpack_nibbles(u4 + 64 + 256 * b, k->w);
		if (t == T_IQ4NL)
			unpack_table(table_iq4_raised, k->w);
		break;
	case T_Q4_1:
		k->d = vf_half(u2 + 32 * b);
		k->m = vf_half(u2 + 64 + 32 * b);
		unpack_nibbles(u4 + 128 + 256 * b, k->w);
		break;
	case T_Q5_0:
	case T_Q5_1:
		k->d = vf_half(u2 + 32 * b);
		if (t == T_Q5_1)
			k->m = vf_half(u2 + 64 + 32 * b);
		unpack_nibbles(u4 + (t == T_Q5_0 ? 192 : 256) + 256 * b, k->w);
UNROLL(8)
		for (int j = 0; j < 8; j++)
			add_high(vi_load(u4 + (t == T_Q5_0 ? 64 : 128) + 64 * b), j, 4, &k->w[j]);
		break;
	case T_Q8_0:
		k->d = vf_half(u2 + 32 * b);
UNROLL(8)
		for (int j = 0; j < 8; j++)
			k->w[j] = vi_load(u4 + 64 + 512 * b + 64 * j);
		break;
	case T_MXFP4: {
		// 2^(e-128) as a product of two powers, so that it may be subnormal.
		VI e = vi_u8(head + lane0 + 16 * b), h = vi_srl(e, 1);
		VI r = vi_add(e, vi_mul(h, vi_set1(-1)));
		k->d = vf_mul(vf_bits(vi_sll(vi_add(h, vi_set1(63)), 23)),
		              vf_bits(vi_sll(vi_add(r, vi_set1(63)), 23)));
		unpack_nibbles(u4 + 256 * b, k->w);
		unpack_table(table_mxfp4_raised, k->w);
		break;
	}
	case T_Q2_K: unpack_q2(u4, u2, b, k); break;
	case T_Q3_K: unpack_q3(u4, head + 2 * lane0, b, k); break;
	case T_Q4_K:
	case T_Q5_K: unpack_k45(t, u4, s, b, k); break;
	case T_Q6_K: unpack_q6(u4, head + 2 * lane0, b, k); break;
	default: { // T_IQ4XS
		VI low = vi_and(vi_srl(vi_load(u4 + 64), 4 * b), vi_set1(15));
		VI high = vi_and(vi_srl(vi_u16(u2 + 32), 2 * b), vi_set1(3));
		VI scale = vi_add(vi_or(low, vi_sll(high, 4)), vi_set1(-32));
		k->d = vf_mul(vf_half(u2), vf_int(scale));
		unpack_nibbles(u4 + 128 + 256 * b, k->w);
		unpack_table(table_iq4_raised, k->w);
	}
	}
}

// Quantised activations of a block lie as 32 int8, float d, float (sum x)*d, and int32 -8 times the
// sum of its first half and of all.
enum { X_D = 32, X_SUM = 36, X_N0 = 40, X_N = 44 };

INLINE VI splat(const void *p) { return vi_set1(load_i32(p)); }

INLINE void multiply(int t, int mr, const block *k, const uint8_t *const *x, long at, VF *f)
{
	const int offset = fmt_offset(t), max = fmt_max(t);
	// Two chains of sums, but one where many rows keep the machine busy and the halves have one scale.
	const int one = mr >= 4 && !fmt_halves(t);
	VI c[8], e[8];
	UNROLL(8)
	for (int i = 0; i < mr; i++) {
		VI n = splat(x[i] + at + X_N);
		c[i] = vi_dot_start(offset, n);
		e[i] = vi_set1(0);
		if (fmt_halves(t)) {
			VI n0 = splat(x[i] + at + X_N0);
			c[i] = vi_dot_start(offset, n0);
			e[i] = vi_dot_start(offset, vi_sub(n, n0));
		}
	}
	vi_dots(offset, max, mr, c, k->w, x, at);
	vi_dots(offset, max, mr, one ? c : e, k->w + 4, x, at + 16);
UNROLL(8)
	for (int i = 0; i < mr; i++) {
		const uint8_t *q = x[i] + at;
		VF dx = vf_set1(load_f32(q + X_D));
		VI s = fmt_halves(t) ? vi_add(vi_mul(c[i], k->s0), vi_mul(e[i], k->s1))
		     : one         ? c[i]
		                   : vi_add(c[i], e[i]);
		f[i] = vf_fma(vf_int(s), vf_mul(k->d, dx), f[i]);
		if (fmt_minimum(t))
			f[i] = vf_fma(k->m, vf_set1(load_f32(q + X_SUM)), f[i]);
		if (t == T_Q2_K) {
			VI n0 = splat(q + X_N0), n1 = vi_sub(splat(q + X_N), n0);
			VI n = vi_add(vi_mul(k->t0, n0), vi_mul(k->t1, n1));
			f[i] = vf_fma(vf_int(n), vf_mul(k->m, dx), f[i]);
		}
	}
}

// fetch_ahead prefetches block b's part of a unit that is wanted soon. Units of many lines are fetched block by
// block: at once, they kept 8 rows of Q8_0 waiting for a fifth of their time. Small ones are better off
// at once.
INLINE void fetch_ahead(int t, int b, const uint8_t *unit)
{
	int lines = fmt_unit(t) / CACHE_LINE, n = lines > 12 ? fmt_blocks(t) : 1;
	int end = b < n ? lines * (b + 1) / n : 0;
UNROLL(16)
	for (int i = lines * b / n; i < end; i++)
		__builtin_prefetch(unit + CACHE_LINE * i, 0, 2);
}

// product computes a tile with mr rows. ahead is how far to prefetch; 0 where the tile is near.
INLINE void product(int t, int mr, const uint8_t *w, long units, const void *const *rows, float *acc,
                    long ahead)
{
	for (int lane0 = 0; lane0 < TILE; lane0 += L) {
		const uint8_t *x[8], *u = w;
		VF f[8];
UNROLL(8)
		for (int i = 0; i < mr; i++) {
			x[i] = rows[i];
			f[i] = vf_set1(0);
		}
		long at = 0;
		for (long n = 0; n < units; n++, u += fmt_unit(t)) {
			const uint8_t *head = u;
			if (fmt_head(t)) {
				int odd = n & 1;
				head = w + (n - odd) * (fmt_unit(t) + fmt_head(t));
				u = head + (n + 1 < units || odd ? 2 : 1) * fmt_head(t) + odd * fmt_unit(t);
				head += odd * fmt_head(t);
			}
			shared s;
			unpack_shared(t, u, lane0, &s);
UNROLL(8)
			for (int b = 0; b < fmt_blocks(t); b++, at += QBLOCK) {
				block k;
				if (mr > 1 && ahead)
					fetch_ahead(t, b, u + ahead);
				// Blocks share bytes, which compilers would keep, and then spill.
				__asm__("" : "+r"(u));
				unpack(t, u, head, &s, lane0, b, &k);
				multiply(t, mr, &k, x, at, f);
			}
		}
UNROLL(8)
		for (int i = 0; i < mr; i++)
			vf_store(acc + TILE * i + lane0, f[i]);
	}
}

#define PRODUCT(T, MR)                                                                                \
	static __attribute__((noinline)) void product_##T##_##MR(                                         \
	    const uint8_t *w, long units, const void *const *x, float *acc, long ahead)                   \
	{                                                                                                 \
		product(T, MR, w, units, x, acc, ahead);                                                      \
	}

// AHEAD is how far ahead several rows prefetch, in bytes, and into the second-level cache: into the first,
// the few reads that it can have under way were the limit, with eight-bit weights at half the bandwidth.
enum { AHEAD = 8192 };

#if ROWS_MAX == 8
#define PRODUCTS(T)                                                                                   \
	PRODUCT(T, 1) PRODUCT(T, 2) PRODUCT(T, 3) PRODUCT(T, 4) PRODUCT(T, 8)                             \
	static void ints_##T(const uint8_t *w, long units, const void *const *x, int m, float *acc)       \
	{                                                                                                 \
		long ahead = AHEAD;                                                                           \
		for (; m >= 8; m -= 8, x += 8, acc += 8 * TILE, ahead = 0)                                    \
			product_##T##_8(w, units, x, acc, ahead);                                                 \
		if (m >= 4) {                                                                                 \
			product_##T##_4(w, units, x, acc, ahead);                                                 \
			m -= 4, x += 4, acc += 4 * TILE, ahead = 0;                                               \
		}                                                                                             \
		if (m == 3)                                                                                   \
			product_##T##_3(w, units, x, acc, ahead);                                                 \
		else if (m == 2)                                                                              \
			product_##T##_2(w, units, x, acc, ahead);                                                 \
		else if (m == 1)                                                                              \
			product_##T##_1(w, units, x, acc, ahead);                                                 \
	}
#elif ROWS_MAX == 4
#define PRODUCTS(T)                                                                                   \
	PRODUCT(T, 1) PRODUCT(T, 2) PRODUCT(T, 4)                                                         \
	static void ints_##T(const uint8_t *w, long units, const void *const *x, int m, float *acc)       \
	{                                                                                                 \
		long ahead = AHEAD;                                                                           \
		for (; m >= 4; m -= 4, x += 4, acc += 4 * TILE, ahead = 0)                                    \
			product_##T##_4(w, units, x, acc, ahead);                                                 \
		if (m >= 2) {                                                                                 \
			product_##T##_2(w, units, x, acc, ahead);                                                 \
			m -= 2, x += 2, acc += 2 * TILE, ahead = 0;                                               \
		}                                                                                             \
		if (m == 1)                                                                                   \
			product_##T##_1(w, units, x, acc, ahead);                                                 \
	}
#else
// Without unrolling, for the size of it: one function a format.
#define PRODUCTS(T)                                                                                   \
	static void ints_##T(const uint8_t *w, long units, const void *const *x, int m, float *acc)       \
	{                                                                                                 \
		for (; m > 0; m -= 4, x += 4, acc += 4 * TILE)                                                \
			product(T, m < 4 ? m : 4, w, units, x, acc, 0);                                           \
	}
#endif

PRODUCTS(T_Q4_0)
PRODUCTS(T_Q4_1)
PRODUCTS(T_Q5_0)
PRODUCTS(T_Q5_1)
PRODUCTS(T_Q8_0)
PRODUCTS(T_Q2_K)
PRODUCTS(T_Q3_K)
PRODUCTS(T_Q4_K)
PRODUCTS(T_Q5_K)
PRODUCTS(T_Q6_K)
PRODUCTS(T_IQ4NL)
PRODUCTS(T_IQ4XS)
PRODUCTS(T_MXFP4)

// quantize_block quantises 32 activations: d = max|x|/127, q = x/d to the nearest even. A block with
// an infinity or a NaN gets q = 0 and a d that is not finite, so that every sum with it is NaN.
static void quantize_block(const float *x, uint8_t *q)
{
	VI top = vi_set1(0), v[32 / L];
UNROLL(8)
	for (int i = 0; i < 32; i += L) // floats without a sign are ordered as their bits are
		top = vi_max(top, vi_and(vi_load(x + i), vi_set1(0x7fffffff)));
	uint32_t most = (uint32_t)vi_most(top);
	float d = as_f32(most) / 127.0f;
	int finite = most < 0x7f800000 && d > 0;
	VF by = vf_set1(finite ? d : 1), top127 = vf_set1(127), low127 = vf_set1(-127);
UNROLL(8)
	for (int i = 0; i < 32; i += L) {
		VF y = finite ? vf_div(vf_load(x + i), by) : vf_set1(0);
		y = vf_max(vf_min(y, top127), low127); // where d is subnormal
		v[i / L] = vi_round(y);
		vi_store_i8(q + i, v[i / L]);
	}
UNROLL(4)
	for (int i = 1; i < 16 / L; i++) {
		v[0] = vi_add(v[0], v[i]);
		v[16 / L] = vi_add(v[16 / L], v[16 / L + i]);
	}
	int32_t s0 = vi_sum(v[0]), s1 = vi_sum(v[16 / L]);
	float sum = (float)(s0 + s1) * d;
	int32_t n0 = -8 * s0, n = -8 * (s0 + s1);
	memcpy(q + X_D, &d, 4);
	memcpy(q + X_SUM, &sum, 4);
	memcpy(q + X_N0, &n0, 4);
	memcpy(q + X_N, &n, 4);
}

static void quantize(const float *x, int n, uint8_t *q)
{
	for (int i = 0; i < n; i += 32, q += QBLOCK)
		quantize_block(x + i, q);
}
