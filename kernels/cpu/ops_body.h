// The other ops, for one instruction set. Each function runs one chunk of a task: per_chunk rows, or
// what its comment says.

INLINE int chunk_end(int chunk, int per_chunk, int rows)
{
	int64_t end = ((int64_t)chunk + 1) * per_chunk;
	return end < rows ? (int)end : rows;
}

// norm: the sum of squares in the order of floats_body.h, the rest in float32:
// x * (1/sqrt(mean + eps)) * gain.
static void norm(const norm_args *a, int chunk)
{
	int n = a->dim;
	for (int t = chunk * a->per_chunk; t < chunk_end(chunk, a->per_chunk, a->rows); t++) {
		const float *x = (const float *)a->x + (int64_t)t * n, *gain = (const float *)a->gain;
		float *out = (float *)a->out + (int64_t)t * n;
		float scale = 1.0f / __builtin_sqrtf(dot(x, x, n) / (float)n + a->eps);
		int i = 0;
		for (; i + L <= n; i += L)
			vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), vf_set1(scale)), vf_load(gain + i)));
		for (; i < n; i++)
			out[i] = x[i] * scale * gain[i];
	}
}

static void rope_head(const rope_args *a, float *x, const float *cos, const float *sin)
{
	int half = a->rotated / 2;
	if (a->interleaved) {
		for (int i = 0; i < half; i++) {
			float u = x[2 * i], v = x[2 * i + 1];
			x[2 * i] = u * cos[i] - v * sin[i];
			x[2 * i + 1] = u * sin[i] + v * cos[i];
		}
		return;
	}
	float *restrict lo = x, *restrict hi = x + half;
	for (int i = 0; i < half; i++) {
		float u = lo[i], v = hi[i];
		lo[i] = u * cos[i] - v * sin[i];
		hi[i] = u * sin[i] + v * cos[i];
	}
}

static void rope(const rope_args *a, int chunk)
{
	int half = a->rotated / 2;
	for (int t = chunk * a->per_chunk; t < chunk_end(chunk, a->per_chunk, a->rows); t++)
		for (int h = 0; h < a->heads; h++)
			rope_head(a, (float *)a->x + ((int64_t)t * a->heads + h) * a->head_dim,
			          (const float *)a->cos + (int64_t)t * half,
			          (const float *)a->sin + (int64_t)t * half);
}

// choose writes the k largest logits' indices: the probability rises with the logit, and equal ones
// keep their order. A NaN is never larger, and taken last.
INLINE void choose(const float *logits, int n, int k, uint8_t *taken, int32_t *ids)
{
	memset(taken, 0, (size_t)n);
	for (int j = 0; j < k; j++) {
		int best = -1;
		for (int i = 0; i < n; i++)
			if (!taken[i] && (best < 0 || logits[i] > logits[best] ||
			                  (logits[best] != logits[best] && logits[i] == logits[i])))
				best = i;
		taken[best] = 1;
		ids[j] = best;
	}
}

static void route(const route_args *a, int chunk, slot *s)
{
	int n = a->experts, k = a->top_k, padded = (n + TILE - 1) / TILE * TILE;
	float *p = (float *)slot_memory(s, 4 * (int64_t)padded + n);
	if (!p)
		return;
	for (int t = chunk * a->per_chunk; t < chunk_end(chunk, a->per_chunk, a->rows); t++) {
		const float *logits = (const float *)a->logits + (int64_t)t * n;
		int32_t *ids = (int32_t *)a->ids + (int64_t)t * k;
		float *weights = (float *)a->weights + (int64_t)t * k;
		choose(logits, n, k, (uint8_t *)(p + padded), ids);
		float top = logits[ids[0]];
		for (int i = 0; i < padded; i++)
			p[i] = i < n ? logits[i] - top : -__builtin_inff();
		for (int i = 0; i < padded; i += TILE)
			exp16(p + i);
		double sum = 0;
		if (a->normalize)
			for (int j = 0; j < k; j++)
				sum += p[ids[j]];
		else
			for (int i = 0; i < n; i++)
				sum += p[i];
		for (int j = 0; j < k; j++)
			weights[j] = (float)(p[ids[j]] / sum);
	}
}

// add_product adds w*y to acc, the product rounded first.
INLINE void add_product(float *acc, float w, const float *y, int n)
{
	int i = 0;
	for (; i + L <= n; i += L)
		vf_store(acc + i, vf_add(vf_load(acc + i), vf_mul(vf_set1(w), vf_load(y + i))));
	for (; i < n; i++) {
		float product = w * y[i];
		acc[i] += product;
	}
}

// after reports whether slot j comes after slot i in the order of ids, then of slots.
INLINE int after(const int32_t *ids, int j, int i)
{
	return i < 0 || ids[j] > ids[i] || (ids[j] == ids[i] && j > i);
}

INLINE int next_slot(const int32_t *ids, int k, int last)
{
	int best = -1;
	if (!ids)
		return last < 0 ? 0 : -1;
	for (int j = 0; j < k; j++)
		if (j != last && after(ids, j, last) && (best < 0 || !after(ids, j, best)))
			best = j;
	return best;
}

enum { COMBINE_WIDTH = 256 };

static void combine_part(const combine_args *a, int t, int at, int n)
{
	float acc[COMBINE_WIDTH] = {0};
	const int32_t *ids = a->ids ? (const int32_t *)a->ids + (int64_t)t * a->top_k : NULL;
	const float *weights = a->weights ? (const float *)a->weights + (int64_t)t * a->top_k : NULL;
	if (a->top_k > 0)
		for (int j = next_slot(ids, a->top_k, -1); j >= 0; j = next_slot(ids, a->top_k, j))
			add_product(acc, weights ? weights[j] : 1,
			            (const float *)a->y + ((int64_t)t * a->top_k + j) * a->dim + at, n);
	if (a->shared)
		add_product(acc, a->gate ? sigmoid(((const float *)a->gate)[t]) : 1,
		            (const float *)a->shared + (int64_t)t * a->dim + at, n);
	float *x = (float *)a->x + (int64_t)t * a->dim + at;
	for (int i = 0; i < n; i++)
		x[i] += acc[i];
}

static void combine(const combine_args *a, int chunk)
{
	for (int t = chunk * a->per_chunk; t < chunk_end(chunk, a->per_chunk, a->rows); t++)
		for (int at = 0; at < a->dim; at += COMBINE_WIDTH)
			combine_part(a, t, at, a->dim - at < COMBINE_WIDTH ? a->dim - at : COMBINE_WIDTH);
}

// Probes: what the machine gives to loops that do nothing else. Reading is one sequential stream;
// arithmetic is in registers and the first-level cache, with as many independent sums as hide the
// latency.
INLINE int64_t probe_read(const uint8_t *p, int64_t n)
{
	VI s[8];
UNROLL(16)
	for (int i = 0; i < 8; i++)
		s[i] = vi_set1(0);
	for (int64_t at = 0; at + 32 * L <= n; at += 32 * L)
UNROLL(8)
		for (int i = 0; i < 8; i++)
			s[i] = vi_add(s[i], vi_load(p + at + 4 * L * i));
UNROLL(16)
	for (int i = 1; i < 8; i++)
		s[0] = vi_add(s[0], s[i]);
	int64_t sum = 0;
	memcpy(&sum, &s[0], 8);
	return sum;
}

INLINE int64_t probe_ints(int rounds)
{
	uint8_t data[8 * QBLOCK] = {1};
	const uint8_t *x[8];
	int64_t sum = 0;
	for (int lane0 = 0; lane0 < TILE; lane0 += L) {
		VI c[8], e[8], w[4];
UNROLL(16)
		for (int i = 0; i < 8; i++) {
			x[i] = data + i * QBLOCK;
			c[i] = e[i] = vi_set1(i);
			w[i % 4] = vi_set1(i);
		}
		for (int r = 0; r < rounds; r++) {
			__asm__ volatile("" ::"r"(data) : "memory"); // else the products are computed once
			vi_dots(0, 3, 8, c, w, x, 0);
			vi_dots(0, 3, 8, e, w, x, 16);
		}
UNROLL(16)
		for (int i = 0; i < 8; i++)
			c[0] = vi_add(c[0], vi_add(c[i], e[i]));
		int64_t part;
		memcpy(&part, &c[0], 8);
		sum += part;
	}
	return sum;
}

INLINE int64_t probe_floats(int rounds)
{
	int64_t sum = 0;
	for (int lane0 = 0; lane0 < TILE; lane0 += L) {
		VF s[12], a = vf_set1(0.5f), b = vf_set1(0.25f);
UNROLL(16)
		for (int i = 0; i < 12; i++)
			s[i] = vf_set1((float)i);
		for (int r = 0; r < 2 * rounds; r++)
UNROLL(12)
			for (int i = 0; i < 12; i++)
				s[i] = vf_fma(s[i], a, b);
UNROLL(16)
		for (int i = 1; i < 12; i++)
			s[0] = vf_add(s[0], s[i]);
		int64_t part;
		memcpy(&part, &s[0], 8);
		sum += part;
	}
	return sum;
}

static void probe(const probe_args *a, int chunk)
{
	int64_t at = chunk * a->per_chunk, *sink = (int64_t *)a->sink;
	int64_t n = a->bytes - at < a->per_chunk ? a->bytes - at : a->per_chunk;
	if (a->kind == PROBE_READ)
		sink[chunk] = probe_read((const uint8_t *)a->at + at, n);
	else if (a->kind == PROBE_INTS)
		sink[chunk] = probe_ints(a->rounds);
	else
		sink[chunk] = probe_floats(a->rounds);
}

#define ISA_TABLE(NAME)                                                                               \
	{                                                                                                 \
		.name = NAME,                                                                                 \
		.ints = {[T_Q4_0] = ints_T_Q4_0, [T_Q4_1] = ints_T_Q4_1, [T_Q5_0] = ints_T_Q5_0,              \
		         [T_Q5_1] = ints_T_Q5_1, [T_Q8_0] = ints_T_Q8_0, [T_Q2_K] = ints_T_Q2_K,              \
		         [T_Q3_K] = ints_T_Q3_K, [T_Q4_K] = ints_T_Q4_K, [T_Q5_K] = ints_T_Q5_K,              \
		         [T_Q6_K] = ints_T_Q6_K, [T_IQ4NL] = ints_T_IQ4NL, [T_IQ4XS] = ints_T_IQ4XS,          \
		         [T_MXFP4] = ints_T_MXFP4},                                                           \
		.floats = floats, .quantize = quantize, .silu = silu, .norm = norm,                           \
		.rope = rope, .attention = attention, .route = route, .combine = combine, .probe = probe,     \
		.attention_merge = attention_merge,                                                           \
	}
