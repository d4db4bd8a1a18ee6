// What the C files of kernels/cpu share among themselves.
#ifndef MOERING_CPU_INTERNAL_H
#define MOERING_CPU_INTERNAL_H

// No product and sum may be fused unless it says so: GCC keeps to that under -std=c11.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#include <string.h>

#include "cpu.h"

#define INLINE static inline __attribute__((always_inline, unused))

// slot is the workspace of one thread while it takes part.
typedef struct {
	uint8_t *memory;
	int64_t bytes;
	uint8_t *scratch; // the pool's
	progress *stream; // of the current batch
	char pad[32];
} slot;

// slot_memory returns at least bytes of the slot's workspace; NULL, and a fault, without memory.
uint8_t *slot_memory(slot *s, int64_t bytes);
void slot_fault(slot *s, int32_t fault);

// isa is the set of kernels of one instruction set. An acc is (m, 16) floats.
struct isa {
	const char *name;
	// Product of one tile with quantised rows.
	void (*ints[T_COUNT])(const uint8_t *tile, long units, const void *const *x, int m, float *acc);
	// Product of n <= 16 published rows, stride bytes apart, with float rows of k.
	void (*floats)(int type, const uint8_t *w, int64_t stride, int n, int k, const void *const *x,
	               int m, float *acc);
	void (*quantize)(const float *x, int n, uint8_t *q);
	void (*silu)(float *gate, const float *up, int n); // gate = silu(gate) * up
	void (*norm)(const norm_args *a, int chunk);
	void (*rope)(const rope_args *a, int chunk);
	void (*attention)(const attention_args *a, int chunk, slot *s);
	void (*attention_merge)(const attention_args *a, int row, slot *s);
	void (*route)(const route_args *a, int chunk, slot *s);
	void (*combine)(const combine_args *a, int chunk);
	void (*probe)(const probe_args *a, int chunk);
};

extern const isa isa_portable;
#if defined(__x86_64__) && !defined(MOERING_PORTABLE)
extern const isa isa_avx2, isa_avxvnni, isa_avx512;
#elif defined(__aarch64__) && !defined(MOERING_PORTABLE)
extern const isa isa_neon;
#endif

void task_run(const isa *k, const task *t, int chunk, slot *s);

// format is how a storage format is cut into units of a tile.
typedef struct {
	uint8_t from, width, count, change; // see segment kinds
	uint16_t to;
} segment;

typedef struct {
	int16_t elements, bytes; // of a unit of one row
	int8_t segments;
	int8_t head; // bytes of a unit of a tile that lie before its pair of units: half a cache line or none
	segment segment[9];
} format;

enum { PLAIN, FLIP, SPREAD }; // dword ^ 0x80808080; high bits spread for shifting

const format *type_format(int type); // NULL for formats without tiles
void tile_pack(const format *f, const uint8_t *rows, int64_t row_bytes, int n, uint8_t *tile,
               const uint8_t *next);
void tile_unpack_row(const format *f, const uint8_t *tile, int row, int64_t units, uint8_t *out);
void decode_row(int type, const uint8_t *src, int64_t n, float *dst);
void encode_cache_row(int type, const float *src, int64_t n, uint8_t *dst); // F32, F16, Q8_0

INLINE uint32_t load_u32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
INLINE int32_t load_i32(const void *p) { int32_t v; memcpy(&v, p, 4); return v; }
INLINE uint16_t load_u16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
INLINE float load_f32(const void *p) { float v; memcpy(&v, p, 4); return v; }
INLINE float as_f32(uint32_t b) { float v; memcpy(&v, &b, 4); return v; }
INLINE uint32_t as_u32(float f) { uint32_t v; memcpy(&v, &f, 4); return v; }

// half_f32 widens an IEEE half: exact, as every half is a float. Subnormals are scaled by a product
// with 2^112, infinities and NaNs by a second one.
INLINE float half_f32(uint16_t h)
{
	uint32_t e = h & 0x7c00, sign = (uint32_t)(h & 0x8000) << 16;
	uint32_t v = (uint32_t)(h & 0x7fff) << 13;
	if (e == 0x7c00) {
		v |= 0x7f800000;
	} else {
		v = as_u32(as_f32(v) * 0x1p112f);
	}
	return as_f32(v | sign);
}

// f32_half rounds to the nearest half, ties to even. A NaN keeps the top of its payload and becomes
// quiet.
INLINE uint16_t f32_half(float f)
{
	uint32_t u = as_u32(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
	if (a > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
	if (a >= 0x47800000) // 2^16 and above
		return (uint16_t)(sign | 0x7c00);
	if (a < 0x38800000) // below 2^-14: a sum with 0.5 is rounded to multiples of 2^-24
		return (uint16_t)(sign | (as_u32(as_f32(a) + 0.5f) - 0x3f000000));
	a -= (127 - 15) << 23; // a carry out of the fraction is right as it is
	return (uint16_t)(sign | (a + 0xfff + (a >> 13 & 1)) >> 13);
}

#endif
