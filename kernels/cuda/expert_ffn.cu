// ExpertFFN: Out[slot] = Down(silu(Gate x) * (Up x)) for the rows of each expert. The products are
// those of MatMul with a job for each matrix and the expert's own rows and slots, so that nothing
// is padded to a capacity: mr_prepare of X, one launch for gate and up of all experts (two where
// their formats differ), mr_gate, and one launch for down. The hidden values of expert after expert
// lie one row after the other.
#include "product.cuh"

// mr_gate: out[p,row] = piece p of silu(x[row]) * up[row]; a thread has two elements of one row.
// Roof: device memory, 8 bytes in and 2 bytes a piece out.
MR_KERNEL(256) mr_gate(const MR_ARGS mr_cuda_prepare_args a)
{
	int pairs = a.stride / 2;
	int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
	if (i >= (int64_t)a.rows * pairs)
		return;
	int64_t row = i / pairs;
	int k = (int)(i % pairs) * 2;
	const float *x = (const float *)a.x + row * a.dim, *up = (const float *)a.up + row * a.dim;
	float v[2] = {0.0f, 0.0f};
	for (int e = 0; e < 2; e++)
		if (k + e < a.dim)
			v[e] = x[k + e] / (1.0f + expf(-x[k + e])) * up[k + e];
	mr_pieces((uint32_t *)a.out + i, (int64_t)a.rows * pairs, a.pieces, v[0], v[1]);
}
