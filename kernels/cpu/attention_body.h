// Attention over the paged cache, for one instruction set.
//
// A row's positions are cut, whatever rows are beside it, at multiples of SEGMENT, and within a
// segment into runs: up to RUN positions that begin at multiples of RUN in their page. For a run,
// lanes are positions: scores are sums over the head's dimensions in ascending order with one fused
// multiply-add each; the segment's maximum is raised, and its sums are rescaled by exp(old - new);
// values are added position by position. Segments are merged in order. So a segment can be computed
// by any thread, a run for many rows and query heads at once, and bits stay.

enum { RUN = 32, SEGMENT = ATTENTION_SEGMENT, RUN_PARTS = RUN / L };

// head is one query head of one row.
typedef struct {
	const float *q;
	float *o;     // (dim): the sum of values of the segment
	float *total; // (dim): of the segments before
	float max, sum, total_max, total_sum;
	int32_t first, last; // positions
	int32_t lo, hi;      // those of the present run
} head;

// Heads that share the reads of keys, and vectors of values that are summed at a time: registers hold
// the sums.
#if ROWS_MAX == 8
enum { HEADS = 8, WIDTH = 2 };
#else
enum { HEADS = 2, WIDTH = 2 };
#endif

// widen reads L elements of a cached row from element d on.
INLINE VF widen(int type, const uint8_t *row, int d)
{
	if (type == T_F32)
		return vf_load(row + 4 * d);
	if (type == T_F16)
		return vf_half(row + 2 * d);
	const uint8_t *b = row + d / 32 * 34;
	return vf_mul(vf_int(vi_i8(b + 2 + d % 32)), vf_set1(half_f32(load_u16(b))));
}

INLINE float widen_one(int type, const uint8_t *row, int d)
{
	if (type == T_F32)
		return load_f32(row + 4 * d);
	return half_f32(load_u16(row + 2 * d)); // rows of Q8_0 have no remainder
}

// ahead asks for bytes i*part to (i+1)*part-1 of what will be read soon. Few rows read the cache faster
// than a processor sees by itself that it is read in order: pages are short, and lie anywhere.
INLINE void ahead(const uint8_t *soon, int64_t part, int64_t i)
{
	for (int64_t at = i * part; at < (i + 1) * part; at += CACHE_LINE)
		__builtin_prefetch(soon + at, 0, 2);
}

// transpose writes n rows of keys as (dim, RUN) floats; soon, as many rows of values, is read next.
INLINE void transpose(int type, const uint8_t *keys, const uint8_t *soon, int64_t row_bytes, int n,
                      int dim, float *to)
{
	int d = 0, whole = dim / L * L;
	for (int j = 0; j < n; j += 4) {
		const uint8_t *row[4];
		for (int i = 0; i < 4; i++) // lanes past the end are never used
			row[i] = keys + (j + i < n ? j + i : n - 1) * row_bytes;
		ahead(soon, 4 * row_bytes, j / 4);
		for (d = 0; d < whole; d += L) {
			VF v[4];
UNROLL(8)
			for (int i = 0; i < 4; i++)
				v[i] = widen(type, row[i], d);
			vf_store_columns(v, to + (int64_t)d * RUN + j, RUN);
		}
		for (d = whole; d < dim; d++)
			for (int i = 0; i < 4; i++)
				to[(int64_t)d * RUN + j + i] = widen_one(type, row[i], d);
	}
}

// widen_rows writes n rows of values as (n, dim) floats.
INLINE void widen_rows(int type, const uint8_t *values, int64_t row_bytes, int n, int dim, float *to)
{
	for (int j = 0; j < n; j++, values += row_bytes, to += dim) {
		int d = 0;
		for (; d + L <= dim; d += L)
			vf_store(to + d, widen(type, values, d));
		for (; d < dim; d++)
			to[d] = widen_one(type, values, d);
	}
}

INLINE void exp_one(float *v)
{
	float e[L];
	vf_store(e, vf_exp(vf_set1(*v)));
	*v = e[0];
}

// scores computes the weights of a run for nr heads, and raises their maximums: p is (nr, RUN), factor
// what the heads' sums have to be multiplied by. soon, RUN keys of row_bytes or NULL, is read next.
INLINE void scores(int nr, head *const *h, const float *kt, int dim, float scale, float (*p)[RUN],
                   float *factor, const uint8_t *soon, int64_t part)
{
	VF s[HEADS][RUN_PARTS];
UNROLL(8)
	for (int r = 0; r < nr; r++)
UNROLL(8)
		for (int v = 0; v < RUN_PARTS; v++)
			s[r][v] = vf_set1(0);
	for (int d = 0; d < dim; d++, kt += RUN) {
		if (soon)
			ahead(soon, part, d);
		VF k[RUN_PARTS];
UNROLL(8)
		for (int v = 0; v < RUN_PARTS; v++)
			k[v] = vf_load(kt + L * v);
UNROLL(8)
		for (int r = 0; r < nr; r++) {
			VF q = vf_set1(h[r]->q[d]);
UNROLL(8)
			for (int v = 0; v < RUN_PARTS; v++)
				s[r][v] = vf_fma(k[v], q, s[r][v]);
		}
	}
UNROLL(8)
	for (int r = 0; r < nr; r++) {
UNROLL(8)
		for (int v = 0; v < RUN_PARTS; v++)
			vf_store(p[r] + L * v, vf_mul(s[r][v], vf_set1(scale)));
		for (int i = 0; i < h[r]->lo; i++)
			p[r][i] = -__builtin_inff();
		for (int i = h[r]->hi; i < RUN; i++)
			p[r][i] = -__builtin_inff();
		VF t[PARTS];
UNROLL(8)
		for (int v = 0; v < PARTS; v++)
			t[v] = vf_max(vf_load(p[r] + L * v), vf_load(p[r] + TILE + L * v));
		float top = vf_max16(t);
		top = h[r]->max > top ? h[r]->max : top;
		if (top == -__builtin_inff())
			top = 0; // nothing but -inf so far: exp(-inf - 0) is 0
		VF minus = vf_set1(-top);
UNROLL(8)
		for (int v = 0; v < PARTS; v++) {
			VF a = vf_exp(vf_add(vf_load(p[r] + L * v), minus));
			VF b = vf_exp(vf_add(vf_load(p[r] + TILE + L * v), minus));
			vf_store(p[r] + L * v, a);
			vf_store(p[r] + TILE + L * v, b);
			t[v] = vf_add(a, b);
		}
		factor[r] = h[r]->max - top;
		if (factor[r] == 0)
			factor[r] = 1;
		else
			exp_one(&factor[r]);
		h[r]->sum = __builtin_fmaf(h[r]->sum, factor[r], vf_sum16(t));
		h[r]->max = top;
	}
}

// add_values adds positions lo to hi-1 of a run to elements d to d+L*width-1 of nr heads.
INLINE void add_values(int nr, int width, head *const *h, const float *factor, float (*p)[RUN],
                       const float *v, int dim, int d, int lo, int hi)
{
	VF o[HEADS][WIDTH];
UNROLL(8)
	for (int r = 0; r < nr; r++)
UNROLL(8)
		for (int i = 0; i < width; i++)
			o[r][i] = vf_mul(vf_load(h[r]->o + d + L * i), vf_set1(factor[r]));
	v += (int64_t)lo * dim + d;
	for (int j = lo; j < hi; j++, v += dim) {
		VF w[WIDTH];
UNROLL(8)
		for (int i = 0; i < width; i++)
			w[i] = vf_load(v + L * i);
UNROLL(8)
		for (int r = 0; r < nr; r++) {
			VF q = vf_set1(p[r][j]);
UNROLL(8)
			for (int i = 0; i < width; i++)
				o[r][i] = vf_fma(q, w[i], o[r][i]);
		}
	}
UNROLL(8)
	for (int r = 0; r < nr; r++)
UNROLL(8)
		for (int i = 0; i < width; i++)
			vf_store(h[r]->o + d + L * i, o[r][i]);
}

INLINE void add_run(int nr, head *const *h, const float *factor, float (*p)[RUN], const float *v, int dim,
                    int lo, int hi)
{
	int d = 0;
	for (; d + WIDTH * L <= dim; d += WIDTH * L)
		add_values(nr, WIDTH, h, factor, p, v, dim, d, lo, hi);
	for (; d + L <= dim; d += L)
		add_values(nr, 1, h, factor, p, v, dim, d, lo, hi);
	for (; d < dim; d++)
		for (int r = 0; r < nr; r++) {
			float s = h[r]->o[d] * factor[r];
			for (int j = lo; j < hi; j++)
				s = __builtin_fmaf(p[r][j], v[(int64_t)j * dim + d], s);
			h[r]->o[d] = s;
		}
}

// attend_heads adds a run to nr heads.
INLINE void attend_heads(int nr, head *const *h, const float *kt, const float *v, int dim, float scale,
                         const uint8_t *soon, int64_t part)
{
	float p[HEADS][RUN], factor[HEADS];
	scores(nr, h, kt, dim, scale, p, factor, soon, part);
	int same = 1;
	for (int r = 1; r < nr; r++)
		same &= h[r]->lo == h[0]->lo && h[r]->hi == h[0]->hi;
	if (same)
		add_run(nr, h, factor, p, v, dim, h[0]->lo, h[0]->hi);
	else
		for (int r = 0; r < nr; r++)
			add_run(1, h + r, factor + r, p + r, v, dim, h[r]->lo, h[r]->hi);
}

static __attribute__((noinline)) void attend_some(head *const *h, const float *kt, const float *v,
                                                  int dim, float scale, const uint8_t *soon,
                                                  int64_t part)
{
	attend_heads(HEADS, h, kt, v, dim, scale, soon, part);
}

static __attribute__((noinline)) void attend_one(head *const *h, const float *kt, const float *v, int dim,
                                                 float scale, const uint8_t *soon, int64_t part)
{
	attend_heads(1, h, kt, v, dim, scale, soon, part);
}

// merge adds a segment to those before it.
INLINE void merge(float *total, float *total_max, float *total_sum, const float *o, float max, float sum,
                  int dim)
{
	float top = max > *total_max ? max : *total_max;
	if (top == -__builtin_inff())
		return; // nothing yet
	float a = *total_max - top, b = max - top;
	exp_one(&a);
	exp_one(&b);
	int d = 0;
	for (; d + L <= dim; d += L)
		vf_store(total + d, vf_fma(vf_load(total + d), vf_set1(a), vf_mul(vf_load(o + d), vf_set1(b))));
	for (; d < dim; d++) {
		float part = o[d] * b;
		total[d] = __builtin_fmaf(total[d], a, part);
	}
	float part = sum * b;
	*total_sum = __builtin_fmaf(*total_sum, a, part);
	*total_max = top;
}

INLINE void begin_segment(head *h, int dim)
{
	h->max = -__builtin_inff();
	h->sum = 0;
	memset(h->o, 0, sizeof(float) * (size_t)dim);
}

// partial is a segment's result in the scratch memory of an op whose segments are shared out: a
// maximum, a sum, and dim values.
INLINE float *partial_at(const attention_args *a, const slot *s, int64_t row_head, int segment)
{
	return (float *)(s->scratch + a->partial_at) +
	       (row_head * a->segments + segment) * (a->kv.head_dim + 2);
}

// end_segment merges a segment, or stores it where others compute its neighbours.
INLINE void end_segment(const attention_args *a, const slot *s, head *h, int64_t row_head, int segment)
{
	int dim = a->kv.head_dim;
	if (a->parts <= 1) {
		merge(h->total, &h->total_max, &h->total_sum, h->o, h->max, h->sum, dim);
		return;
	}
	float *to = partial_at(a, s, row_head, segment);
	to[0] = h->max;
	to[1] = h->sum;
	memcpy(to + 2, h->o, sizeof(float) * (size_t)dim);
}

INLINE void finish_head(float *out, const float *total, float sum, int dim)
{
	float by = sum == 0 ? 0 : 1.0f / sum;
	for (int d = 0; d < dim; d++)
		out[d] = total[d] * by;
}

// place is a row's sequence and positions, or a fault.
INLINE int place(const attention_args *a, int row, int32_t *seq, int32_t *first, int32_t *last)
{
	const kv_args *kv = &a->kv;
	*seq = ((const int32_t *)a->seqs)[row];
	*last = ((const int32_t *)a->pos)[row];
	*first = a->window > 0 && *last >= a->window ? *last - a->window + 1 : 0;
	if (*seq < 0 || *seq >= kv->table_rows)
		return FAULT_SEQUENCE;
	return *last < 0 || *last >= (int64_t)kv->pages_max * kv->page_tokens ? FAULT_POSITION : FAULT_NONE;
}

// tile is a group of rows of one sequence with one key-value head, and the memory for it.
typedef struct {
	head *heads;
	head **active;
	float *kt, *v; // (dim, RUN); (RUN, dim) where values are not float32
	int n;         // heads
	int32_t seq, first, last;
} tile;

// keys_at is a head's keys in a page.
INLINE const uint8_t *keys_at(const kv_args *kv, int32_t page, int kv_head)
{
	return (const uint8_t *)kv->pool + page * kv->page_bytes + kv->layer_at +
	       (int64_t)kv_head * kv->page_tokens * kv->row_bytes;
}

// keys_of is a position's keys, or NULL where its page is none.
INLINE const uint8_t *keys_of(const kv_args *kv, int32_t seq, int64_t p, int kv_head)
{
	int32_t page = ((const int32_t *)kv->tables)[(int64_t)seq * kv->pages_max + p / kv->page_tokens];
	if (page < 0 || page >= kv->pages)
		return NULL;
	return keys_at(kv, page, kv_head) + p % kv->page_tokens * kv->row_bytes;
}

// attend_run adds the positions of one run to all heads that want some of them; it returns the
// position after the run, or -1.
INLINE int64_t attend_run(const attention_args *a, tile *t, int kv_head, int64_t p, int64_t end, slot *s)
{
	const kv_args *kv = &a->kv;
	int dim = kv->head_dim, active = 0, n = 0;
	int32_t page = ((const int32_t *)kv->tables)[(int64_t)t->seq * kv->pages_max + p / kv->page_tokens];
	// The grid of runs does not depend on where rows begin: p may lie before it.
	int64_t in_page = p % kv->page_tokens, begin = p - in_page % RUN, base = p - in_page;
	int64_t until = begin + RUN < base + kv->page_tokens ? begin + RUN : base + kv->page_tokens;
	int64_t segment = p / SEGMENT * SEGMENT;
	begin = begin > segment ? begin : segment;
	until = until < segment + SEGMENT ? until : segment + SEGMENT;
	until = until < end ? until : end;
	for (int i = 0; i < t->n; i++) {
		head *h = &t->heads[i];
		h->lo = h->first > begin ? (int32_t)(h->first - begin) : 0;
		h->hi = (int32_t)((h->last + 1 < until ? h->last + 1 : until) - begin);
		if (h->lo < h->hi) {
			t->active[active++] = h;
			n = n > h->hi ? n : h->hi;
		}
	}
	if (!active)
		return until;
	if (page < 0 || page >= kv->pages) {
		slot_fault(s, FAULT_PAGE);
		return -1;
	}
	const uint8_t *keys = keys_at(kv, page, kv_head) + (begin - base) * kv->row_bytes;
	const uint8_t *values = keys + (int64_t)kv->kv_heads * kv->page_tokens * kv->row_bytes;
	const float *v = t->v;
	if (kv->type == T_F32) {
		transpose(T_F32, keys, values, kv->row_bytes, n, dim, t->kt);
		v = (const float *)values;
	} else if (kv->type == T_F16) {
		transpose(T_F16, keys, values, kv->row_bytes, n, dim, t->kt);
		widen_rows(T_F16, values, kv->row_bytes, n, dim, t->v);
	} else {
		transpose(T_Q8_0, keys, values, kv->row_bytes, n, dim, t->kt);
		widen_rows(T_Q8_0, values, kv->row_bytes, n, dim, t->v);
	}
	const uint8_t *soon = until < end ? keys_of(kv, t->seq, until, kv_head) : NULL;
	int64_t part = (RUN * kv->row_bytes + dim - 1) / dim;
	int i = 0;
	for (; i + HEADS <= active; i += HEADS, soon = NULL)
		attend_some(t->active + i, t->kt, v, dim, a->scale, soon, part);
	for (; i < active; i++, soon = NULL)
		attend_one(t->active + i, t->kt, v, dim, a->scale, soon, part);
	return until;
}

// attend_tile computes the segments of a tile: all of them, or every parts-th from part on.
static void attend_tile(const attention_args *a, tile *t, int row0, int kv_head, int part, slot *s)
{
	int dim = a->kv.head_dim, group = a->heads / a->kv.kv_heads;
	for (int segment = t->first / SEGMENT; segment <= t->last / SEGMENT; segment++) {
		if (a->parts > 1 && segment % a->parts != part)
			continue;
		int64_t p = (int64_t)segment * SEGMENT, end = p + SEGMENT;
		p = p > t->first ? p : t->first;
		end = end < (int64_t)t->last + 1 ? end : (int64_t)t->last + 1;
		for (int i = 0; i < t->n; i++)
			begin_segment(&t->heads[i], dim);
		while (p >= 0 && p < end)
			p = attend_run(a, t, kv_head, p, end, s);
		if (p < 0)
			return;
		for (int i = 0; i < t->n; i++) {
			head *h = &t->heads[i];
			if (h->first < end && h->last >= (int64_t)segment * SEGMENT)
				end_segment(a, s, h, (int64_t)(row0 + i / group) * a->heads + kv_head * group + i % group,
				            segment);
		}
	}
}

// new_tile cuts a tile for so many heads out of the slot's memory.
static int new_tile(slot *s, int heads, int dim, tile *t)
{
	int64_t wide = 4 * (int64_t)dim * RUN, row = 4 * (int64_t)dim;
	wide = (wide + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	row = (row + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	uint8_t *m = slot_memory(s, 2 * wide + heads * (2 * row + (int64_t)(sizeof(head) + sizeof(head *))));
	if (!m)
		return -1;
	t->kt = (float *)m;
	t->v = (float *)(m + wide);
	m += 2 * wide;
	uint8_t *rest = m + heads * 2 * row;
	t->heads = (head *)rest;
	t->active = (head **)(t->heads + heads);
	for (int i = 0; i < heads; i++) {
		t->heads[i].o = (float *)(m + 2 * i * row);
		t->heads[i].total = (float *)(m + (2 * i + 1) * row);
	}
	return 0;
}

// attend_rows computes rows row0 to end-1, which are of one sequence, with one key-value head.
static void attend_rows(const attention_args *a, int row0, int end, int kv_head, int part, slot *s)
{
	int dim = a->kv.head_dim, group = a->heads / a->kv.kv_heads;
	tile t = {.n = 0};
	if (new_tile(s, (end - row0) * group, dim, &t))
		return;
	for (int row = row0; row < end; row++) {
		int32_t first, last;
		int fault = place(a, row, &t.seq, &first, &last);
		if (fault) {
			slot_fault(s, fault);
			return;
		}
		t.first = t.n == 0 || first < t.first ? first : t.first;
		t.last = t.n == 0 || last > t.last ? last : t.last;
		for (int g = 0; g < group; g++) {
			head *h = &t.heads[t.n++];
			h->q = (const float *)a->q + ((int64_t)row * a->heads + kv_head * group + g) * dim;
			h->total_max = -__builtin_inff();
			h->total_sum = 0;
			memset(h->total, 0, sizeof(float) * (size_t)dim);
			h->first = first;
			h->last = last;
		}
	}
	attend_tile(a, &t, row0, kv_head, part, s);
	if (a->parts > 1)
		return;
	for (int i = 0; i < t.n; i++)
		finish_head((float *)a->out + ((int64_t)(row0 + i / group) * a->heads + kv_head * group + i % group) *
		                                  dim,
		            t.heads[i].total, t.heads[i].total_sum, dim);
}

// attention: a chunk is a block of rows, a key-value head, and a part of their segments. Rows of a
// block that are of one sequence share the reads of keys and values.
static void attention(const attention_args *a, int chunk, slot *s)
{
	int part = chunk % a->parts, kv_head = chunk / a->parts % a->kv.kv_heads;
	int row = chunk / a->parts / a->kv.kv_heads * a->per_chunk;
	int end = row + a->per_chunk < a->rows ? row + a->per_chunk : a->rows;
	const int32_t *seqs = (const int32_t *)a->seqs;
	while (row < end) {
		int next = row + 1;
		while (next < end && seqs[next] == seqs[row])
			next++;
		attend_rows(a, row, next, kv_head, part, s);
		row = next;
	}
}

// attention_merge: a chunk is a row, whose segments have been computed by others.
static void attention_merge(const attention_args *a, int row, slot *s)
{
	int dim = a->kv.head_dim;
	int32_t seq, first, last;
	if (place(a, row, &seq, &first, &last))
		return; // reported
	float *total = (float *)slot_memory(s, 4 * (int64_t)dim);
	if (!total)
		return;
	for (int h = 0; h < a->heads; h++) {
		int64_t row_head = (int64_t)row * a->heads + h;
		float max = -__builtin_inff(), sum = 0;
		memset(total, 0, sizeof(float) * (size_t)dim);
		for (int segment = first / SEGMENT; segment <= last / SEGMENT; segment++) {
			const float *p = partial_at(a, s, row_head, segment);
			merge(total, &max, &sum, p + 2, p[0], p[1], dim);
		}
		finish_head((float *)a->out + row_head * dim, total, sum, dim);
	}
}
