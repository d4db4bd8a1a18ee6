// Embed: Out[t] = Table[IDs[t]], dequantised. A thread has eight elements of a row. Roof: latency;
// a row is a few KB. An id outside the table gives NaN, and reads nothing.
#include "formats.cuh"

template <int TYPE>
MR_FN void mr_embed_row(const mr_cuda_embed_args &a, int64_t id, uint32_t k, float v[8])
{
	// The row's block that holds k begins at from; words are read from the multiple of 4 below.
	int size = mr_block_size(a.type);
	uint64_t from = a.table + id * a.row_bytes + (uint64_t)(k / size) * mr_block_bytes(a.type);
	mr_row<TYPE>(a.type, (const uint32_t *)(from & ~3ull), (uint32_t)(from & 3), k % size,
		a.dim - k / size * size, v);
}

MR_KERNEL(128) mr_embed(const MR_ARGS mr_cuda_embed_args a)
{
	int units = (a.dim + 7) / 8;
	int64_t i = (int64_t)blockIdx.x * 128 + threadIdx.x;
	if (i >= (int64_t)a.rows * units)
		return;
	int64_t row = i / units;
	uint32_t k = (uint32_t)(i % units) * 8;
	int32_t id = ((const int32_t *)a.ids)[row];
	float v[8];
	if (id < 0 || id >= a.vocabulary)
		for (int e = 0; e < 8; e++)
			v[e] = mr_nan();
	else if (a.type == MR_F32)
		mr_embed_row<MR_F32>(a, id, k, v);
	else if (a.type == MR_F16)
		mr_embed_row<MR_F16>(a, id, k, v);
	else if (a.type == MR_BF16)
		mr_embed_row<MR_BF16>(a, id, k, v);
	else
		mr_embed_row<MR_ANY>(a, id, k, v);
	float *out = (float *)a.out + row * a.dim + k;
	for (int e = 0; e < 8 && (int)k + e < a.dim; e++)
		out[e] = v[e];
}
