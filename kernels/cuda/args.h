// The arguments of the kernels: one structure a kernel, passed by value. The .cu sources, Go
// (through cgo) and the stand-in driver's player all read this file, so it is plain C with fixed
// widths, and device addresses are uint64_t. Shapes stand beside the addresses; "or 0" marks what
// may be absent.
#ifndef MOERING_CUDA_ARGS_H
#define MOERING_CUDA_ARGS_H

#ifdef __CUDACC_RTC__ // NVRTC comes without headers
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

// mr_embed: rows of a table, dequantised.
struct mr_cuda_embed_args {
	uint64_t table; // (vocabulary, dim) of type
	uint64_t ids;   // (rows) int32
	uint64_t out;   // (rows, dim) float
	uint64_t row_bytes;
	int32_t type, vocabulary, dim, rows;
};

// mr_rms_norm
struct mr_cuda_rms_norm_args {
	uint64_t x;    // (rows, dim)
	uint64_t gain; // (dim)
	uint64_t out;  // (rows, dim)
	int32_t rows, dim;
	float eps;
	int32_t unused;
};

// mr_prepare splits float activations into bfloat16 pieces; mr_gate does so with silu(x) * up.
struct mr_cuda_prepare_args {
	uint64_t x;   // (rows, dim) float
	uint64_t up;  // (rows, dim) float; of mr_gate
	uint64_t out; // (pieces, rows, stride) bfloat16, in the order of mr_pieces
	uint64_t sums; // (rows, stride/16) float, of the pieces
	int32_t rows, dim;
	int32_t stride; // dim rounded up to a multiple of MR_X_ALIGN; the rest is filled with zeros
	int32_t pieces;
};

#define MR_X_ALIGN 64

// mr_job is one matrix to multiply with, and the rows that want it.
struct mr_cuda_job {
	uint64_t weights; // (outputs, inputs) in the published layout, at any byte
	uint64_t bias;    // (outputs) float, or 0
	uint64_t out;     // (any, outputs) float
	uint64_t x_rows;  // (rows) int32: which rows of x; 0: x_first, x_first+1, ..
	uint64_t slots;   // (rows) int32: which rows of out; 0: out_first, out_first+1, ..
	int32_t rows, outputs;
	int32_t x_first, out_first;
	int32_t tile;       // the first tile of the grid that is this job's
	int32_t accumulate; // 1: out = out + product
};

// MR_JOBS_INLINE jobs travel with the launch; more are read from device memory.
#define MR_JOBS_INLINE 24

// mr_product_*: out[slot] = x[row] W^T + bias for each job; all matrices have one type.
struct mr_cuda_product_args {
	uint64_t jobs;          // (job_count) mr_cuda_job; 0: they are in few
	uint64_t x;             // (pieces, any, stride) bfloat16
	uint64_t x_piece_bytes; // from one piece to the next
	uint64_t x_sums;        // (any, stride/16) float
	uint64_t row_bytes;     // of a row of weights
	int32_t job_count, inputs;
	int32_t stride; // elements of a row of x, a multiple of MR_X_ALIGN
	int32_t type;   // the number of the storage format
	struct mr_cuda_job few[MR_JOBS_INLINE];
};

// mr_rope
struct mr_cuda_rope_args {
	uint64_t x;        // (rows, heads, head_dim)
	uint64_t cos, sin; // (rows, rotated/2)
	int32_t rows, heads, head_dim, rotated, interleaved, unused;
};

// mr_cuda_kv is a paged cache, one layer of it chosen.
struct mr_cuda_kv {
	uint64_t pool;   // (pages) of page_bytes
	uint64_t tables; // (sequences, pages_max) int32
	uint64_t page_bytes;
	uint64_t layer_offset; // bytes from a page's start to the layer's keys
	uint64_t side_bytes;   // bytes of the layer's keys in a page; the values follow
	int32_t pages, sequences, pages_max, page_tokens;
	int32_t kv_heads, head_dim;
	int32_t half; // 1: elements are half precision, 0: float
	int32_t unused;
};

// mr_kv_append
struct mr_cuda_kv_append_args {
	struct mr_cuda_kv kv;
	uint64_t k, v;      // (rows, kv_heads, head_dim) float
	uint64_t seqs, pos; // (rows) int32
	int32_t rows, unused;
};

// mr_attention takes whole contexts; mr_attention_split one segment of them a block, whose results
// mr_attention_merge puts together.
struct mr_cuda_attention_args {
	struct mr_cuda_kv kv;
	uint64_t q, out;    // (rows, heads, head_dim) float
	uint64_t seqs, pos; // (rows) int32
	uint64_t parts;     // (rows, heads, segments, head_dim + 2) float; of split and merge
	int32_t rows, heads;
	int32_t window;   // 0: none
	int32_t segments; // of MR_SEGMENT positions, as many as the longest context may have
	int32_t queries;  // query heads of a block, a multiple of 4
	float scale;
};

#define MR_SEGMENT 256

// mr_route
struct mr_cuda_route_args {
	uint64_t logits;  // (rows, experts)
	uint64_t ids;     // (rows, top_k) int32
	uint64_t weights; // (rows, top_k)
	int32_t rows, experts, top_k, normalize;
};

// mr_combine
struct mr_cuda_combine_args {
	uint64_t x;           // (rows, dim)
	uint64_t y;           // (rows*top_k, dim)
	uint64_t ids;         // (rows, top_k) int32, or 0
	uint64_t weights;     // (rows, top_k), or 0
	uint64_t shared;      // (rows, dim), or 0
	uint64_t shared_gate; // (rows), or 0
	int32_t rows, dim, top_k, unused;
};

// mr_split
struct mr_cuda_split_args {
	uint64_t x;      // (rows, dim) float
	uint64_t up;     // (rows, dim) float, or 0
	uint64_t out;    // (pieces, rows, dim) half where there are scales, else bfloat16
	uint64_t scales; // (rows) float, or 0
	int32_t rows;
	int32_t dim; // even
	int32_t pieces, unused;
};

// mr_join
struct mr_cuda_join_args {
	uint64_t product; // (rows, outputs) float
	uint64_t scales;  // (rows) float, or 0
	uint64_t bias;    // (outputs) float, or 0
	uint64_t out;     // (rows, outputs) float
	int32_t outputs, accumulate;
};

// mr_gather_rows
struct mr_cuda_gather_rows_args {
	uint64_t x;     // (from, dim)
	uint64_t index; // (rows) int32
	uint64_t out;   // (rows, dim)
	int32_t from, rows, dim, unused;
};

#endif
