// MatMul: Out[t] = X[t] W^T + Bias, for all terms of the op (formula and roof: product.cuh). First
// mr_prepare splits X into bfloat16 pieces, once for all terms; then one launch for each format.
//
// With MR_FORMAT_NAME and its siblings set, this is the module of one format; without, mr_prepare.
#include "product.cuh"

#ifndef MR_FORMAT_NAME

// mr_prepare: out[p,row] = piece p of x[row]; a thread has two elements of one row.
// Roof: device memory, 4 bytes in and 2 bytes a piece out.
MR_KERNEL(256) mr_prepare(const MR_ARGS mr_cuda_prepare_args a)
{
	int pairs = a.stride / 2;
	int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
	if (i >= (int64_t)a.rows * pairs)
		return;
	int64_t row = i / pairs;
	int k = (int)(i % pairs) * 2;
	const float *x = (const float *)a.x + row * a.dim;
	float low = k < a.dim ? x[k] : 0.0f, high = k + 1 < a.dim ? x[k + 1] : 0.0f;
	mr_pieces((uint32_t *)a.out + i, (int64_t)a.rows * pairs, a.pieces, low, high);
}

#endif

#define MR_PRODUCT(name, type, wp, xp, nt) MR_PRODUCT_NAMED(name, type, wp, xp, nt)
#define MR_PRODUCT_NAMED(name, type, wp, xp, nt)                                           \
	MR_KERNEL(MR_PRODUCT_THREADS) mr_product_##name##_one(const MR_ARGS mr_cuda_product_args a) \
	{                                                                                      \
		mr_product_split<type, wp, xp, 1>(a);                                              \
	}                                                                                      \
	MR_KERNEL(MR_PRODUCT_THREADS) mr_product_##name##_tile(const MR_ARGS mr_cuda_product_args a) \
	{                                                                                      \
		mr_product_tile<type, wp, xp, nt>(a);                                              \
	}
#define MR_PRODUCT_FEW(name, type, wp, xp, nt) MR_PRODUCT_FEW_NAMED(name, type, wp, xp, nt)
#define MR_PRODUCT_FEW_NAMED(name, type, wp, xp, nt)                                       \
	MR_PRODUCT_NAMED(name, type, wp, xp, nt)                                               \
	MR_KERNEL(MR_PRODUCT_THREADS) mr_product_##name##_few(const MR_ARGS mr_cuda_product_args a) \
	{                                                                                      \
		mr_product_split<type, wp, xp, 4>(a);                                              \
	}

#ifdef MR_FORMAT_NAME
MR_FORMAT_MACRO(MR_FORMAT_NAME, MR_FORMAT_TYPE, MR_FORMAT_WP, MR_FORMAT_XP, MR_FORMAT_NT)
#elif !defined(__CUDACC_RTC__)
#include "product_formats.inc"
#endif

#undef MR_PRODUCT
#undef MR_PRODUCT_FEW
