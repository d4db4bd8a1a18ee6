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

// Attention. An item is a row and a key-value head with its group of query heads, which share the
// reads of keys and values. Positions are taken in runs of up to 16 that begin at multiples of 16 in
// their page; for each run the maximum is raised, and the sums are rescaled by exp(old - new).

// head_state is the running softmax of a query head.
typedef struct {
	float max, sum;
} head_state;

// add_values computes out = out*scale + sum_i p[i] v[i], i ascending; v is (n, dim).
INLINE void add_values_at(int width, float *out, float scale, const float *p, const float *v, int n,
                          int dim)
{
	VF s[4];
UNROLL(4)
	for (int i = 0; i < width; i++)
		s[i] = vf_mul(vf_load(out + L * i), vf_set1(scale));
	for (int j = 0; j < n; j++, v += dim) {
		VF w = vf_set1(p[j]);
UNROLL(4)
		for (int i = 0; i < width; i++)
			s[i] = vf_fma(w, vf_load(v + L * i), s[i]);
	}
UNROLL(4)
	for (int i = 0; i < width; i++)
		vf_store(out + L * i, s[i]);
}

INLINE void add_values(float *out, float scale, const float *p, const float *v, int n, int dim)
{
	int d = 0;
	for (; d + 4 * L <= dim; d += 4 * L)
		add_values_at(4, out + d, scale, p, v + d, n, dim);
	for (; d + L <= dim; d += L)
		add_values_at(1, out + d, scale, p, v + d, n, dim);
	for (; d < dim; d++) {
		float s = out[d] * scale;
		for (int j = 0; j < n; j++)
			s = __builtin_fmaf(p[j], v[(int64_t)j * dim + d], s);
		out[d] = s;
	}
}

// attend_run adds n <= 16 positions to one query head.
INLINE void attend_run(head_state *st, const float *q, float *out, const float *k, const float *v,
                       int n, int dim, float scale)
{
	float p[TILE], top = st->max;
	for (int i = 0; i < n; i++) {
		p[i] = dot(q, k + (int64_t)i * dim, dim) * scale;
		top = p[i] > top ? p[i] : top;
	}
	if (top == -__builtin_inff())
		top = 0; // nothing but -inf so far: exp(-inf - 0) is 0
	for (int i = 0; i < n; i++)
		p[i] -= top;
	for (int i = n; i < TILE; i++)
		p[i] = -__builtin_inff();
	exp16(p);
	float old[TILE] = {st->max - top};
	exp16(old);
	VF parts[PARTS];
	for (int i = 0; i < PARTS; i++)
		parts[i] = vf_load(p + L * i);
	st->sum = __builtin_fmaf(st->sum, old[0], vf_sum16(parts));
	st->max = top;
	add_values(out, old[0], p, v, n, dim);
}

static void attend_item(const attention_args *a, int row, int kv_head, slot *s)
{
	const kv_args *kv = &a->kv;
	int dim = kv->head_dim, group = a->heads / kv->kv_heads;
	int64_t head0 = (int64_t)row * a->heads + (int64_t)kv_head * group;
	const float *q = (const float *)a->q + head0 * dim;
	float *out = (float *)a->out + head0 * dim;
	int32_t seq = ((const int32_t *)a->seqs)[row], pos = ((const int32_t *)a->pos)[row];
	memset(out, 0, sizeof(float) * (size_t)group * (size_t)dim);
	int64_t side = (int64_t)TILE * dim;
	head_state *states = (head_state *)slot_memory(s, (int64_t)sizeof(head_state) * group +
	                                               8 * side);
	if (!states)
		return;
	for (int g = 0; g < group; g++)
		states[g] = (head_state){-__builtin_inff(), 0};
	if (seq < 0 || seq >= kv->table_rows) {
		slot_fault(s, FAULT_SEQUENCE);
		return;
	}
	if (pos >= (int64_t)kv->pages_max * kv->page_tokens) {
		slot_fault(s, FAULT_POSITION);
		return;
	}
	const int32_t *table = (const int32_t *)kv->tables + (int64_t)seq * kv->pages_max;
	int first = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
	for (int p = first; p <= pos;) {
		int in_page = p % kv->page_tokens;
		int n = TILE - in_page % TILE; // to the end of the run, the page, the row
		n = n < kv->page_tokens - in_page ? n : kv->page_tokens - in_page;
		n = n < pos - p + 1 ? n : pos - p + 1;
		int32_t page = table[p / kv->page_tokens];
		if (page < 0 || page >= kv->pages) {
			slot_fault(s, FAULT_PAGE);
			return;
		}
		int64_t head = (int64_t)kv_head * kv->page_tokens;
		const uint8_t *keys = (const uint8_t *)kv->pool + page * kv->page_bytes + kv->layer_at +
		                      (head + in_page) * kv->row_bytes;
		const uint8_t *values = keys + (int64_t)kv->kv_heads * kv->page_tokens * kv->row_bytes;
		const float *k = (const float *)keys, *v = (const float *)values;
		if (kv->type != T_F32) {
			float *wide = (float *)(states + group);
			decode_row(kv->type, keys, (int64_t)n * dim, wide);
			decode_row(kv->type, values, (int64_t)n * dim, wide + side);
			k = wide;
			v = wide + side;
		}
		for (int g = 0; g < group; g++)
			attend_run(&states[g], q + (int64_t)g * dim, out + (int64_t)g * dim, k, v, n, dim,
			           a->scale);
		p += n;
	}
	for (int g = 0; g < group; g++) {
		float by = states[g].sum == 0 ? 0 : 1.0f / states[g].sum;
		for (int d = 0; d < dim; d++)
			out[(int64_t)g * dim + d] *= by;
	}
}

// attention: items are ordered by key-value head within a row.
static void attention(const attention_args *a, int chunk, slot *s)
{
	int64_t items = (int64_t)a->rows * a->kv.kv_heads, i = (int64_t)chunk * a->per_chunk;
	int64_t end = i + a->per_chunk < items ? i + a->per_chunk : items;
	for (; i < end; i++)
		attend_item(a, (int)(i / a->kv.kv_heads), (int)(i % a->kv.kv_heads), s);
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
	for (int i = 0; i < 8; i++)
		s[i] = vi_set1(0);
	for (int64_t at = 0; at + 32 * L <= n; at += 32 * L)
UNROLL(8)
		for (int i = 0; i < 8; i++)
			s[i] = vi_add(s[i], vi_load(p + at + 4 * L * i));
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
		VI c[2][8], w[4];
		for (int i = 0; i < 8; i++) {
			x[i] = data + i * QBLOCK;
			c[0][i] = c[1][i] = vi_set1(i);
			w[i % 4] = vi_set1(i);
		}
		for (int r = 0; r < rounds; r++) {
			vi_dots(0, 3, 8, c[0], w, x, 0);
			vi_dots(0, 3, 8, c[1], w, x, 16);
		}
		for (int i = 0; i < 8; i++)
			c[0][0] = vi_add(c[0][0], vi_add(c[0][i], c[1][i]));
		int64_t part;
		memcpy(&part, &c[0][0], 8);
		sum += part;
	}
	return sum;
}

INLINE int64_t probe_floats(int rounds)
{
	int64_t sum = 0;
	for (int lane0 = 0; lane0 < TILE; lane0 += L) {
		VF s[12], a = vf_set1(0.5f), b = vf_set1(0.25f);
		for (int i = 0; i < 12; i++)
			s[i] = vf_set1((float)i);
		for (int r = 0; r < 2 * rounds; r++)
UNROLL(12)
			for (int i = 0; i < 12; i++)
				s[i] = vf_fma(s[i], a, b);
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
	}
