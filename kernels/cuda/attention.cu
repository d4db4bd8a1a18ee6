// Attention: Out[t,h] = sum_p softmax_p(Scale * Q[t,h].K[p]) V[p] over the positions of the row's
// sequence, from its window to its own, in pages of float or half precision; arithmetic in float32.
//
// A context is cut into segments of MR_SEGMENT positions, at multiples of it. In a segment, tiles
// of 32 positions go one after the other through an online softmax (Milakov and Gimelshein,
// arXiv:1805.02867); the segments' results are merged in ascending order. One block has up to 16
// queries, pairs (row, head) that share a key-value head, so that keys and values are read once for
// all of them; a warp has four of them at once: lanes are positions for the scores, and elements of
// the head for the values, so that a value from shared memory serves four products.
//
// mr_attention takes all segments of its rows in one block; mr_attention_split one, for few rows
// with long contexts, and mr_attention_merge puts them together with the same formula. So the bits
// of a row depend neither on its neighbours nor on the kernel.
//
// Roof: decode, device memory (each key and value once); prefill, the FMA units (of eight products,
// three words are read from shared memory).
#include "kv.cuh"

#define MR_ATTENTION_THREADS 128
#define MR_ATTENTION_WARPS (MR_ATTENTION_THREADS / MR_WARP)
#define MR_TILE MR_WARP       // positions
#define MR_SLICE 64           // elements of a head that are staged at once
#define MR_ROW (MR_SLICE + 1) // of the staged tile; odd, so that lanes hit all banks
#define MR_QUERIES 4          // of a warp

// mr_state is a block's memory, for a.queries slots, a multiple of MR_QUERIES. q and score have the
// values of all slots side by side: (head_dim, slots) and (MR_TILE, slots). sum and whole are
// (slots, head_dim), the numerators of the segment and of all; seg, all: maximum and denominator.
struct mr_state {
	float *tile, *q, *sum, *whole, *score;
	float *seg_max, *seg_den, *all_max, *all_den;
	int32_t *seq, *first, *pos; // of the query's row
};

MR_FN mr_state mr_attention_memory(const mr_cuda_attention_args &a, unsigned char *shared)
{
	mr_state s;
	int n = a.queries, dim = a.kv.head_dim;
	s.tile = (float *)shared;
	s.q = s.tile + MR_TILE * MR_ROW;
	s.score = s.q + n * dim;
	s.sum = s.score + n * MR_TILE;
	s.whole = s.sum + n * dim;
	s.seg_max = s.whole + n * dim;
	s.seg_den = s.seg_max + n;
	s.all_max = s.seg_den + n;
	s.all_den = s.all_max + n;
	s.seq = (int32_t *)(s.all_den + n);
	s.first = s.seq + n;
	s.pos = s.first + n;
	return s;
}

// mr_merge adds a segment to what came before it.
MR_FN void mr_merge_scales(float all_max, float max, float *top, float *old_scale, float *new_scale)
{
	*top = fmaxf(all_max, max);
	*old_scale = expf(all_max - *top);
	*new_scale = expf(max - *top);
}

MR_FN float mr_merged(float all, float old_scale, float part, float new_scale)
{
	return all * old_scale + part * new_scale;
}

// mr_load stages elements d0 to d0+63 of the keys (or values) of 32 positions from p0 on; those
// outside lo .. hi are not read.
MR_FN void mr_load(const mr_cuda_attention_args &a, const mr_state &s, int seq, int head, int p0,
	int lo, int hi, int d0, uint64_t side)
{
	int warp = threadIdx.x / MR_WARP, lane = threadIdx.x % MR_WARP;
	for (int p = warp; p < MR_TILE; p += MR_ATTENTION_WARPS) {
		if (p0 + p < lo || p0 + p > hi)
			continue;
		uint64_t row = mr_kv_row(a.kv, seq, p0 + p, head);
		for (int d = lane; d < MR_SLICE && d0 + d < a.kv.head_dim; d += MR_WARP)
			s.tile[p * MR_ROW + d] = mr_kv_load(a.kv, row ? row + side : 0, d0 + d);
	}
}

// mr_range is the bits first .. last of 32; either may lie outside.
MR_FN uint32_t mr_range(int first, int last)
{
	if (last < 0 || first > 31 || first > last)
		return 0;
	return (0xffffffffu << mr_max(first, 0)) & (0xffffffffu >> (31 - mr_min(last, 31)));
}

// mr_add_values adds the staged slice of values, weighted with the scores, to the sums of the
// warp's queries, after these were scaled. A query takes the positions of its in, in ascending
// order.
MR_FN void mr_add_values(const mr_cuda_attention_args &a, const mr_state &s, int i0,
	const uint32_t in[MR_QUERIES], const float scale[MR_QUERIES], int d0)
{
	constexpr int PARTS = MR_SLICE / MR_WARP;
	int lane = threadIdx.x % MR_WARP, dim = a.kv.head_dim;
	float sum[MR_QUERIES][PARTS];
	MR_UNROLL
	for (int j = 0; j < MR_QUERIES; j++)
		MR_UNROLL
		for (int h = 0; h < PARTS; h++) {
			int d = d0 + h * MR_WARP + lane;
			sum[j][h] = in[j] && d < dim ? s.sum[(i0 + j) * dim + d] * scale[j] : 0.0f;
		}
	for (int p = 0; p < MR_TILE; p++) {
		float4 v = *(const float4 *)(s.score + p * a.queries + i0);
		float e[MR_QUERIES] = {v.x, v.y, v.z, v.w};
		MR_UNROLL
		for (int h = 0; h < PARTS; h++) {
			float value = s.tile[p * MR_ROW + h * MR_WARP + lane];
			MR_UNROLL
			for (int j = 0; j < MR_QUERIES; j++)
				if (in[j] >> p & 1)
					sum[j][h] = __fmaf_rn(e[j], value, sum[j][h]);
		}
	}
	MR_UNROLL
	for (int j = 0; j < MR_QUERIES; j++)
		MR_UNROLL
		for (int h = 0; h < PARTS; h++) {
			int d = d0 + h * MR_WARP + lane;
			if (in[j] && d < dim)
				s.sum[(i0 + j) * dim + d] = sum[j][h];
		}
}

// mr_attend_tile takes 32 positions from p0 on into the segment of queries from .. to-1.
MR_FN void mr_attend_tile(const mr_cuda_attention_args &a, const mr_state &s, int from, int to,
	int head, int p0, int lo, int hi)
{
	int warp = threadIdx.x / MR_WARP, lane = threadIdx.x % MR_WARP, dim = a.kv.head_dim;
	int i0 = warp * MR_QUERIES;
	uint32_t in[MR_QUERIES], any = 0; // the positions of the tile that a query of the warp reads
	float dot[MR_QUERIES], scale[MR_QUERIES];
	MR_UNROLL
	for (int j = 0; j < MR_QUERIES; j++) {
		int i = i0 + j;
		in[j] = i < from || i >= to ? 0 : mr_range(s.first[i] - p0, s.pos[i] - p0);
		any |= in[j];
		dot[j] = 0.0f;
		scale[j] = 1.0f;
	}
	for (int d0 = 0; d0 < dim; d0 += MR_SLICE) {
		__syncthreads();
		mr_load(a, s, s.seq[from], head, p0, lo, hi, d0, 0);
		__syncthreads();
		const float *key = s.tile + lane * MR_ROW, *q = s.q + d0 * a.queries + i0;
		int slice = mr_min(MR_SLICE, dim - d0);
		for (int d = 0; any && d < slice; d++) {
			float4 v = *(const float4 *)(q + d * a.queries);
			dot[0] = __fmaf_rn(v.x, key[d], dot[0]);
			dot[1] = __fmaf_rn(v.y, key[d], dot[1]);
			dot[2] = __fmaf_rn(v.z, key[d], dot[2]);
			dot[3] = __fmaf_rn(v.w, key[d], dot[3]);
		}
	}
	MR_UNROLL
	for (int j = 0; j < MR_QUERIES; j++) {
		if (!in[j])
			continue;
		bool own = in[j] >> lane & 1;
		float score = own ? a.scale * dot[j] : -mr_infinity(), old = s.seg_max[i0 + j];
		float top = fmaxf(old, mr_warp_max(score)), e = own ? expf(score - top) : 0.0f;
		scale[j] = expf(old - top);
		float den = s.seg_den[i0 + j] * scale[j] + mr_warp_sum(e);
		s.score[lane * a.queries + i0 + j] = e;
		__syncwarp();
		if (lane == 0) {
			s.seg_max[i0 + j] = top;
			s.seg_den[i0 + j] = den;
		}
	}
	__syncwarp();
	for (int d0 = 0; d0 < dim; d0 += MR_SLICE) {
		__syncthreads();
		mr_load(a, s, s.seq[from], head, p0, lo, hi, d0, a.kv.side_bytes);
		__syncthreads();
		if (any)
			mr_add_values(a, s, i0, in, scale, d0);
	}
}

// mr_attend_segment leaves the segment's results of queries from .. to-1, which are of one
// sequence.
MR_FN void mr_attend_segment(const mr_cuda_attention_args &a, const mr_state &s, int from, int to,
	int head, int segment)
{
	int warp = threadIdx.x / MR_WARP, lane = threadIdx.x % MR_WARP, dim = a.kv.head_dim;
	int begin = mr_max(from, warp * MR_QUERIES), end = mr_min(to, (warp + 1) * MR_QUERIES);
	for (int i = begin; i < end; i++) {
		for (int d = lane; d < dim; d += MR_WARP)
			s.sum[i * dim + d] = 0.0f;
		if (lane == 0) {
			s.seg_max[i] = -mr_infinity();
			s.seg_den[i] = 0.0f;
		}
	}
	__syncthreads();
	int lo = s.first[from], hi = s.pos[from];
	for (int i = from + 1; i < to; i++) {
		lo = mr_min(lo, s.first[i]);
		hi = mr_max(hi, s.pos[i]);
	}
	begin = mr_max(segment * MR_SEGMENT, lo / MR_TILE * MR_TILE);
	end = mr_min((segment + 1) * MR_SEGMENT - 1, hi);
	for (int p0 = begin; p0 <= end; p0 += MR_TILE)
		mr_attend_tile(a, s, from, to, head, p0, lo, hi);
}

// mr_position is the position of a row; -1, which has nothing to attend to and so gives NaN, for
// one beyond the page table.
MR_FN int mr_position(const mr_cuda_attention_args &a, int row)
{
	int pos = ((const int32_t *)a.pos)[row];
	return pos / a.kv.page_tokens < a.kv.pages_max ? pos : -1;
}

// mr_attention_begin loads the queries of the block and returns their number. Query i is head
// q%group of row q/group, q = first + i.
MR_FN int mr_attention_begin(const mr_cuda_attention_args &a, const mr_state &s, int first,
	int group)
{
	int dim = a.kv.head_dim, n = mr_min(a.queries, a.rows * group - first);
	for (int i = threadIdx.x; i < n * dim; i += MR_ATTENTION_THREADS) {
		int64_t q = first + i / dim, head = blockIdx.y * group + q % group;
		s.q[i % dim * a.queries + i / dim] =
			((const float *)a.q)[(q / group * a.heads + head) * dim + i % dim];
		s.whole[i] = 0.0f;
	}
	for (int i = threadIdx.x; i < n; i += MR_ATTENTION_THREADS) {
		int row = (first + i) / group, pos = mr_position(a, row);
		s.seq[i] = ((const int32_t *)a.seqs)[row];
		s.pos[i] = pos;
		s.first[i] = a.window > 0 ? mr_max(0, pos - a.window + 1) : 0;
		s.all_max[i] = -mr_infinity();
		s.all_den[i] = 0.0f;
	}
	__syncthreads();
	return n;
}

// mr_run is the end of the queries from .. that are of one sequence.
MR_FN int mr_run(const mr_state &s, int from, int n)
{
	int to = from + 1;
	while (to < n && s.seq[to] == s.seq[from])
		to++;
	return to;
}

// mr_touches reports whether a query has positions in a segment.
MR_FN bool mr_touches(const mr_state &s, int i, int segment)
{
	return s.pos[i] >= segment * MR_SEGMENT && s.first[i] < (segment + 1) * MR_SEGMENT;
}

MR_KERNEL(MR_ATTENTION_THREADS) mr_attention(const MR_ARGS mr_cuda_attention_args a)
{
	MR_DYNAMIC_SHARED(shared);
	mr_state s = mr_attention_memory(a, shared);
	int warp = threadIdx.x / MR_WARP, lane = threadIdx.x % MR_WARP, dim = a.kv.head_dim;
	int group = a.heads / a.kv.kv_heads, first = blockIdx.x * a.queries, head = blockIdx.y;
	int n = mr_attention_begin(a, s, first, group);
	for (int from = 0, to; from < n; from = to) {
		to = mr_run(s, from, n);
		for (int segment = 0; segment < a.segments; segment++) {
			bool any = false;
			for (int i = from; i < to; i++)
				any = any || mr_touches(s, i, segment);
			if (!any)
				continue;
			mr_attend_segment(a, s, from, to, head, segment);
			int begin = mr_max(from, warp * MR_QUERIES), end = mr_min(to, (warp + 1) * MR_QUERIES);
			for (int i = begin; i < end; i++) {
				if (!mr_touches(s, i, segment))
					continue;
				float top, old_scale, new_scale, den = s.all_den[i];
				mr_merge_scales(s.all_max[i], s.seg_max[i], &top, &old_scale, &new_scale);
				for (int d = lane; d < dim; d += MR_WARP)
					s.whole[i * dim + d] = mr_merged(s.whole[i * dim + d], old_scale,
						s.sum[i * dim + d], new_scale);
				__syncwarp();
				if (lane == 0) {
					s.all_max[i] = top;
					s.all_den[i] = mr_merged(den, old_scale, s.seg_den[i], new_scale);
				}
				__syncwarp();
			}
		}
	}
	__syncthreads();
	for (int i = threadIdx.x; i < n * dim; i += MR_ATTENTION_THREADS) {
		int64_t q = first + i / dim, at = q / group * a.heads + head * group + q % group;
		((float *)a.out)[at * dim + i % dim] = s.whole[i] / s.all_den[i / dim];
	}
}

MR_KERNEL(MR_ATTENTION_THREADS) mr_attention_split(const MR_ARGS mr_cuda_attention_args a)
{
	MR_DYNAMIC_SHARED(shared);
	mr_state s = mr_attention_memory(a, shared);
	int warp = threadIdx.x / MR_WARP, lane = threadIdx.x % MR_WARP, dim = a.kv.head_dim;
	int group = a.heads / a.kv.kv_heads, first = blockIdx.x * a.queries, head = blockIdx.y;
	int segment = blockIdx.z;
	int n = mr_attention_begin(a, s, first, group);
	for (int from = 0, to; from < n; from = to) {
		to = mr_run(s, from, n);
		bool any = false;
		for (int i = from; i < to; i++)
			any = any || mr_touches(s, i, segment);
		if (!any)
			continue;
		mr_attend_segment(a, s, from, to, head, segment);
		int begin = mr_max(from, warp * MR_QUERIES), end = mr_min(to, (warp + 1) * MR_QUERIES);
		for (int i = begin; i < end; i++) {
			if (!mr_touches(s, i, segment))
				continue;
			int64_t q = first + i, at = q / group * a.heads + head * group + q % group;
			float *part = (float *)a.parts + (at * a.segments + segment) * (dim + 2);
			for (int d = lane; d < dim; d += MR_WARP)
				part[d] = s.sum[i * dim + d];
			if (lane == 0) {
				part[dim] = s.seg_max[i];
				part[dim + 1] = s.seg_den[i];
			}
		}
	}
}

// mr_attention_merge: a block has one head of one row.
MR_KERNEL(MR_ATTENTION_THREADS) mr_attention_merge(const MR_ARGS mr_cuda_attention_args a)
{
	int64_t at = blockIdx.x;
	int row = (int)(at / a.heads), dim = a.kv.head_dim, pos = mr_position(a, row);
	int first = a.window > 0 ? mr_max(0, pos - a.window + 1) : 0;
	int last = pos / MR_SEGMENT;
	for (int d = threadIdx.x; d < dim; d += MR_ATTENTION_THREADS) {
		float all = 0.0f, all_max = -mr_infinity(), all_den = 0.0f;
		for (int segment = first / MR_SEGMENT; pos >= 0 && segment <= last; segment++) {
			const float *part = (const float *)a.parts + (at * a.segments + segment) * (dim + 2);
			float top, old_scale, new_scale;
			mr_merge_scales(all_max, part[dim], &top, &old_scale, &new_scale);
			all = mr_merged(all, old_scale, part[d], new_scale);
			all_den = mr_merged(all_den, old_scale, part[dim + 1], new_scale);
			all_max = top;
		}
		((float *)a.out)[at * dim + d] = all / all_den;
	}
}
