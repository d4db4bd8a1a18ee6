// RoPE: rotates the leading elements of each head of X in place, by the angles of its row. A thread
// has one pair. Roof: device memory.
#include "common.cuh"

MR_KERNEL(256) mr_rope(const MR_ARGS mr_cuda_rope_args a)
{
	int half = a.rotated / 2;
	int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
	if (i >= (int64_t)a.rows * a.heads * half)
		return;
	int pair = (int)(i % half);
	int64_t head = i / half, row = head / a.heads;
	float *x = (float *)a.x + head * a.head_dim;
	int first = a.interleaved ? 2 * pair : pair, second = a.interleaved ? first + 1 : pair + half;
	float c = ((const float *)a.cos)[row * half + pair];
	float s = ((const float *)a.sin)[row * half + pair];
	float u = x[first], v = x[second];
	x[first] = u * c - v * s;
	x[second] = v * c + u * s;
}
