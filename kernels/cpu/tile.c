// Tiles: 16 rows interleaved dword by dword, so that lane r of a vector is row r and a tile is one
// sequential stream. A unit is 64 columns of a 32-element format, or one 256-element block; its
// bytes are a permutation of the published bytes of its 16 rows, whose segments are tabulated here
// in the order in which they are read. Where the scales of a unit are half a cache line, those of two
// units lie before the two, so that vectors are aligned; not far away, as a second stream of reads,
// however thin, costs a third of the memory's bandwidth.
// Quantised weights of 8 bits have their sign bit flipped (unsigned with an offset of 128), and the
// fifth bits of Q5_0 and Q5_1 are reordered: bit 8k+j belongs to element 4j+k, so that a shift by j
// brings those of dword j to the bottom of its bytes.
#include <stdlib.h>

#include "internal.h"

static const format formats[T_COUNT] = {
	[T_Q4_0] = {64, 36, 4, 0, {{0, 2, 1, 0, 0}, {18, 2, 1, 0, 32}, {2, 4, 4, 0, 64}, {20, 4, 4, 0, 320}}},
	[T_IQ4NL] = {64, 36, 4, 0, {{0, 2, 1, 0, 0}, {18, 2, 1, 0, 32}, {2, 4, 4, 0, 64}, {20, 4, 4, 0, 320}}},
	[T_Q4_1] = {64, 40, 6, 0, {{0, 2, 1, 0, 0}, {20, 2, 1, 0, 32}, {2, 2, 1, 0, 64}, {22, 2, 1, 0, 96},
	                        {4, 4, 4, 0, 128}, {24, 4, 4, 0, 384}}},
	[T_Q5_0] = {64, 44, 6, 0, {{0, 2, 1, 0, 0}, {22, 2, 1, 0, 32}, {2, 4, 1, SPREAD, 64},
	                        {24, 4, 1, SPREAD, 128}, {6, 4, 4, 0, 192}, {28, 4, 4, 0, 448}}},
	[T_Q5_1] = {64, 48, 8, 0, {{0, 2, 1, 0, 0}, {24, 2, 1, 0, 32}, {2, 2, 1, 0, 64}, {26, 2, 1, 0, 96},
	                        {4, 4, 1, SPREAD, 128}, {28, 4, 1, SPREAD, 192}, {8, 4, 4, 0, 256},
	                        {32, 4, 4, 0, 512}}},
	[T_Q8_0] = {64, 68, 4, 0, {{0, 2, 1, 0, 0}, {34, 2, 1, 0, 32}, {2, 4, 8, FLIP, 64},
	                        {36, 4, 8, FLIP, 576}}},
	[T_MXFP4] = {64, 34, 4, 32, {{1, 4, 4, 0, 0}, {18, 4, 4, 0, 256}, {0, 1, 1, 0, 512}, {17, 1, 1, 0, 528}}},
	[T_Q2_K] = {256, 84, 4, 0, {{80, 2, 1, 0, 0}, {82, 2, 1, 0, 32}, {0, 4, 4, 0, 64}, {16, 4, 16, 0, 320}}},
	[T_Q3_K] = {256, 110, 4, 32, {{96, 4, 3, 0, 0}, {0, 4, 8, 0, 192}, {32, 4, 16, 0, 704},
	                              {108, 2, 1, 0, 1728}}},
	[T_Q4_K] = {256, 144, 4, 0, {{0, 2, 1, 0, 0}, {2, 2, 1, 0, 32}, {4, 4, 3, 0, 64}, {16, 4, 32, 0, 256}}},
	[T_Q5_K] = {256, 176, 5, 0, {{0, 2, 1, 0, 0}, {2, 2, 1, 0, 32}, {4, 4, 3, 0, 64}, {16, 4, 8, 0, 256},
	                          {48, 4, 32, 0, 768}}},
	[T_Q6_K] = {256, 210, 9, 32, {{192, 4, 2, 0, 0}, {0, 4, 8, 0, 128}, {128, 4, 8, 0, 640},
	                              {32, 4, 8, 0, 1152}, {200, 4, 2, 0, 1664}, {64, 4, 8, 0, 1792},
	                              {160, 4, 8, 0, 2304}, {96, 4, 8, 0, 2816}, {208, 2, 1, 0, 3328}}},
	[T_IQ4XS] = {256, 136, 4, 0, {{0, 2, 1, 0, 0}, {2, 2, 1, 0, 32}, {4, 4, 1, 0, 64}, {8, 4, 32, 0, 128}}},
};

const format *type_format(int type)
{
	return type >= 0 && type < T_COUNT && formats[type].elements ? &formats[type] : NULL;
}

int type_has_tiles(int type) { return type_format(type) != NULL; }

// spread moves bit 4j+k to bit 8k+j; gather_bits is its inverse.
static uint32_t spread(uint32_t v)
{
	uint32_t o = 0;
	for (int j = 0; j < 8; j++) // bit k of a nibble goes to byte k
		o |= ((v >> (4 * j) & 15) * 0x00204081u & 0x01010101u) << j;
	return o;
}

static uint32_t gather_bits(uint32_t v)
{
	uint32_t o = 0;
	for (int i = 0; i < 32; i++)
		o |= (v >> (8 * (i % 4) + i / 4) & 1) << i;
	return o;
}

INLINE void pack_dwords(const segment *g, const uint8_t *row, int r, uint8_t *unit)
{
	uint8_t *to = unit + g->to + 4 * r;
	const uint8_t *from = row + g->from;
	uint32_t flip = g->change == FLIP ? 0x80808080u : 0;
	for (int i = 0; i < g->count; i++) {
		uint32_t v = load_u32(from + 4 * i) ^ flip;
		if (g->change == SPREAD)
			v = spread(v);
		memcpy(to + 4 * TILE * i, &v, 4);
	}
}

typedef uint32_t quad __attribute__((vector_size(16)));

static quad load_quad(const uint8_t *p) { quad v; memcpy(&v, p, 16); return v; }

// transpose4 moves four dwords of four rows, stride bytes apart, to four vectors of the tile.
INLINE void transpose4(const uint8_t *from, int64_t stride, quad flip, uint8_t *to)
{
	quad a = load_quad(from) ^ flip, b = load_quad(from + stride) ^ flip;
	quad c = load_quad(from + 2 * stride) ^ flip, d = load_quad(from + 3 * stride) ^ flip;
	quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
	quad cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
	quad out[4] = {
		__builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
		__builtin_shufflevector(ab2, cd2, 0, 1, 4, 5), __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7),
	};
	for (int i = 0; i < 4; i++)
		memcpy(to + 4 * TILE * i, &out[i], 16);
}

// pack_quads is pack_dwords for 16 rows and a multiple of four dwords.
INLINE void pack_quads(const segment *g, const uint8_t *rows, int64_t stride, uint8_t *unit)
{
	uint32_t f = g->change == FLIP ? 0x80808080u : 0;
	quad flip = {f, f, f, f};
	for (int i = 0; i < g->count; i += 4)
		for (int r = 0; r < TILE; r += 4)
			transpose4(rows + r * stride + g->from + 4 * i, stride, flip,
			           unit + g->to + 4 * TILE * i + 4 * r);
}

// unit_main returns the bytes of a unit without its head; the head's offsets begin there.
static int64_t unit_main(const format *f) { return f->bytes * TILE - f->head; }

// unit_of returns where offset 0 of a segment's unit would be.
INLINE int64_t unit_of(const format *f, const segment *g, int64_t u, int64_t units)
{
	int64_t main = unit_main(f), odd = u & 1, pair = (u - odd) * f->bytes * TILE;
	if (g->to >= main)
		return pair + odd * f->head - main;
	return pair + (u + 1 < units || odd ? 2 : 1) * f->head + odd * main;
}

// pack_halves writes a half word of each of 16 rows, four at a time.
INLINE void pack_halves(const uint8_t *from, int64_t stride, uint8_t *to)
{
	for (int r = 0; r < TILE; r += 4, to += 8) {
		uint64_t v = 0;
		for (int i = 0; i < 4; i++, from += stride)
			v |= (uint64_t)load_u16(from) << (16 * i);
		memcpy(to, &v, 8);
	}
}

INLINE void pack_unit(const format *f, const uint8_t *rows, int64_t stride, int n, int64_t u,
                      int64_t units, uint8_t *tile)
{
#pragma GCC unroll 9
	for (int s = 0; s < f->segments; s++) {
		const segment *g = &f->segment[s];
		uint8_t *unit = tile + unit_of(f, g, u, units);
		if (n == TILE && g->width == 4 && g->count % 4 == 0) {
			pack_quads(g, rows, stride, unit);
			continue;
		}
		if (n == TILE && g->width == 2 && g->count == 1) {
			pack_halves(rows + g->from, stride, unit + g->to);
			continue;
		}
		for (int r = 0; r < n; r++) {
			const uint8_t *row = rows + r * stride;
			if (g->width == 4)
				pack_dwords(g, row, r, unit);
			else
				memcpy(unit + g->to + g->width * r, row + g->from, g->width);
		}
	}
}

// Whole tiles have a function a format, in which the table is folded: three to six times as fast. next, if
// not NULL, is fetched meanwhile, as much of it as is packed.
#define PACK(T)                                                                                       \
	static void pack_##T(const uint8_t *rows, int64_t stride, int64_t units, uint8_t *tile,           \
	                     const uint8_t *next)                                                         \
	{                                                                                                 \
		for (int64_t u = 0; u < units; u++, rows += formats[T].bytes) {                               \
			for (int i = 0; next && i < formats[T].bytes * TILE; i += CACHE_LINE, next += CACHE_LINE) \
				__builtin_prefetch(next, 0, 2);                                                       \
			pack_unit(&formats[T], rows, stride, TILE, u, units, tile);                               \
		}                                                                                             \
	}
PACK(T_Q4_0)
PACK(T_Q4_1)
PACK(T_Q5_0)
PACK(T_Q5_1)
PACK(T_Q8_0)
PACK(T_Q2_K)
PACK(T_Q3_K)
PACK(T_Q4_K)
PACK(T_Q5_K)
PACK(T_Q6_K)
PACK(T_IQ4NL)
PACK(T_IQ4XS)
PACK(T_MXFP4)

static void (*const pack_whole[T_COUNT])(const uint8_t *, int64_t, int64_t, uint8_t *,
                                         const uint8_t *) = {
	[T_Q4_0] = pack_T_Q4_0, [T_Q4_1] = pack_T_Q4_1, [T_Q5_0] = pack_T_Q5_0, [T_Q5_1] = pack_T_Q5_1,
	[T_Q8_0] = pack_T_Q8_0, [T_Q2_K] = pack_T_Q2_K, [T_Q3_K] = pack_T_Q3_K, [T_Q4_K] = pack_T_Q4_K,
	[T_Q5_K] = pack_T_Q5_K, [T_Q6_K] = pack_T_Q6_K, [T_IQ4NL] = pack_T_IQ4NL,
	[T_IQ4XS] = pack_T_IQ4XS, [T_MXFP4] = pack_T_MXFP4,
};

// TAIL_MAX is the largest unit of formats with 32 elements a block: Q8_0's.
enum { TAIL_MAX = 68 };

// tile_pack writes the tile of n <= 16 published rows; the missing ones are zero, and so is what
// completes the last unit. next, or NULL, is where rows lie that are wanted next.
void tile_pack(const format *f, const uint8_t *rows, int64_t row_bytes, int n, uint8_t *tile,
               const uint8_t *next)
{
	uint8_t tail[TILE * TAIL_MAX]; // a unit with one of its two blocks
	int64_t at = 0, u = 0, whole = row_bytes / f->bytes * f->bytes;
	int64_t units = (row_bytes + f->bytes - 1) / f->bytes;
	if (n == TILE && whole == row_bytes) {
		pack_whole[f - formats](rows, row_bytes, units, tile, next);
		return;
	}
	if (n < TILE || whole < row_bytes)
		memset(tile, 0, (size_t)(units * f->bytes * TILE));
	for (; at < whole; at += f->bytes, u++)
		pack_unit(f, rows + at, row_bytes, n, u, units, tile);
	if (at < row_bytes) {
		memset(tail, 0, sizeof tail);
		for (int r = 0; r < n; r++)
			memcpy(tail + r * f->bytes, rows + r * row_bytes + at, (size_t)(row_bytes - at));
		pack_unit(f, tail, f->bytes, n, u, units, tile);
	}
}

// tile_unpack_row is the inverse for one row.
void tile_unpack_row(const format *f, const uint8_t *tile, int r, int64_t units, uint8_t *out)
{
	for (int64_t u = 0; u < units; u++, out += f->bytes) {
		for (int s = 0; s < f->segments; s++) {
			const segment *g = &f->segment[s];
			const uint8_t *unit = tile + unit_of(f, g, u, units);
			for (int i = 0; i < g->count; i++) {
				const uint8_t *from = unit + g->to + g->width * (TILE * i + r);
				uint8_t *to = out + g->from + g->width * i;
				memcpy(to, from, g->width);
				if (g->change != PLAIN) {
					uint32_t v = load_u32(from);
					v = g->change == FLIP ? v ^ 0x80808080u : gather_bits(v);
					memcpy(to, &v, 4);
				}
			}
		}
	}
}

int matrix_tiles(int type, int64_t rows, int64_t row_bytes, uintptr_t src, uintptr_t dst)
{
	const format *f = type_format(type);
	int64_t group = TILE * row_bytes;
	uint8_t *copy = malloc((size_t)group);
	if (!copy)
		return -1;
	// Group g is read before it is written, and dst <= src: only read rows are overwritten.
	for (int64_t g = 0; g < rows / TILE; g++) {
		memcpy(copy, (const uint8_t *)src + g * group, (size_t)group);
		tile_pack(f, copy, row_bytes, TILE, (uint8_t *)dst + g * group, NULL);
	}
	free(copy);
	return 0;
}
