// RMSNorm: Out[t] = X[t] / sqrt(mean(X[t]^2) + Eps) * Gain. A block has one row: each thread sums
// the squares of every 256th element, then lanes and warps are added in a fixed order. Roof: device
// memory, or the latency of one row.
#include "common.cuh"

#define MR_NORM_THREADS 256

MR_KERNEL(MR_NORM_THREADS) mr_rms_norm(const MR_ARGS mr_cuda_rms_norm_args a)
{
	__shared__ float part[MR_NORM_THREADS / MR_WARP];
	const float *x = (const float *)a.x + (int64_t)blockIdx.x * a.dim; // (dim)
	float *out = (float *)a.out + (int64_t)blockIdx.x * a.dim;
	const float *gain = (const float *)a.gain;
	float sum = 0.0f;
	for (int i = threadIdx.x; i < a.dim; i += MR_NORM_THREADS)
		sum = __fmaf_rn(x[i], x[i], sum);
	sum = mr_warp_sum(sum);
	if (threadIdx.x % MR_WARP == 0)
		part[threadIdx.x / MR_WARP] = sum;
	__syncthreads();
	sum = 0.0f;
	for (int w = 0; w < MR_NORM_THREADS / MR_WARP; w++)
		sum = sum + part[w];
	float root = sqrtf(sum / (float)a.dim + a.eps);
	for (int i = threadIdx.x; i < a.dim; i += MR_NORM_THREADS)
		out[i] = x[i] / root * gain[i];
}
