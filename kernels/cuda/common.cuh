// What every kernel uses: the instructions that CUDA C has no portable name for. On a GPU they are
// PTX; on the host tests/fakecuda/play.h plays them, with the same names and meanings.
//
// All sources are compiled without contraction of products and sums (-fmad=false; on the host
// -ffp-contract=off) and without fast math. A fused multiply-add is written where it is meant, so
// that two kernels which must give the same bits cannot be rounded in two ways.
#pragma once

#include "args.h"

#ifndef __CUDACC_RTC__
#include "play.h"
#else

#define MR_FN static __device__ __forceinline__
#define MR_FN_LARGE static __device__ __noinline__
#define MR_FN_MEMBER __device__ __forceinline__
#define MR_ARGS __grid_constant__ // read where they are, by any index
#define MR_UNROLL _Pragma("unroll")
#define MR_PRAGMA(text) _Pragma(#text)
#define MR_UNROLL_BY(n) MR_PRAGMA(unroll n)
#define MR_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
// MR_KERNEL_OF has so few registers that a processor takes several blocks.
#define MR_KERNEL_OF(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define MR_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// mr_mma adds a product of 16x16 by 16x8 bfloat16 to d: mma.sync.m16n8k16, with the fragments of
// the PTX ISA: lane 4g+t holds of A rows g and g+8, of B and of d the columns g and 2t, 2t+1.
MR_FN void mr_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
		"{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// mr_copy_async copies bytes (1 to 16) to shared memory, and fills up to 16 with zeros; both
// addresses are multiples of 16. It is done after mr_copies_wait.
MR_FN void mr_copy_async(void *to, uint64_t from, uint32_t bytes)
{
	uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		:: "r"(at), "l"(__cvta_generic_to_global((const void *)from)), "r"(bytes) : "memory");
}

// mr_copies_commit makes a group of the copies since the last.
MR_FN void mr_copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// mr_copies_wait waits for this thread's groups but the latest ones.
template <int LATEST> MR_FN void mr_copies_wait()
{
	asm volatile("cp.async.wait_group %0;" :: "n"(LATEST) : "memory");
}

// mr_bf16x2 rounds to nearest even; low lies in the low half.
MR_FN uint32_t mr_bf16x2(float low, float high)
{
	uint32_t d;
	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
	return d;
}

// mr_fma_bf16x2 is a*b+c of two pairs, rounded once.
MR_FN uint32_t mr_fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
	uint32_t d;
	asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
	return d;
}

MR_FN float mr_half_float(uint32_t half)
{
	float f;
	asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(f) : "r"(half));
	return f;
}

// mr_float_half rounds to nearest even.
MR_FN uint16_t mr_float_half(float f)
{
	uint16_t h;
	asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
	return h;
}

#endif

#define MR_WARP 32
#define MR_ALL_LANES 0xffffffffu

MR_FN float mr_nan() { return __uint_as_float(0x7fc00000u); }
MR_FN float mr_infinity() { return __uint_as_float(0x7f800000u); }

MR_FN int32_t mr_min(int32_t a, int32_t b) { return a < b ? a : b; }
MR_FN int32_t mr_max(int32_t a, int32_t b) { return a > b ? a : b; }

// mr_warp_sum adds the lanes' values in a fixed order; every lane has the sum.
MR_FN float mr_warp_sum(float v)
{
	for (int step = 16; step > 0; step /= 2)
		v = v + __shfl_xor_sync(MR_ALL_LANES, v, step);
	return v;
}

MR_FN float mr_warp_max(float v)
{
	for (int step = 16; step > 0; step /= 2)
		v = fmaxf(v, __shfl_xor_sync(MR_ALL_LANES, v, step));
	return v;
}

MR_FN float mr_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// mr_pieces writes 16 activations of a row, elements 16*group on, as bfloat16 pieces, each the
// rounded remainder of those before; three hold a float. It returns the sum of the pieces, first in
// each lane's part and then of the parts. In each 32 elements the parts of the four lanes lie one
// after the other, as codes.cuh has them, so that a lane reads its eight with one load.
MR_FN float mr_pieces(uint64_t out, int64_t piece_bytes, int pieces, int group, float v[16])
{
	float sum = 0.0f;
	for (int t = 0; t < 4; t++) {
		float *x = v + 4 * t, part = 0.0f;
		for (int p = 0; p < pieces; p++) {
			int64_t at = p * piece_bytes + group / 2 * 64 + t * 16 + group % 2 * 8;
			uint32_t *to = (uint32_t *)(out + at);
			for (int e = 0; e < 2; e++) {
				uint32_t pair = mr_bf16x2(x[e], x[e + 2]);
				float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
				to[e] = pair;
				part = part + (low + high);
				x[e] = x[e] - low;
				x[e + 2] = x[e + 2] - high;
			}
		}
		sum = sum + part;
	}
	return sum;
}
