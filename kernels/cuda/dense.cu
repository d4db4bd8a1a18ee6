// What stands before and behind a product of cuBLASLt (dense.go). mr_split makes 16-bit activations of
// float ones, in pieces that together have a float's accuracy; mr_join adds to the product what
// cuBLASLt does not: the scales of the rows, a bias, what the output held. Roof of both: device memory.
#include "common.cuh"

#define MR_SPLIT_THREADS 256

// mr_split_value is element k of a row, or the gated one where there is an up.
MR_FN float mr_split_value(const float *x, const float *up, int k)
{
	return up ? x[k] / (1.0f + expf(-x[k])) * up[k] : x[k];
}

// mr_split_scale is the power of two that brings the largest value of a row to 2^14 .. 2^15: no half
// overflows, and two of them leave at most 2^-22 of a value, or 2^-38 of the largest. Rows below 2^-100
// are as such rows, so that the inverse is a normal number.
MR_FN float mr_split_scale(float largest)
{
	const int32_t bias = 127, least = bias - 100, infinite = 255;
	int32_t exponent = (int32_t)(__float_as_uint(largest) >> 23); // biased; largest >= 0
	exponent = mr_max(mr_min(exponent, infinite - 1), least);
	return __uint_as_float((uint32_t)(bias + 14 - (exponent - bias)) << 23);
}

// mr_split: out[p,row] = piece p of x[row], of silu(x[row]) * up[row] where there is an up; each piece
// is the rounded remainder of those before. Pieces are bfloat16, or half of the row times its scale,
// by which the product is to be divided: scales[row] is the inverse. A block has one row.
MR_KERNEL(MR_SPLIT_THREADS) mr_split(const MR_ARGS mr_cuda_split_args a)
{
	__shared__ float part[MR_SPLIT_THREADS / MR_WARP];
	int64_t row = blockIdx.x;
	const float *x = (const float *)a.x + row * a.dim;
	const float *up = a.up ? (const float *)a.up + row * a.dim : 0;
	int64_t piece_bytes = (int64_t)a.rows * a.dim * 2;
	uint64_t out = a.out + row * a.dim * 2;
	float scale = 1.0f;
	if (a.scales) {
		float largest = 0.0f;
		for (int k = threadIdx.x; k < a.dim; k += MR_SPLIT_THREADS)
			largest = fmaxf(largest, fabsf(mr_split_value(x, up, k)));
		largest = mr_warp_max(largest);
		if (threadIdx.x % MR_WARP == 0)
			part[threadIdx.x / MR_WARP] = largest;
		__syncthreads();
		for (int w = 0; w < MR_SPLIT_THREADS / MR_WARP; w++)
			largest = fmaxf(largest, part[w]);
		scale = mr_split_scale(largest);
		if (threadIdx.x == 0)
			((float *)a.scales)[row] = 1.0f / scale;
	}
	for (int k = 2 * threadIdx.x; k < a.dim; k += 2 * MR_SPLIT_THREADS) {
		float low = mr_split_value(x, up, k) * scale, high = mr_split_value(x, up, k + 1) * scale;
		for (int p = 0; p < a.pieces; p++) {
			uint32_t pair;
			if (a.scales) {
				uint32_t l = mr_float_half(low), h = mr_float_half(high);
				pair = l | h << 16;
				low = low - mr_half_float(l);
				high = high - mr_half_float(h);
			} else {
				pair = mr_bf16x2(low, high);
				low = low - __uint_as_float(pair << 16);
				high = high - __uint_as_float(pair & 0xffff0000u);
			}
			*(uint32_t *)(out + p * piece_bytes + k * 2) = pair;
		}
	}
}

// mr_join: out[row] = product[row] * scales[row] + bias, or out[row] plus that; product may be out. A
// block has one row and 256 of its elements.
MR_KERNEL(256) mr_join(const MR_ARGS mr_cuda_join_args a)
{
	int blocks = (a.outputs + 255) / 256;
	int64_t row = blockIdx.x / blocks;
	int o = blockIdx.x % blocks * 256 + threadIdx.x;
	if (o >= a.outputs)
		return;
	float v = ((const float *)a.product)[row * a.outputs + o];
	if (a.scales)
		v = v * ((const float *)a.scales)[row];
	if (a.bias)
		v = v + ((const float *)a.bias)[o];
	float *out = (float *)a.out + row * a.outputs + o;
	*out = a.accumulate ? *out + v : v;
}
