// MatMul: Out[t] = X[t] W^T + Bias, for all terms of the op (formula and roof: product.cuh). First
// mr_prepare splits X into bfloat16 pieces, once for all terms; then one launch for each format.
//
// With MR_FORMAT_NAME and its siblings set, this is the module of one format; without, mr_prepare.
#include "product.cuh"

#ifndef MR_FORMAT_NAME

// mr_prepare: out[p,row] = piece p of x[row]; a thread has 16 elements of one row.
// Roof: latency, or device memory, 4 bytes in and 2 bytes a piece out.
MR_KERNEL(256) mr_prepare(const MR_ARGS mr_cuda_prepare_args a)
{
	int groups = a.stride / 16;
	int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
	if (i >= (int64_t)a.rows * groups)
		return;
	int64_t row = i / groups;
	int group = (int)(i % groups);
	const float *x = (const float *)a.x + row * a.dim;
	float v[16];
	for (int e = 0; e < 16; e++)
		v[e] = 16 * group + e < a.dim ? x[16 * group + e] : 0.0f;
	int64_t piece_bytes = (int64_t)a.rows * a.stride * 2;
	((float *)a.sums)[i] = mr_pieces(a.out + row * a.stride * 2, piece_bytes, a.pieces, group, v);
}

#endif

#define MR_PRODUCT_KERNEL(name, blocks, run) \
	MR_KERNEL_OF(MR_PRODUCT_THREADS, blocks) name(const MR_ARGS mr_cuda_product_args a) { run(a); }
#define MR_PRODUCT(name, type, wp, xp, nt) MR_PRODUCT_NAMED(name, type, wp, xp, nt)
#define MR_PRODUCT_NAMED(name, type, wp, xp, nt)                                           \
	MR_PRODUCT_KERNEL(mr_product_##name##_one, 4, (mr_product_split<type, wp, xp, 1>))     \
	MR_PRODUCT_KERNEL(mr_product_##name##_tile, 3, (mr_product_tile<type, wp, xp, nt>))
#define MR_PRODUCT_FEW(name, type, wp, xp, nt) MR_PRODUCT_FEW_NAMED(name, type, wp, xp, nt)
#define MR_PRODUCT_FEW_NAMED(name, type, wp, xp, nt)                                       \
	MR_PRODUCT_NAMED(name, type, wp, xp, nt)                                               \
	MR_PRODUCT_KERNEL(mr_product_##name##_few, 3, (mr_product_split<type, wp, xp, 4>))

#ifdef MR_FORMAT_NAME
MR_FORMAT_MACRO(MR_FORMAT_NAME, MR_FORMAT_TYPE, MR_FORMAT_WP, MR_FORMAT_XP, MR_FORMAT_NT)
#elif !defined(__CUDACC_RTC__)
#include "product_formats.inc"
#endif

#undef MR_PRODUCT
#undef MR_PRODUCT_FEW
