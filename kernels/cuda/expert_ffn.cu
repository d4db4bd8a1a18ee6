// ExpertFFN: Out[slot] = Down(silu(Gate x) * (Up x)) for the rows of each expert. The products are
// those of MatMul with a job for each matrix and the expert's own rows and slots, so that nothing
// is padded to a capacity: mr_prepare of X, one launch for gate and up of all experts (two where
// their formats differ), mr_gate, and one launch for down. The hidden values of expert after expert
// lie one row after the other.
#include "product.cuh"

// mr_gate: out[p,row] = piece p of silu(x[row]) * up[row]; a thread has 16 elements of one row.
// Roof: device memory, 8 bytes in and 2 bytes a piece out.
MR_KERNEL(256) mr_gate(const MR_ARGS mr_cuda_prepare_args a)
{
	int groups = a.stride / 16;
	int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
	if (i >= (int64_t)a.rows * groups)
		return;
	int64_t row = i / groups;
	int group = (int)(i % groups);
	const float *x = (const float *)a.x + row * a.dim, *up = (const float *)a.up + row * a.dim;
	float v[16];
	for (int e = 0; e < 16; e++) {
		int k = 16 * group + e;
		v[e] = k < a.dim ? x[k] / (1.0f + expf(-x[k])) * up[k] : 0.0f;
	}
	int64_t piece_bytes = (int64_t)a.rows * a.stride * 2;
	((float *)a.sums)[i] = mr_pieces(a.out + row * a.stride * 2, piece_bytes, a.pieces, group, v);
}
