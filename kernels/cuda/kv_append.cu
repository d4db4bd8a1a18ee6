// KVAppend: stores the keys and values of rows at their positions. A thread has one element of
// both. A row whose position has no page is dropped; attention over it gives NaN. Roof: device
// memory.
#include "kv.cuh"

MR_KERNEL(256) mr_kv_append(const MR_ARGS mr_cuda_kv_append_args a)
{
	int64_t dim = (int64_t)a.kv.kv_heads * a.kv.head_dim;
	int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
	if (i >= a.rows * dim)
		return;
	int64_t row = i / dim;
	int head = (int)(i % dim) / a.kv.head_dim, d = (int)(i % a.kv.head_dim);
	int seq = ((const int32_t *)a.seqs)[row], pos = ((const int32_t *)a.pos)[row];
	uint64_t key = mr_kv_row(a.kv, seq, pos, head);
	if (!key)
		return;
	mr_kv_store(a.kv, key, d, ((const float *)a.k)[i]);
	mr_kv_store(a.kv, key + a.kv.side_bytes, d, ((const float *)a.v)[i]);
}
