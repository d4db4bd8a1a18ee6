// The product of activations with weights, for every format and number of rows:
// docs/decisions/0005-one-arithmetic-per-format.md.
//
//	out[slot] = sum_k x[row,k] w[o,k] (+ bias[o]) (+ out[slot])
//
// Weights are the A operand of the matrix instruction (16 outputs), activations the B operand (8
// rows). The inner dimension is taken in blocks of 32: lane 4g+t makes codes of its eight elements
// of the block, of outputs g and g+8, straight into its fragments (codes.cuh), and reads the same
// elements of row g of x. So a weight is read from memory once, unpacked once by each block of
// rows, and never lies in shared memory but as the file has it.
//
// What a result is made of depends on the format alone. Activations are split into XP bfloat16
// pieces, each the rounded remainder of those before; so are weights of 16 and 32 bits, into WP,
// while block formats have integer codes. Products of pieces i and j with i+j <= 2 are summed by
// the matrix instruction, i+j > 0 apart from the leading ones, over as many elements as share a
// scale (32 or 16); a chunk adds these sums, scaled, in ascending order in float32, less the
// minimum times the sum of the activations; a row adds its chunks in ascending order. All kernels
// below keep this order, so that a row has the same bits in each, among any neighbours.
//
// The copies are 16 bytes wide and asynchronous: the hull of a chunk of each row of weights goes to
// shared memory while the chunk before is computed with. Roof: device memory for few rows (each
// weight is read once), the matrix units for many.
#pragma once

#include "codes.cuh"

#define MR_PRODUCT_WARPS 4
#define MR_PRODUCT_THREADS (MR_PRODUCT_WARPS * MR_WARP)
#define MR_OUTPUTS 16 // of a warp
#define MR_ROWS 8     // of a matrix instruction
#define MR_STEP 64    // elements of a row of x that are staged at once, by many rows

// mr_plan holds the sizes that follow from a format. sharedOf in launch_products.go adds them up to
// the shared memory of a launch; the player finds a sum that is too small.
template <int TYPE, int XP> struct mr_plan {
	// elements of a chunk, which is staged at once; the largest, where the format is not known
	static constexpr int CHUNK = mr_block_size(TYPE) == 1 ? 64 :
		TYPE == MR_ANY || mr_block_size(TYPE) == 256 ? 256 : 128;
	// bytes of a chunk of a row, at most; Q6_K has the most of the formats that MR_ANY stands for
	static constexpr int BYTES = TYPE == MR_ANY ? 210 :
		CHUNK / mr_block_size(TYPE) * mr_block_bytes(TYPE);
	static constexpr int UNITS = (BYTES + 30) / 16; // of its hull, wherever it lies
	static constexpr int ROW = UNITS * 16;
	static constexpr int STAGE = MR_OUTPUTS * ROW; // bytes of a warp
};

// mr_tile_job finds the job of this block, and its tile within.
MR_FN mr_cuda_job mr_tile_job(const mr_cuda_product_args &a, int *tile)
{
	const mr_cuda_job *jobs = a.jobs ? (const mr_cuda_job *)a.jobs : a.few;
	int begun = 0;
	for (int j = threadIdx.x % MR_WARP; j < a.job_count; j += MR_WARP)
		begun += jobs[j].tile <= (int)blockIdx.x;
	for (int step = 16; step > 0; step /= 2)
		begun += __shfl_xor_sync(MR_ALL_LANES, begun, step);
	mr_cuda_job job = jobs[begun - 1];
	*tile = blockIdx.x - job.tile;
	return job;
}

// mr_x_row is the address of row n of a job's activations; the last one stands in for rows that are
// not there.
MR_FN uint64_t mr_x_row(const mr_cuda_product_args &a, const mr_cuda_job &job, int n)
{
	n = mr_min(n, job.rows - 1);
	int64_t row = job.x_rows ? ((const int32_t *)job.x_rows)[n] : job.x_first + n;
	return a.x + (uint64_t)row * a.stride * 2;
}

MR_FN void mr_store(const mr_cuda_job &job, int o, int n, float value)
{
	if (o >= job.outputs || n >= job.rows)
		return;
	int64_t slot = job.slots ? ((const int32_t *)job.slots)[n] : job.out_first + n;
	float *out = (float *)job.out + slot * job.outputs + o;
	if (job.bias)
		value = value + ((const float *)job.bias)[o];
	*out = job.accumulate ? *out + value : value;
}

// mr_weights is a warp's view of its 16 rows of weights.
struct mr_weights {
	uint64_t base, row_bytes;
	int first, last; // outputs
	int block_size, block_bytes, chunk, inputs, type;

	MR_FN_MEMBER uint64_t start(int r, int k) const
	{
		return base + (uint64_t)mr_min(first + r, last) * row_bytes +
			(uint64_t)(k / block_size) * block_bytes;
	}
};

// mr_stage issues the copies of the chunk that begins at element k.
template <int TYPE, int XP>
MR_FN void mr_stage(const mr_weights &w, int k, unsigned char *to)
{
	typedef mr_plan<TYPE, XP> plan;
	uint64_t bytes = (uint64_t)(mr_min(w.chunk, w.inputs - k) / w.block_size) * w.block_bytes;
	for (int i = threadIdx.x % MR_WARP; i < MR_OUTPUTS * plan::UNITS; i += MR_WARP) {
		int r = i / plan::UNITS, u = i % plan::UNITS;
		uint64_t from = w.start(r, k), end = from + bytes;
		from = (from & ~15ull) + 16 * u;
		if (from < end)
			mr_copy_async(to + r * plan::ROW + 16 * u, from,
				end - from < 16 ? (uint32_t)(end - from) : 16);
	}
}

// mr_x is what a lane reads of the activations: the address of its part of row 8j+g, and where the
// sums of rows 8j+2t and 8j+2t+1 begin.
template <int NT> struct mr_x {
	uint64_t row[NT];
	uint32_t sums[NT][2];
};

template <int TYPE, int NT>
MR_FN void mr_x_open(const mr_cuda_product_args &a, const mr_cuda_job &job, int n0, mr_x<NT> &x)
{
	int g = threadIdx.x % MR_WARP / 4, t = threadIdx.x % 4;
	MR_UNROLL
	for (int j = 0; j < NT; j++) {
		x.row[j] = mr_x_row(a, job, n0 + MR_ROWS * j + g) + 16 * t;
		MR_UNROLL
		for (int e = 0; mr_has_minimum(TYPE) && e < 2; e++)
			x.sums[j][e] = (uint32_t)((mr_x_row(a, job, n0 + MR_ROWS * j + 2 * t + e) - a.x) / 32);
	}
}

// mr_rows_at is where the lane's two rows of a chunk that begins at element k lie in its stage.
template <int TYPE, int XP> MR_FN void mr_rows_at(const mr_weights &w, int k, uint32_t at[2])
{
	int g = threadIdx.x % MR_WARP / 4;
	MR_UNROLL
	for (int half = 0; half < 2; half++) {
		int r = g + 8 * half;
		at[half] = r * mr_plan<TYPE, XP>::ROW + (uint32_t)(w.start(r, k) & 15);
	}
}

// mr_add is acc + d*s - m*sum for the four results of a lane: rows g and g+8, columns 2t and 2t+1.
template <bool MINIMUM>
MR_FN void mr_add(float acc[4], const float s[4], float d0, float d1, float m0, float m1,
	const float sums[2])
{
	MR_UNROLL
	for (int i = 0; i < 4; i++) {
		acc[i] = __fmaf_rn(i < 2 ? d0 : d1, s[i], acc[i]);
		if (MINIMUM)
			acc[i] = __fmaf_rn(i < 2 ? -m0 : -m1, sums[i % 2], acc[i]);
	}
}

// mr_block32 adds the 32 elements from k (of the row) on, at element c of a staged chunk, to the
// sums of the chunk. The lane's rows of weights begin at bytes row_at; load(piece, j) gives lane
// t's part of row 8j+g of a piece of the activations.
template <int TYPE, int WP, int XP, int NT, typename LOAD>
MR_FN void mr_block32(const mr_weights &w, const unsigned char *staged, int k, int c,
	const uint32_t row_at[2], const float *x_sums, const mr_x<NT> &x, float acc[NT][4], LOAD load)
{
	constexpr bool FLOATS = mr_block_size(TYPE) == 1, MINIMUM = mr_has_minimum(TYPE);
	constexpr int GRAIN = FLOATS ? 32 : mr_grain(TYPE);
	int t = threadIdx.x % 4;
	uint32_t a[WP][2][4];
	float d[2][2], m[2][2];
	MR_UNROLL
	for (int half = 0; half < 2; half++) {
		uint32_t at = row_at[half], part[WP][2][2];
		if constexpr (FLOATS)
			mr_floats<TYPE, WP>(staged, at, c, t, w.inputs - (k - c), part);
		else if constexpr (TYPE == MR_ANY)
			mr_codes_any(w.type, staged, at, c, t, part[0], d[half], m[half]);
		else
			mr_codes<TYPE>(staged, at, c, t, part[0], d[half], m[half]);
		MR_UNROLL
		for (int p = 0; p < WP; p++)
			MR_UNROLL
			for (int i = 0; i < 4; i++)
				a[p][i / 2][i % 2 * 2 + half] = part[p][i / 2][i % 2];
	}
	MR_UNROLL
	for (int j = 0; j < NT; j++) {
		uint4 b[XP];
		MR_UNROLL
		for (int p = 0; p < XP; p++)
			b[p] = load(p, j);
		float lead[4] = {0.0f, 0.0f, 0.0f, 0.0f}, rest[4] = {0.0f, 0.0f, 0.0f, 0.0f};
		float2 sums[2];
		MR_UNROLL
		for (int e = 0; MINIMUM && e < 2; e++)
			sums[e] = *(const float2 *)(x_sums + x.sums[j][e] + k / 16);
		MR_UNROLL
		for (int i = 0; i < 2; i++) {
			MR_UNROLL
			for (int order = WP + XP - 2 < 2 ? WP + XP - 2 : 2; order >= 0; order--)
				MR_UNROLL
				for (int p = order < XP ? 0 : order - XP + 1; p < WP && p <= order; p++) {
					const uint4 &v = b[order - p];
					uint32_t f[2] = {i ? v.z : v.x, i ? v.w : v.y};
					mr_mma(order == 0 ? lead : rest, a[p][i], f);
				}
			if (GRAIN == 32 && i == 0)
				continue;
			float s[4], both[2] = {0.0f, 0.0f};
			MR_UNROLL
			for (int e = 0; e < 4; e++) {
				s[e] = WP + XP > 2 ? lead[e] + rest[e] : lead[e];
				lead[e] = rest[e] = 0.0f;
			}
			MR_UNROLL
			for (int e = 0; MINIMUM && e < 2; e++)
				both[e] = GRAIN == 32 ? sums[e].x + sums[e].y : i ? sums[e].y : sums[e].x;
			if (FLOATS)
				mr_add<false>(acc[j], s, 1.0f, 1.0f, 0.0f, 0.0f, both);
			else
				mr_add<MINIMUM>(acc[j], s, d[0][i], d[1][i], m[0][i], m[1][i], both);
		}
	}
}

template <int TYPE, int XP>
MR_FN mr_weights mr_view(const mr_cuda_product_args &a, const mr_cuda_job &job, int first)
{
	mr_weights w;
	w.base = job.weights;
	w.row_bytes = a.row_bytes;
	w.first = first;
	w.last = job.outputs - 1;
	w.type = TYPE == MR_ANY ? a.type : TYPE;
	w.block_size = mr_block_size(w.type);
	w.block_bytes = mr_block_bytes(w.type);
	w.chunk = TYPE == MR_ANY && w.block_size == 32 ? 128 : mr_plan<TYPE, XP>::CHUNK;
	w.inputs = a.inputs;
	return w;
}

// mr_product_split is the kernel for few rows: a block has 16 outputs and 8*NT rows, and its warps
// take the chunks in turn. After each round of chunks their sums, which lie in shared memory, are
// added in their order.
template <int TYPE, int WP, int XP, int NT>
MR_FN void mr_product_split(const mr_cuda_product_args &a)
{
	typedef mr_plan<TYPE, XP> plan;
	constexpr int SUMS = MR_OUTPUTS * MR_ROWS * NT;
	MR_DYNAMIC_SHARED(shared);
	int lane = threadIdx.x % MR_WARP, warp = threadIdx.x / MR_WARP, g = lane / 4, t = lane % 4;
	int tile;
	mr_cuda_job job = mr_tile_job(a, &tile);
	int row_tiles = (job.rows + MR_ROWS * NT - 1) / (MR_ROWS * NT);
	int o0 = tile / row_tiles * MR_OUTPUTS, n0 = tile % row_tiles * MR_ROWS * NT;
	mr_weights w = mr_view<TYPE, XP>(a, job, o0);
	unsigned char *stage = shared + warp * 2 * plan::STAGE;
	float *sums = (float *)(shared + MR_PRODUCT_WARPS * 2 * plan::STAGE);
	mr_x<NT> x;
	mr_x_open<TYPE>(a, job, n0, x);
	float total[NT];
	MR_UNROLL
	for (int j = 0; j < NT; j++)
		total[j] = 0.0f;

	int k = warp * w.chunk;
	if (k < w.inputs)
		mr_stage<TYPE, XP>(w, k, stage);
	mr_copies_commit();
	int rounds = (w.inputs + MR_PRODUCT_WARPS * w.chunk - 1) / (MR_PRODUCT_WARPS * w.chunk);
	for (int round = 0; round < rounds; round++, k += MR_PRODUCT_WARPS * w.chunk) {
		int next = k + MR_PRODUCT_WARPS * w.chunk;
		if (next < w.inputs)
			mr_stage<TYPE, XP>(w, next, stage + (round + 1) % 2 * plan::STAGE);
		mr_copies_commit();
		mr_copies_wait<1>();
		__syncwarp();
		float acc[NT][4];
		MR_UNROLL
		for (int i = 0; i < 4 * NT; i++)
			acc[i / 4][i % 4] = 0.0f;
		int end = mr_min(w.chunk, w.inputs - k);
		uint32_t row_at[2];
		mr_rows_at<TYPE, XP>(w, k, row_at);
		MR_UNROLL_BY(2)
		for (int c = 0; c < end; c += 32)
			mr_block32<TYPE, WP, XP, NT>(w, stage + round % 2 * plan::STAGE, k + c, c, row_at,
				(const float *)a.x_sums, x, acc, [&](int piece, int j) {
					return *(const uint4 *)(x.row[j] + piece * a.x_piece_bytes + (k + c) * 2);
				});
		float *part = sums + round % 2 * MR_PRODUCT_WARPS * SUMS, *own = part + warp * SUMS;
		MR_UNROLL
		for (int j = 0; j < NT; j++)
			MR_UNROLL
			for (int i = 0; i < 4; i++)
				own[(j * MR_OUTPUTS + g + i / 2 * 8) * MR_ROWS + 2 * t + i % 2] = acc[j][i];
		__syncthreads();
		// Values threadIdx.x, threadIdx.x + 128, ..; the other half of sums is written meanwhile.
		MR_UNROLL
		for (int other = 0; other < MR_PRODUCT_WARPS; other++) {
			if ((round * MR_PRODUCT_WARPS + other) * w.chunk >= w.inputs)
				break;
			MR_UNROLL
			for (int j = 0; j < NT; j++)
				total[j] = total[j] + part[other * SUMS + j * MR_OUTPUTS * MR_ROWS + threadIdx.x];
		}
	}
	MR_UNROLL
	for (int j = 0; j < NT; j++)
		mr_store(job, o0 + threadIdx.x / MR_ROWS, n0 + j * MR_ROWS + threadIdx.x % MR_ROWS,
			total[j]);
}

// mr_stage_x issues the copies of MR_STEP elements of the block's rows, of which a thread has every
// sixteenth. A row's units of 16 bytes change halves in odd rows, so that a quarter of a warp reads
// all banks.
template <int XP, int NT>
MR_FN void mr_stage_x(const uint64_t rows[NT / 2], uint64_t piece_bytes, int k,
	unsigned char *to)
{
	constexpr int UNITS = MR_STEP * 2 / 16, N = MR_ROWS * NT;
	int u = threadIdx.x % UNITS;
	MR_UNROLL
	for (int p = 0; p < XP; p++)
		MR_UNROLL
		for (int i = 0; i < NT / 2; i++) {
			int n = threadIdx.x / UNITS + MR_PRODUCT_THREADS / UNITS * i;
			mr_copy_async(to + ((p * N + n) * UNITS + (u ^ n % 2 * 4)) * 16,
				rows[i] + p * piece_bytes + k * 2 + 16 * u, 16);
		}
}

// mr_product_tile is the kernel for many rows: a block has 64 outputs, 16 a warp, and 8*NT rows,
// whose activations are staged for all of its warps.
template <int TYPE, int WP, int XP, int NT>
MR_FN void mr_product_tile(const mr_cuda_product_args &a)
{
	typedef mr_plan<TYPE, XP> plan;
	constexpr int UNITS = MR_STEP * 2 / 16, N = MR_ROWS * NT, X_STAGE = XP * N * MR_STEP * 2;
	MR_DYNAMIC_SHARED(shared);
	int lane = threadIdx.x % MR_WARP, warp = threadIdx.x / MR_WARP, g = lane / 4, t = lane % 4;
	int tile;
	mr_cuda_job job = mr_tile_job(a, &tile);
	int row_tiles = (job.rows + N - 1) / N;
	int o0 = (tile / row_tiles * MR_PRODUCT_WARPS + warp) * MR_OUTPUTS, n0 = tile % row_tiles * N;
	mr_weights w = mr_view<TYPE, XP>(a, job, o0);
	unsigned char *stage = shared + warp * 2 * plan::STAGE;
	unsigned char *x_stage = shared + MR_PRODUCT_WARPS * 2 * plan::STAGE;
	mr_x<NT> x;
	mr_x_open<TYPE>(a, job, n0, x);
	float total[NT][4], acc[NT][4];
	MR_UNROLL
	for (int i = 0; i < 4 * NT; i++)
		total[i / 4][i % 4] = acc[i / 4][i % 4] = 0.0f;

	static_assert(NT % 2 == 0, "a thread stages every sixteenth row");
	uint64_t x_row[NT / 2];
	MR_UNROLL
	for (int i = 0; i < NT / 2; i++)
		x_row[i] = mr_x_row(a, job, n0 + threadIdx.x / UNITS + MR_PRODUCT_THREADS / UNITS * i);
	mr_stage<TYPE, XP>(w, 0, stage);
	mr_stage_x<XP, NT>(x_row, a.x_piece_bytes, 0, x_stage);
	mr_copies_commit();
	for (int k = 0; k < w.inputs; k += MR_STEP) {
		int c = k % w.chunk, chunk = k / w.chunk, step = k / MR_STEP;
		mr_copies_wait<0>();
		__syncthreads();
		if (c == 0 && k + w.chunk < w.inputs)
			mr_stage<TYPE, XP>(w, k + w.chunk, stage + (chunk + 1) % 2 * plan::STAGE);
		if (k + MR_STEP < w.inputs)
			mr_stage_x<XP, NT>(x_row, a.x_piece_bytes, k + MR_STEP,
				x_stage + (step + 1) % 2 * X_STAGE);
		mr_copies_commit();
		const unsigned char *staged = x_stage + step % 2 * X_STAGE;
		uint32_t row_at[2];
		mr_rows_at<TYPE, XP>(w, k - c, row_at);
		for (int b = 0; b < MR_STEP && k + b < w.inputs; b += 32)
			mr_block32<TYPE, WP, XP, NT>(w, stage + chunk % 2 * plan::STAGE, k + b, c + b, row_at,
				(const float *)a.x_sums, x, acc, [&](int piece, int j) {
					int u = (b / 8 + t) ^ g % 2 * 4;
					return *(const uint4 *)(staged +
						((piece * N + MR_ROWS * j + g) * UNITS + u) * 16);
				});
		if (c + MR_STEP == w.chunk || k + MR_STEP >= w.inputs)
			MR_UNROLL
			for (int i = 0; i < 4 * NT; i++) {
				total[i / 4][i % 4] = total[i / 4][i % 4] + acc[i / 4][i % 4];
				acc[i / 4][i % 4] = 0.0f;
			}
	}
	MR_UNROLL
	for (int j = 0; j < NT; j++)
		MR_UNROLL
		for (int i = 0; i < 4; i++)
			mr_store(job, o0 + g + i / 2 * 8, n0 + MR_ROWS * j + 2 * t + i % 2, total[j][i]);
}
