// GatherRows: Out[i] = X[Index[i]], bit for bit. A thread has one element. An index outside X gives
// NaN, and reads nothing. Roof: device memory.
#include "common.cuh"

MR_KERNEL(256) mr_gather_rows(const MR_ARGS mr_cuda_gather_rows_args a)
{
	int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
	if (i >= (int64_t)a.rows * a.dim)
		return;
	int32_t row = ((const int32_t *)a.index)[i / a.dim];
	uint32_t bits = 0x7fc00000u;
	if (row >= 0 && row < a.from)
		bits = ((const uint32_t *)a.x)[(int64_t)row * a.dim + i % a.dim];
	((uint32_t *)a.out)[i] = bits;
}
