// Kernels for the tests of the player: some right, some with one mistake each that a GPU would
// answer with a hang, a wrong result on some runs, or corruption. And what the player plays, one
// instruction a kernel, so that Go can compare it with a plain computation.
#include "common.cuh"

struct words_args {
	uint64_t in, out; // uint32
};

// Reversal through shared memory: out[i] = in[255-i]. Without the barrier a thread reads what
// another has not yet written.
template <bool BARRIER> static void reverse(const words_args a)
{
	MR_DYNAMIC_SHARED(shared);
	uint32_t *s = (uint32_t *)shared, i = threadIdx.x;
	s[i] = ((const uint32_t *)a.in)[i];
	if (BARRIER)
		__syncthreads();
	((uint32_t *)a.out)[i] = s[255 - i];
}

// Two rounds through the same memory: the second barrier of a round keeps a fast thread from
// writing what a slow one has yet to read.
template <bool BARRIER> static void rounds(const words_args a)
{
	__shared__ uint32_t s[256];
	uint32_t i = threadIdx.x, v = ((const uint32_t *)a.in)[i];
	for (int round = 0; round < 2; round++) {
		s[i] = v;
		__syncthreads();
		v = s[(i + 1) % 256];
		if (BARRIER)
			__syncthreads();
	}
	((uint32_t *)a.out)[i] = v;
}

// Half of the threads never reach the barrier.
static void divergent(const words_args)
{
	if (threadIdx.x < 128)
		__syncthreads();
}

// A lane leaves before the shuffle of its warp.
static void lone_lane(const words_args a)
{
	if (threadIdx.x == 5)
		return;
	((uint32_t *)a.out)[threadIdx.x] = __shfl_xor_sync(MR_ALL_LANES, threadIdx.x, 1);
}

// Lanes of a warp at different collectives.
static void mixed(const words_args)
{
	if (threadIdx.x % 2)
		__syncwarp();
	else
		__ballot_sync(MR_ALL_LANES, 1);
}

static void outside(const words_args)
{
	MR_DYNAMIC_SHARED(shared);
	((uint32_t *)shared)[256] = threadIdx.x; // of 1024 bytes
}

static void before(const words_args)
{
	MR_DYNAMIC_SHARED(shared);
	((uint32_t *)shared)[-1] = threadIdx.x;
}

// Asynchronous copies of 16 bytes a thread, of 64: WAIT groups may be under way when they are read;
// one too many if it is 1.
template <int WAIT> static void copies(const words_args a)
{
	MR_DYNAMIC_SHARED(shared);
	uint32_t i = threadIdx.x;
	if (i < 64)
		mr_copy_async(shared + 16 * i, a.in + 16 * i, i == 63 ? 4 : 16);
	mr_copies_commit();
	mr_copies_wait<WAIT>();
	__syncthreads();
	((uint32_t *)a.out)[i] = ((uint32_t *)shared)[i];
	__syncthreads();
	mr_copies_wait<0>();
}

static void copy_unfinished(const words_args a)
{
	MR_DYNAMIC_SHARED(shared);
	mr_copy_async(shared, a.in, 16);
	mr_copies_commit();
}

static void copy_misaligned(const words_args a)
{
	MR_DYNAMIC_SHARED(shared);
	mr_copy_async(shared + 8, a.in, 16);
}

static void copy_outside(const words_args a)
{
	MR_DYNAMIC_SHARED(shared);
	mr_copy_async(shared + 1024, a.in, 16);
}

// in: 16x16 of A, 16x8 of B (bfloat16), 16x8 of C (float), each row by row; out: 16x8. The loads
// are written from the figures of the PTX ISA ("Matrix Fragments for mma.m16n8k16"); SWAPPED
// exchanges the second and third registers of A, the mistake that is easiest to make.
template <bool SWAPPED> static void matrix(const words_args args)
{
	uint32_t lane = threadIdx.x, group = lane >> 2, thread = lane % 4;
	const uint16_t *a = (const uint16_t *)args.in, *b = a + 256;
	const float *c = (const float *)(b + 128);
	uint16_t av[8], bv[4];
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
		uint32_t col = thread * 2 + (i & 1) + (i < 4 ? 0 : 8);
		av[i] = a[row * 16 + col];
	}
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t row = thread * 2 + (i & 1) + (i < 2 ? 0 : 8);
		bv[i] = b[row * 8 + group];
	}
	uint32_t af[4], bf[2];
	float d[4];
	for (uint32_t i = 0; i < 4; i++) {
		af[i] = av[2 * i] | (uint32_t)av[2 * i + 1] << 16;
		d[i] = c[(group + i / 2 * 8) * 8 + thread * 2 + i % 2];
	}
	for (uint32_t i = 0; i < 2; i++)
		bf[i] = bv[2 * i] | (uint32_t)bv[2 * i + 1] << 16;
	if (SWAPPED) {
		uint32_t t = af[1];
		af[1] = af[2];
		af[2] = t;
	}
	mr_mma(d, af, bf);
	for (uint32_t i = 0; i < 4; i++)
		((float *)args.out)[(group + i / 2 * 8) * 8 + thread * 2 + i % 2] = d[i];
}

// out: for 64 threads, which are two warps, the word of lane 3, the word of the lane with the
// lowest bit turned, and the ballot of odd words.
static void lanes(const words_args a)
{
	uint32_t i = threadIdx.x, v = ((const uint32_t *)a.in)[i], *out = (uint32_t *)a.out;
	out[3 * i] = __shfl_sync(MR_ALL_LANES, v, 3);
	out[3 * i + 1] = __shfl_xor_sync(MR_ALL_LANES, v, 1);
	out[3 * i + 2] = __ballot_sync(MR_ALL_LANES, v & 1);
}

// in: 256 floats a block; out: half, and bfloat16 of each, and the float of the half's number.
static void conversions(const words_args a)
{
	uint32_t i = blockIdx.x * 256 + threadIdx.x, *out = (uint32_t *)a.out;
	float v = ((const float *)a.in)[i];
	out[3 * i] = mr_float_half(v);
	out[3 * i + 1] = mr_bf16x2(v, 1.0f) & 0xffff;
	out[3 * i + 2] = __float_as_uint(mr_half_float(i & 0xffff));
}

// in: two words and a third; out: the permutation, and the shift by the third.
static void bytes(const words_args a)
{
	const uint32_t *in = (const uint32_t *)a.in + 3 * threadIdx.x;
	uint32_t *out = (uint32_t *)a.out + 2 * threadIdx.x;
	out[0] = __byte_perm(in[0], in[1], in[2]);
	out[1] = __funnelshift_r(in[0], in[1], in[2]);
}

template <void (*RUN)(const words_args)> static void run(const void *args)
{
	RUN(*(const words_args *)args);
}

#define PLANTED(name, threads, f) {name, threads, sizeof(words_args), run<f>}

extern const play::kernel mr_planted_kernels[];
const play::kernel mr_planted_kernels[] = {
	PLANTED("reverse", 256, reverse<true>),
	PLANTED("reverse without barrier", 256, reverse<false>),
	PLANTED("rounds", 256, rounds<true>),
	PLANTED("rounds without barrier", 256, rounds<false>),
	PLANTED("divergent", 256, divergent),
	PLANTED("lone lane", 64, lone_lane),
	PLANTED("mixed", 32, mixed),
	PLANTED("outside", 32, outside),
	PLANTED("before", 32, before),
	PLANTED("copies", 256, copies<0>),
	PLANTED("copies not waited for", 256, copies<1>),
	PLANTED("copy unfinished", 32, copy_unfinished),
	PLANTED("copy misaligned", 32, copy_misaligned),
	PLANTED("copy outside", 32, copy_outside),
	PLANTED("matrix", 32, matrix<false>),
	PLANTED("matrix swapped", 32, matrix<true>),
	PLANTED("lanes", 64, lanes),
	PLANTED("conversions", 256, conversions),
	PLANTED("bytes", 64, bytes),
	{nullptr, 0, 0, nullptr},
};
