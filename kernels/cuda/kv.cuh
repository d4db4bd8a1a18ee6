// The paged key-value cache: where an element lies, and its value.
#pragma once

#include "common.cuh"

// mr_kv_row is the address of the key of a head at a position of a sequence; 0 for a position
// without a page, which is never touched. The value lies side_bytes further on.
MR_FN uint64_t mr_kv_row(const mr_cuda_kv &kv, int seq, int pos, int head)
{
	int entry = pos / kv.page_tokens;
	if (seq < 0 || seq >= kv.sequences || pos < 0 || entry >= kv.pages_max)
		return 0;
	int page = ((const int32_t *)kv.tables)[(int64_t)seq * kv.pages_max + entry];
	if (page < 0 || page >= kv.pages)
		return 0;
	int64_t at = ((int64_t)head * kv.page_tokens + pos % kv.page_tokens) * kv.head_dim;
	return kv.pool + page * kv.page_bytes + kv.layer_offset + at * (kv.half ? 2 : 4);
}

// mr_kv_load reads element d of a row; NaN of a row that is not there.
MR_FN float mr_kv_load(const mr_cuda_kv &kv, uint64_t row, int d)
{
	if (!row)
		return mr_nan();
	return kv.half ? mr_half_float(((const uint16_t *)row)[d]) : ((const float *)row)[d];
}

MR_FN void mr_kv_store(const mr_cuda_kv &kv, uint64_t row, int d, float v)
{
	if (kv.half)
		((uint16_t *)row)[d] = mr_float_half(v);
	else
		((float *)row)[d] = v;
}
