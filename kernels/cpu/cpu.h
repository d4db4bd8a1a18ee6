// The C side of kernels/cpu: the structures that Go writes into command memory, and the functions
// it calls. Addresses are uintptr_t so that Go can write them as the numbers they are.
#ifndef MOERING_CPU_H
#define MOERING_CPU_H

#include <stddef.h>
#include <stdint.h>

// Storage formats, with the numbers of quant.Type.
enum {
	T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q4_1 = 3, T_Q5_0 = 6, T_Q5_1 = 7, T_Q8_0 = 8,
	T_Q2_K = 10, T_Q3_K = 11, T_Q4_K = 12, T_Q5_K = 13, T_Q6_K = 14,
	T_IQ4NL = 20, T_IQ4XS = 23, T_BF16 = 30, T_MXFP4 = 39, T_COUNT = 40
};

enum {
	TILE = 16,     // rows of a tile
	MBLOCK = 64,   // activation rows that share one pass over a chunk's weights
	QBLOCK = 48,   // bytes of 32 quantised activations, see quantize_block
	CACHE_LINE = 64,
	ATTENTION_SEGMENT = 512 // positions of a row that are summed by themselves
};

// mat is a weight matrix. Published rows are row_bytes apart; a tile is 16*row_bytes.
typedef struct {
	uintptr_t data;
	int64_t row_bytes;
	int32_t type, rows, cols, tiled;
} mat;

typedef struct {
	mat w;
	uintptr_t bias; // (rows) float or 0
	uintptr_t out;  // (m, rows) float
	int32_t accumulate;
	int32_t ints;   // whether activations are quantised
} term;

// job is a chunk of a matrix product: tiles [tile0, tile1) of a term or an expert, rows [m0, m1).
typedef struct {
	int32_t index, tile0, tile1, m0, m1;
} job;

typedef struct {
	mat gate, up, down;
	uintptr_t rows, slots; // (n) int32
	int32_t n;
	int32_t pair0; // its first row in the hidden scratch
} expert;

// Arguments of the tasks. Fields that end in _at are offsets in the pool's scratch memory.
typedef struct {
	uintptr_t x;    // (rows, cols) float
	uintptr_t used; // (rows) bytes or 0: rows to quantise
	int64_t q_at, q_stride;
	int32_t rows, cols, per_chunk;
} quantize_args;

typedef struct {
	uintptr_t x;     // (m, cols) float
	int64_t q_at, q_stride;
	uintptr_t terms; // term[]
	uintptr_t jobs;  // job[chunks]
	int32_t cols;
} matmul_args;

typedef struct {
	uintptr_t x, out; // (rows, dim), (slots, dim) float
	int64_t q_at, q_stride; // quantised x
	int64_t h_at, h_stride; // hidden, by pair: quantised or float
	uintptr_t experts; // expert[]
	uintptr_t jobs;    // job[chunks]
	int32_t dim, width;
	int32_t x_ints; // bit 0: gate, bit 1: up multiply quantised x
	int32_t h_ints; // down multiplies quantised hidden rows
} ffn_args;

typedef struct {
	mat table;
	uintptr_t ids, out;
	int32_t rows, per_chunk;
} embed_args;

typedef struct {
	uintptr_t x, out, gain;
	int32_t rows, dim, per_chunk;
	float eps;
} norm_args;

typedef struct {
	uintptr_t x, cos, sin;
	int32_t rows, heads, head_dim, rotated, interleaved, per_chunk;
} rope_args;

typedef struct {
	uintptr_t pool, tables;
	int64_t pages, table_rows; // bounds of what tables and seqs may hold
	int64_t page_bytes, layer_at, row_bytes;
	int32_t type, pages_max, page_tokens, kv_heads, head_dim;
} kv_args;

typedef struct {
	kv_args kv;
	uintptr_t k, v, seqs, pos;
	int32_t rows, per_chunk;
} append_args;

typedef struct {
	kv_args kv;
	uintptr_t q, out, seqs, pos;
	int64_t partial_at; // (rows, heads, segments, 2 + head_dim) float where parts > 1
	int32_t rows, heads, window, per_chunk, parts, segments;
	float scale;
} attention_args;

typedef struct {
	uintptr_t logits, ids, weights;
	int32_t rows, experts, top_k, normalize, per_chunk;
} route_args;

typedef struct {
	uintptr_t x, y, ids, weights, shared, gate;
	int32_t rows, dim, top_k, per_chunk;
} combine_args;

typedef struct {
	uintptr_t x, index, out;
	int64_t x_rows;
	int32_t rows, dim, per_chunk;
} gather_args;

typedef struct {
	uintptr_t dst, src;
	int64_t bytes, per_chunk;
} copy_args;

// probe_args measure the machine: chunk c reads its part of the memory, or computes rounds.
typedef struct {
	uintptr_t at, sink; // sink: (chunks) int64, so that nothing is optimised away
	int64_t bytes, per_chunk;
	int32_t kind, rounds;
} probe_args;

enum { PROBE_READ, PROBE_INTS, PROBE_FLOATS };

// Operations of one round of a probe, a multiply-add being two, in 16 lanes.
enum { PROBE_INT_OPS = 2 * 2 * 8 * 4 * 64, PROBE_FLOAT_OPS = 2 * 2 * 12 * 16 };

enum {
	K_QUANTIZE, K_MATMUL, K_FFN_UP, K_FFN_DOWN, K_EMBED, K_NORM, K_ROPE, K_APPEND, K_ATTENTION, K_ATTENTION_MERGE,
	K_ROUTE, K_COMBINE, K_GATHER, K_COPY, K_PROBE
};

// Faults that a kernel finds in device memory. The first of a batch is kept.
enum { FAULT_NONE, FAULT_MEMORY, FAULT_TOKEN, FAULT_SEQUENCE, FAULT_POSITION, FAULT_PAGE, FAULT_INDEX };

// task is one parallel step: chunks that may run in any order, and a barrier behind them.
typedef struct task {
	struct task *next;
	uintptr_t args;
	int32_t kind, chunks;
	int32_t done; // chunks finished; atomic
	int32_t pad;
} task;

// progress is what the owner of a stream sees of it.
typedef struct {
	int64_t done;  // sequence number of the last finished batch; atomic
	int32_t fault; // the first fault; atomic
	int32_t pad;
} progress;

// batch is what one Record hands over. The pool touches it until progress->done reaches seq.
typedef struct batch {
	struct batch *next;
	task *first;
	progress *stream;
	int64_t seq;
	int64_t scratch; // bytes of scratch memory that its tasks use
} batch;

typedef struct pool pool;
typedef struct isa isa;

const isa *isa_find(const char *name); // "" is the best; NULL where the machine lacks it
const char *isa_name(const isa *k);

pool *pool_new(int threads, const isa *k, int *err);
void pool_submit(pool *p, batch *b);
void pool_wait(pool *p, progress *s, int64_t seq);
int pool_place(pool *p, int worker, const int32_t *processors, int n); // runs on them alone; an errno
void pool_free(pool *p); // finishes what was submitted, joins the threads

// matrix_tiles rearranges a matrix in place, or down to dst; 0, or -1 without memory.
int matrix_tiles(int type, int64_t rows, int64_t row_bytes, uintptr_t src, uintptr_t dst);
int type_has_tiles(int type);

// memory_map spreads memory with large pages over the NUMA nodes whose bits are set, if any.
uintptr_t memory_map(int64_t bytes, int64_t align, int lock, uint64_t nodes, int *locked, int *huge);
int memory_unmap(uintptr_t at, int64_t bytes);

#endif
