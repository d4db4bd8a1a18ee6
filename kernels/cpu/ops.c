// What a chunk of a task does, and which instruction set does it.
#include "internal.h"

#if defined(__x86_64__) && !defined(MOERING_PORTABLE)
#include <cpuid.h>
#elif defined(__aarch64__) && !defined(MOERING_PORTABLE)
#include <sys/auxv.h>

enum { DOT_PRODUCT = 1 << 20 }; // HWCAP_ASIMDDP of Linux
#endif

#if defined(__x86_64__) && !defined(MOERING_PORTABLE)
// has_avxvnni asks CPUID leaf 7, subleaf 1, for which compilers have no name yet.
static int has_avxvnni(void)
{
	unsigned a = 0, b = 0, c = 0, d = 0;
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 4);
}
#endif

const isa *isa_find(const char *name)
{
	int any = !*name;
#if defined(__x86_64__) && !defined(MOERING_PORTABLE)
	__builtin_cpu_init();
	if ((any || !strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") &&
	    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
	    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
	    __builtin_cpu_supports("avx512vbmi"))
		return &isa_avx512;
	if ((any || !strcmp(name, "avxvnni")) && has_avxvnni())
		return &isa_avxvnni;
	// Every processor with AVX2 and FMA has F16C, which older compilers cannot ask for.
	if ((any || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") &&
	    __builtin_cpu_supports("fma"))
		return &isa_avx2;
#elif defined(__aarch64__) && !defined(MOERING_PORTABLE)
	if ((any || !strcmp(name, "neon")) && (getauxval(AT_HWCAP) & DOT_PRODUCT))
		return &isa_neon;
#endif
	return any || !strcmp(name, "portable") ? &isa_portable : NULL;
}

const char *isa_name(const isa *k) { return k->name; }

// tile_mul computes rows 16*tile.. of w times m rows of x: acc is (m, 16). Lanes past the last row
// are undefined. Scratch of the slot holds a tile that has to be rearranged or decoded first.
static int tile_mul(const isa *k, slot *s, const mat *w, int tile, int ints, const void *const *x,
                    int m, float *acc)
{
	const uint8_t *data = (const uint8_t *)w->data + (int64_t)tile * TILE * w->row_bytes;
	int n = w->rows - tile * TILE < TILE ? w->rows - tile * TILE : TILE;
	const format *f = type_format(w->type);
	if (!f) {
		k->floats(w->type, data, w->row_bytes, n, w->cols, x, m, acc);
		return 0;
	}
	int64_t units = (w->cols + f->elements - 1) / f->elements, unit_row = units * f->bytes;
	if (ints) {
		if (!w->tiled) {
			uint8_t *copy = slot_memory(s, TILE * unit_row);
			if (!copy)
				return -1;
			// The next tile's rows come while this one is multiplied, which takes long.
			tile_pack(f, data, w->row_bytes, n, copy, data + TILE * w->row_bytes);
			data = copy;
		}
		k->ints[w->type](data, units, x, m, acc);
		return 0;
	}
	int64_t float_row = 4 * (int64_t)w->cols;
	uint8_t *decoded = slot_memory(s, n * float_row + unit_row);
	if (!decoded)
		return -1;
	for (int r = 0; r < n; r++) {
		const uint8_t *row = data + r * w->row_bytes;
		if (w->tiled) {
			tile_unpack_row(f, data, r, units, decoded + n * float_row);
			row = decoded + n * float_row;
		}
		decode_row(w->type, row, w->cols, (float *)(decoded + r * float_row));
	}
	k->floats(T_F32, decoded, float_row, n, w->cols, x, m, acc);
	return 0;
}

// quantize_row quantises a row, or its last columns, and completes its last unit with zeros.
static void quantize_row(const isa *k, const float *x, int cols, uint8_t *q)
{
	k->quantize(x, cols, q);
	if (cols % 64)
		memset(q + cols / 32 * QBLOCK, 0, QBLOCK);
}

static void run_quantize(const isa *k, const quantize_args *a, int chunk, slot *s)
{
	const uint8_t *used = (const uint8_t *)a->used;
	int64_t end = ((int64_t)chunk + 1) * a->per_chunk;
	for (int64_t t = (int64_t)chunk * a->per_chunk; t < end && t < a->rows; t++)
		if (!used || used[t])
			quantize_row(k, (const float *)a->x + t * a->cols, a->cols,
			             s->scratch + a->q_at + t * a->q_stride);
}

// store_tile writes n outputs of m rows to out, rows stride apart.
static void store_tile(const float *acc, int m, int n, const float *bias, int accumulate, float *out,
                       int64_t stride)
{
	for (int i = 0; i < m; i++, acc += TILE, out += stride) {
		if (n == TILE && !bias && !accumulate) {
			memcpy(out, acc, sizeof(float) * TILE); // a known size is no call
			continue;
		}
		for (int r = 0; r < n; r++) {
			float v = bias ? acc[r] + bias[r] : acc[r];
			out[r] = accumulate ? out[r] + v : v;
		}
	}
}

static void run_matmul(const isa *k, const matmul_args *a, int chunk, slot *s)
{
	const job *j = (const job *)a->jobs + chunk;
	const term *t = (const term *)a->terms + j->index;
	const float *bias = (const float *)t->bias;
	float acc[MBLOCK * TILE] __attribute__((aligned(64)));
	const void *x[MBLOCK];
	for (int m0 = j->m0; m0 < j->m1; m0 += MBLOCK) {
		int m = j->m1 - m0 < MBLOCK ? j->m1 - m0 : MBLOCK;
		for (int i = 0; i < m; i++)
			x[i] = t->ints ? (const void *)(s->scratch + a->q_at + (m0 + i) * a->q_stride)
			               : (const void *)((const float *)a->x + (int64_t)(m0 + i) * a->cols);
		for (int tile = j->tile0; tile < j->tile1; tile++) {
			int row = tile * TILE, n = t->w.rows - row < TILE ? t->w.rows - row : TILE;
			float *out = (float *)t->out + (int64_t)m0 * t->w.rows + row;
			for (int i = 0; i < m; i++) // lines that are written while they come wait for memory
				__builtin_prefetch(out + (int64_t)i * t->w.rows, 1);
			if (tile_mul(k, s, &t->w, tile, t->ints, x, m, acc))
				return;
			store_tile(acc, m, n, bias ? bias + row : NULL, t->accumulate, out, t->w.rows);
		}
	}
}

// hidden_tiles computes up to 32 columns of silu(gate)*up from column 16*tile on, for the rows in x,
// and quantises them where they are a block.
static int hidden_tiles(const isa *k, slot *s, const ffn_args *a, const expert *e, int tile,
                        const void *const *x, int m, int64_t pair)
{
	enum { PAIR = 2 * TILE };
	float acc[MBLOCK * TILE] __attribute__((aligned(64)));
	float gate[MBLOCK * PAIR], up[MBLOCK * PAIR];
	int at = tile * TILE, n = a->width - at < PAIR ? a->width - at : PAIR;
	for (int side = 0; side < 2; side++) {
		for (int h = 0; h * TILE < n; h++) {
			if (tile_mul(k, s, side ? &e->up : &e->gate, tile + h, side ? a->x_ints >> 1 : a->x_ints & 1,
			             x + side * MBLOCK, m, acc))
				return -1;
			store_tile(acc, m, n - h * TILE < TILE ? n - h * TILE : TILE, NULL, 0,
			           (side ? up : gate) + h * TILE, PAIR);
		}
	}
	for (int i = 0; i < m; i++) {
		uint8_t *hidden = s->scratch + a->h_at + (pair + i) * a->h_stride;
		k->silu(gate + i * PAIR, up + i * PAIR, n);
		if (a->h_ints && a->width % 64 && at + n == a->width)
			memset(hidden + a->width / 32 * QBLOCK, 0, QBLOCK);
		if (a->h_ints)
			k->quantize(gate + i * PAIR, n, hidden + at / 32 * QBLOCK);
		else
			memcpy((float *)hidden + at, gate + i * PAIR, sizeof(float) * (size_t)n);
	}
	return 0;
}

static void run_ffn_up(const isa *k, const ffn_args *a, int chunk, slot *s)
{
	const job *j = (const job *)a->jobs + chunk;
	const expert *e = (const expert *)a->experts + j->index;
	const int32_t *rows = (const int32_t *)e->rows;
	const void *x[2 * MBLOCK]; // for gate, for up
	for (int m0 = j->m0; m0 < j->m1; m0 += MBLOCK) {
		int m = j->m1 - m0 < MBLOCK ? j->m1 - m0 : MBLOCK;
		for (int i = 0; i < m; i++) {
			const void *q = s->scratch + a->q_at + rows[m0 + i] * a->q_stride;
			const void *f = (const float *)a->x + (int64_t)rows[m0 + i] * a->dim;
			x[i] = a->x_ints & 1 ? q : f;
			x[MBLOCK + i] = a->x_ints & 2 ? q : f;
		}
		for (int tile = j->tile0; tile < j->tile1; tile += 2)
			if (hidden_tiles(k, s, a, e, tile, x, m, e->pair0 + m0))
				return;
	}
}

static void run_ffn_down(const isa *k, const ffn_args *a, int chunk, slot *s)
{
	const job *j = (const job *)a->jobs + chunk;
	const expert *e = (const expert *)a->experts + j->index;
	const int32_t *slots = (const int32_t *)e->slots;
	float acc[MBLOCK * TILE] __attribute__((aligned(64)));
	const void *x[MBLOCK];
	for (int m0 = j->m0; m0 < j->m1; m0 += MBLOCK) {
		int m = j->m1 - m0 < MBLOCK ? j->m1 - m0 : MBLOCK;
		for (int i = 0; i < m; i++)
			x[i] = s->scratch + a->h_at + (int64_t)(e->pair0 + m0 + i) * a->h_stride;
		for (int tile = j->tile0; tile < j->tile1; tile++) {
			int row = tile * TILE, n = a->dim - row < TILE ? a->dim - row : TILE;
			for (int i = 0; i < m; i++) // as above: the lines come while the product is made
				__builtin_prefetch((float *)a->out + (int64_t)slots[m0 + i] * a->dim + row, 1);
			if (tile_mul(k, s, &e->down, tile, a->h_ints, x, m, acc))
				return;
			for (int i = 0; i < m; i++)
				store_tile(acc + i * TILE, 1, n, NULL, 0,
				           (float *)a->out + (int64_t)slots[m0 + i] * a->dim + row, 0);
		}
	}
}

static void run_embed(const embed_args *a, int chunk, slot *s)
{
	int64_t end = ((int64_t)chunk + 1) * a->per_chunk;
	for (int64_t t = (int64_t)chunk * a->per_chunk; t < end && t < a->rows; t++) {
		int32_t id = ((const int32_t *)a->ids)[t];
		if (id < 0 || id >= a->table.rows) {
			slot_fault(s, FAULT_TOKEN);
			return;
		}
		decode_row(a->table.type, (const uint8_t *)a->table.data + id * a->table.row_bytes,
		           a->table.cols, (float *)a->out + t * a->table.cols);
	}
}

static void run_append(const append_args *a, int chunk, slot *s)
{
	const kv_args *kv = &a->kv;
	int64_t end = ((int64_t)chunk + 1) * a->per_chunk, dim = kv->head_dim;
	for (int64_t t = (int64_t)chunk * a->per_chunk; t < end && t < a->rows; t++) {
		int32_t seq = ((const int32_t *)a->seqs)[t], pos = ((const int32_t *)a->pos)[t];
		if (seq < 0 || seq >= kv->table_rows) {
			slot_fault(s, FAULT_SEQUENCE);
			return;
		}
		if (pos < 0 || pos >= (int64_t)kv->pages_max * kv->page_tokens) {
			slot_fault(s, FAULT_POSITION);
			return;
		}
		int32_t page = ((const int32_t *)kv->tables)[(int64_t)seq * kv->pages_max + pos / kv->page_tokens];
		if (page < 0 || page >= kv->pages) {
			slot_fault(s, FAULT_PAGE);
			return;
		}
		uint8_t *keys = (uint8_t *)kv->pool + page * kv->page_bytes + kv->layer_at;
		uint8_t *values = keys + kv->kv_heads * kv->page_tokens * kv->row_bytes;
		for (int64_t h = 0; h < kv->kv_heads; h++) {
			int64_t to = (h * kv->page_tokens + pos % kv->page_tokens) * kv->row_bytes;
			int64_t from = (t * kv->kv_heads + h) * dim;
			encode_cache_row(kv->type, (const float *)a->k + from, dim, keys + to);
			encode_cache_row(kv->type, (const float *)a->v + from, dim, values + to);
		}
	}
}

static void run_gather(const gather_args *a, int chunk, slot *s)
{
	int64_t end = ((int64_t)chunk + 1) * a->per_chunk;
	for (int64_t t = (int64_t)chunk * a->per_chunk; t < end && t < a->rows; t++) {
		int32_t i = ((const int32_t *)a->index)[t];
		if (i < 0 || i >= a->x_rows) {
			slot_fault(s, FAULT_INDEX);
			return;
		}
		memcpy((float *)a->out + t * a->dim, (const float *)a->x + (int64_t)i * a->dim,
		       sizeof(float) * (size_t)a->dim);
	}
}

static void run_copy(const copy_args *a, int chunk)
{
	int64_t at = chunk * a->per_chunk;
	int64_t n = a->bytes - at < a->per_chunk ? a->bytes - at : a->per_chunk;
	memmove((uint8_t *)a->dst + at, (const uint8_t *)a->src + at, (size_t)n);
}

void task_run(const isa *k, const task *t, int chunk, slot *s)
{
	const void *a = (const void *)t->args;
	switch (t->kind) {
	case K_QUANTIZE: run_quantize(k, a, chunk, s); break;
	case K_MATMUL: run_matmul(k, a, chunk, s); break;
	case K_FFN_UP: run_ffn_up(k, a, chunk, s); break;
	case K_FFN_DOWN: run_ffn_down(k, a, chunk, s); break;
	case K_EMBED: run_embed(a, chunk, s); break;
	case K_NORM: k->norm(a, chunk); break;
	case K_ROPE: k->rope(a, chunk); break;
	case K_APPEND: run_append(a, chunk, s); break;
	case K_ATTENTION: k->attention(a, chunk, s); break;
	case K_ATTENTION_MERGE: k->attention_merge(a, chunk, s); break;
	case K_ROUTE: k->route(a, chunk, s); break;
	case K_COMBINE: k->combine(a, chunk); break;
	case K_GATHER: run_gather(a, chunk, s); break;
	case K_COPY: run_copy(a, chunk); break;
	case K_PROBE: k->probe(a, chunk); break;
	}
}
