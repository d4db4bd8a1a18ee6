// The player: executes the .cu sources of kernels/cuda on the host. It stands where the CUDA
// headers would, and plays grid, block, threads, barriers, shuffles, shared memory, asynchronous
// copies and the matrix instruction, on the thread that launches. Many threads may launch at once.
//
// The threads of a block are fibers. A fiber runs until it must wait, and a warp until all of its
// lanes wait for other warps, so that threads drift apart as far as the code allows, in even blocks
// from the first to the last, in odd ones from the last to the first: where a barrier is missing a
// thread reads what is not there yet, or what was there before. Shared memory begins as 0xFF, which
// is NaN; an asynchronous copy happens only when it is waited for. What a GPU would hang on or
// corrupt is an error here: a barrier that some threads never reach, lanes of a warp at different
// collectives, writes outside shared memory, misaligned copies.
//
// What it cannot show: a race that neither order exposes, and time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

// What CUDA C++ has built in, as far as the kernels use it.
#define MR_FN static inline
#define MR_FN_LARGE static
#define MR_FN_MEMBER inline
#define MR_ARGS
#define MR_UNROLL
#define MR_UNROLL_BY(n)
#define MR_KERNEL(threads) static void
#define MR_KERNEL_OF(threads, blocks) static void
#define __shared__ static thread_local
#define MR_DYNAMIC_SHARED(name) unsigned char *name = play::self->shared

struct alignas(16) uint4 {
	uint32_t x, y, z, w;
};

struct alignas(8) float2 {
	float x, y;
};

struct alignas(16) float4 {
	float x, y, z, w;
};

namespace play {

enum result {
	OK = 0,
	UNKNOWN_KERNEL,  // no kernel of that name
	BAD_LAUNCH,      // a size that no GPU takes
	BARRIER,         // a barrier or collective that some threads do not reach
	SHARED_MEMORY,   // an access outside shared memory
	MISALIGNED,      // a copy between addresses that are not multiples of 16
	COPY_UNFINISHED, // a kernel ends, or fills the queue, with copies not waited for
	NO_MEMORY,
};

constexpr uint32_t THREADS_MAX = 1024, SHARED_MAX = 48 << 10, GRID_X_MAX = 0x7fffffff,
	GRID_MAX = 65535;
constexpr size_t STACK_BYTES = 64 << 10;
constexpr size_t GUARD_BYTES = 4096; // around shared memory
constexpr unsigned char GUARD_BYTE = 0xA7, POISON_BYTE = 0xFF;
constexpr uint32_t WARP = 32;
constexpr int COPIES_MAX = 128; // of a thread, under way

struct dim {
	uint32_t x, y, z;
};

struct copy {
	unsigned char *to;
	const unsigned char *from;
	uint32_t bytes, group;
};

enum status { READY, AT_BARRIER, AT_COLLECTIVE, DONE };

// fiber is a thread of the block that runs.
struct fiber {
#if defined(__x86_64__) || defined(__aarch64__)
	void *sp;
#else
	ucontext_t context;
#endif
	status state;
	uint32_t index, parity; // parity: which of a warp's two sets of slots is next
	dim thread;
	uint32_t groups; // of copies, committed
	int copy_count;
	copy copies[COPIES_MAX];
};

enum collective { SYNC, SHUFFLE, BALLOT, MMA };

// warp has two sets of slots, used in turn: a lane can be one collective ahead of another that has
// not yet read its result, but not two.
struct warp {
	uint32_t lanes, arrived;
	collective kind;
	uint32_t slots[2][WARP][8];
	float results[2][WARP][4];
};

// machine is what a host thread needs to play a block; made at its first launch.
struct machine {
	fiber *current;
	unsigned char *shared; // of the block; guards lie on both sides
	uint32_t shared_bytes, threads, arrived, done;
	dim grid, block, block_index;
	void (*kernel)(const void *args);
	const void *args;
	result error;
	char message[200];
	unsigned char *shared_memory, *stacks;
	fiber *fibers;
	warp *warps;
#if defined(__x86_64__) || defined(__aarch64__)
	void *sp;
#else
	ucontext_t context;
#endif
	~machine();
};

// kernel is a kernel that mr_play_launch finds by name.
struct kernel {
	const char *name;
	uint32_t threads, args_bytes;
	void (*run)(const void *args);
};

extern thread_local machine *self;

machine *open_machine(); // NULL: no memory
result launch(machine *m, void (*kernel)(const void *), const dim &grid, const dim &block,
	uint32_t shared_bytes, const void *args);

void yield();            // to the scheduler
[[noreturn]] void fail(result error, const char *message);
void barrier();
uint32_t collect(collective kind, const uint32_t *words, int count); // returns the parity of slots

inline uint32_t lane() { return self->current->index % WARP; }
inline warp &my_warp() { return self->warps[self->current->index / WARP]; }

inline float bf16(uint32_t bits)
{
	uint32_t wide = bits << 16;
	float f;
	memcpy(&f, &wide, 4);
	return f;
}

} // namespace play

#define threadIdx (play::self->current->thread)
#define blockIdx (play::self->block_index)
#define blockDim (play::self->block)
#define gridDim (play::self->grid)

static inline void __syncthreads() { play::barrier(); }

static inline void __syncwarp() { play::collect(play::SYNC, nullptr, 0); }

static inline float __uint_as_float(uint32_t bits)
{
	float f;
	memcpy(&f, &bits, 4);
	return f;
}

static inline uint32_t __float_as_uint(float f)
{
	uint32_t bits;
	memcpy(&bits, &f, 4);
	return bits;
}

template <typename T> static inline T mr_shuffle(uint32_t mask, T v, uint32_t from)
{
	static_assert(sizeof(T) == 4, "shuffles move 32 bits");
	if (mask != 0xffffffffu)
		play::fail(play::BARRIER, "a shuffle of a part of a warp is not played");
	uint32_t word;
	memcpy(&word, &v, 4);
	uint32_t parity = play::collect(play::SHUFFLE, &word, 1);
	play::warp &w = play::my_warp();
	memcpy(&v, w.slots[parity][from < w.lanes ? from : play::lane()], 4);
	return v;
}

template <typename T> static inline T __shfl_xor_sync(uint32_t mask, T v, int with)
{
	return mr_shuffle(mask, v, play::lane() ^ with);
}

template <typename T> static inline T __shfl_sync(uint32_t mask, T v, int from)
{
	return mr_shuffle(mask, v, from);
}

static inline uint32_t __ballot_sync(uint32_t mask, int predicate)
{
	if (mask != 0xffffffffu)
		play::fail(play::BARRIER, "a ballot of a part of a warp is not played");
	uint32_t word = predicate != 0, all = 0;
	uint32_t parity = play::collect(play::BALLOT, &word, 1);
	for (uint32_t i = 0; i < play::my_warp().lanes; i++)
		all |= play::my_warp().slots[parity][i][0] << i;
	return all;
}

static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift)
{
	return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}

static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t pick)
{
	uint64_t bytes = (uint64_t)b << 32 | a;
	uint32_t out = 0;
	for (int i = 0; i < 4; i++)
		out |= (uint32_t)(bytes >> (pick >> 4 * i & 7) * 8 & 0xff) << 8 * i;
	return out;
}

// The matrix instruction and its kin; common.cuh says what they mean.

static inline void mr_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	uint32_t words[10];
	memcpy(words, a, 16);
	memcpy(words + 4, b, 8);
	play::warp &w = play::my_warp();
	memcpy(w.results[play::self->current->parity][play::lane()], d, 16);
	uint32_t parity = play::collect(play::MMA, words, 6);
	memcpy(d, w.results[parity][play::lane()], 16);
}

static inline void mr_copy_async(void *to, uint64_t from, uint32_t bytes)
{
	play::machine *m = play::self;
	play::fiber *f = m->current;
	unsigned char *target = (unsigned char *)to;
	if ((uintptr_t)to % 16 != 0 || from % 16 != 0)
		play::fail(play::MISALIGNED, "a copy between addresses that are not multiples of 16");
	if (target < m->shared || target + 16 > m->shared + m->shared_bytes || bytes < 1 || bytes > 16)
		play::fail(play::SHARED_MEMORY, "a copy to outside of shared memory");
	if (f->copy_count == play::COPIES_MAX)
		play::fail(play::COPY_UNFINISHED, "more copies under way than the player holds");
	f->copies[f->copy_count++] = {target, (const unsigned char *)from, bytes, f->groups};
}

static inline void mr_copies_commit() { play::self->current->groups++; }

template <int LATEST> static inline void mr_copies_wait()
{
	play::fiber *f = play::self->current;
	int left = 0;
	for (int i = 0; i < f->copy_count; i++) {
		play::copy &c = f->copies[i];
		if (c.group + LATEST >= f->groups) {
			f->copies[left++] = c;
			continue;
		}
		memcpy(c.to, c.from, c.bytes);
		memset(c.to + c.bytes, 0, 16 - c.bytes);
	}
	f->copy_count = left;
}

// mr_round_bf16 rounds to nearest even; NaN becomes the one that the instruction makes.
static inline uint32_t mr_round_bf16(float f)
{
	uint32_t bits = __float_as_uint(f);
	if ((bits & 0x7fffffff) > 0x7f800000)
		return 0x7fff;
	return (uint32_t)(((uint64_t)bits + 0x7fff + (bits >> 16 & 1)) >> 16) & 0xffff;
}

static inline uint32_t mr_bf16x2(float low, float high)
{
	return mr_round_bf16(low) | mr_round_bf16(high) << 16;
}

static inline uint32_t mr_fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
	using play::bf16; // products are exact in float, and sums in double
	double low = (double)(bf16(a & 0xffff) * bf16(b & 0xffff)) + bf16(c & 0xffff);
	double high = (double)(bf16(a >> 16) * bf16(b >> 16)) + bf16(c >> 16);
	return mr_bf16x2((float)low, (float)high);
}

static inline float mr_half_float(uint32_t half)
{
	uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
	if (exponent == 0)
		return __uint_as_float(__float_as_uint((float)fraction * (1.0f / (1 << 24))) | sign);
	if (exponent == 0x1f)
		return __uint_as_float(fraction ? 0x7fffffff : sign | 0x7f800000);
	return __uint_as_float(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

static inline uint16_t mr_float_half(float f)
{
	uint32_t bits = __float_as_uint(f), sign = bits >> 16 & 0x8000, abs = bits & 0x7fffffff;
	if (abs > 0x7f800000)
		return 0x7fff;
	if (abs >= 0x47800000)
		return (uint16_t)(sign | 0x7c00);
	if (abs >= 0x38800000) {
		abs -= (127 - 15) << 23;
		return (uint16_t)(sign | (abs + 0xfff + (abs >> 13 & 1)) >> 13);
	}
	if (abs < 0x33000000)
		return (uint16_t)sign;
	uint32_t fraction = (abs & 0x7fffff) | 0x800000, shift = 126 - (abs >> 23);
	uint32_t half = (1u << (shift - 1)) - 1;
	return (uint16_t)(sign | (fraction + half + (fraction >> shift & 1)) >> shift);
}
