// Combine: X[t] = X[t] + (sum_j Weights[t,j] Y[t*TopK+j] + sigmoid(SharedGate[t]) Shared[t]), j in
// ascending order of IDs[t,j], each product and sum rounded by itself. A block has one row and 256
// of its elements. Roof: device memory.
#include "common.cuh"

MR_KERNEL(256) mr_combine(const MR_ARGS mr_cuda_combine_args a)
{
	MR_DYNAMIC_SHARED(shared);
	int32_t *order = (int32_t *)shared; // (top_k)
	int blocks = (a.dim + 255) / 256;
	int64_t row = blockIdx.x / blocks;
	int i = blockIdx.x % blocks * 256 + threadIdx.x;
	const int32_t *ids = a.ids ? (const int32_t *)a.ids + row * a.top_k : 0;
	for (int j = threadIdx.x; j < a.top_k; j += 256) {
		int rank = ids ? 0 : j;
		for (int other = 0; ids && other < a.top_k; other++)
			rank += ids[other] < ids[j] || (ids[other] == ids[j] && other < j);
		order[rank] = j;
	}
	__syncthreads();
	if (i >= a.dim)
		return;
	float sum = 0.0f;
	for (int n = 0; n < a.top_k; n++) {
		int64_t slot = row * a.top_k + order[n];
		float weight = a.weights ? ((const float *)a.weights)[slot] : 1.0f;
		sum = sum + weight * ((const float *)a.y)[slot * a.dim + i];
	}
	if (a.shared) {
		float weight = a.shared_gate ? mr_sigmoid(((const float *)a.shared_gate)[row]) : 1.0f;
		sum = sum + weight * ((const float *)a.shared)[row * a.dim + i];
	}
	float *x = (float *)a.x + row * a.dim + i;
	*x = *x + sum;
}
