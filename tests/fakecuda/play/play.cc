// The player's fibers and scheduler, and what a warp does together. See play.h.
#include "play.h"

#include <new>

namespace play {

thread_local machine *self;

namespace {

thread_local machine *owned; // freed with the thread, by owner below

struct owner {
	~owner()
	{
		delete owned;
		owned = nullptr;
	}
};

thread_local owner own;

} // namespace

// Switching keeps the registers that a call must preserve, on the fiber's own stack.
#if defined(__x86_64__)
extern "C" void mr_play_switch(void **from, void *to);
asm(".text\n"
	".hidden mr_play_switch\n"
	".globl mr_play_switch\n"
	".type mr_play_switch, @function\n"
	"mr_play_switch:\n"
	"pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
	"movq %rsp, (%rdi)\n"
	"movq %rsi, %rsp\n"
	"popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\n"
	"ret\n"
	".size mr_play_switch, . - mr_play_switch\n");
constexpr size_t SAVED_WORDS = 6;
#elif defined(__aarch64__)
extern "C" void mr_play_switch(void **from, void *to);
asm(".text\n"
	".hidden mr_play_switch\n"
	".globl mr_play_switch\n"
	".type mr_play_switch, %function\n"
	"mr_play_switch:\n"
	"sub sp, sp, #160\n"
	"stp x19, x20, [sp, #0]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
	"stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
	"stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\n"
	"stp d14, d15, [sp, #144]\n"
	"mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
	"ldp x19, x20, [sp, #0]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
	"ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
	"ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\n"
	"ldp d14, d15, [sp, #144]\n"
	"add sp, sp, #160\n"
	"ret\n"
	".size mr_play_switch, . - mr_play_switch\n");
#endif

static void to_scheduler()
{
#if defined(__x86_64__) || defined(__aarch64__)
	mr_play_switch(&self->current->sp, self->sp);
#else
	swapcontext(&self->current->context, &self->context);
#endif
}

static void to_fiber(fiber *f)
{
	self->current = f;
#if defined(__x86_64__) || defined(__aarch64__)
	mr_play_switch(&self->sp, f->sp);
#else
	swapcontext(&self->context, &f->context);
#endif
}

// enter is where a fiber begins. It never returns: the scheduler leaves it alone when it is done.
static void enter()
{
	self->kernel(self->args);
	if (self->current->copy_count > 0)
		fail(COPY_UNFINISHED, "a thread returned before its copies were waited for");
	self->current->state = DONE;
	self->done++;
	to_scheduler();
	abort();
}

static void prepare(fiber *f, unsigned char *stack)
{
#if defined(__x86_64__)
	void **top = (void **)(stack + STACK_BYTES);
	*--top = nullptr; // where enter would return to
	*--top = (void *)enter;
	top -= SAVED_WORDS;
	memset(top, 0, SAVED_WORDS * sizeof *top);
	f->sp = top;
#elif defined(__aarch64__)
	uint64_t *top = (uint64_t *)(stack + STACK_BYTES) - 20;
	memset(top, 0, 160);
	top[11] = (uint64_t)enter; // the link register
	f->sp = top;
#else
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = stack;
	f->context.uc_stack.ss_size = STACK_BYTES;
	f->context.uc_link = nullptr;
	makecontext(&f->context, enter, 0);
#endif
}

machine::~machine()
{
	if (stacks)
		munmap(stacks, STACK_BYTES * THREADS_MAX);
	delete[] fibers;
	delete[] warps;
	free(shared_memory);
}

machine *open_machine()
{
	(void)&own;
	if (owned)
		return self = owned;
	machine *m = new (std::nothrow) machine();
	if (!m)
		return nullptr;
	void *stacks = mmap(nullptr, STACK_BYTES * THREADS_MAX, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	m->stacks = stacks == MAP_FAILED ? nullptr : (unsigned char *)stacks;
	m->fibers = new (std::nothrow) fiber[THREADS_MAX];
	m->warps = new (std::nothrow) warp[THREADS_MAX / WARP];
	m->shared_memory = (unsigned char *)aligned_alloc(64, SHARED_MAX + 2 * GUARD_BYTES);
	if (!m->stacks || !m->fibers || !m->warps || !m->shared_memory) {
		delete m;
		return nullptr;
	}
	m->shared = m->shared_memory + GUARD_BYTES;
	return self = owned = m;
}

void yield() { to_scheduler(); }

void fail(result error, const char *message)
{
	machine *m = self;
	if (m->error == OK) {
		m->error = error;
		snprintf(m->message, sizeof m->message, "%s (block %u %u %u, thread %u)", message,
			m->block_index.x, m->block_index.y, m->block_index.z, m->current->index);
	}
	to_scheduler();
	abort();
}

void barrier()
{
	machine *m = self;
	if (++m->arrived < m->threads) {
		m->current->state = AT_BARRIER;
		yield();
		return;
	}
	m->arrived = 0;
	for (uint32_t i = 0; i < m->threads; i++)
		if (m->fibers[i].state == AT_BARRIER)
			m->fibers[i].state = READY;
}

typedef double doubles __attribute__((vector_size(32)));
typedef float floats __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(16)));
typedef int64_t longs __attribute__((vector_size(32)));

// toward_zero rounds sums to float32 toward zero: to nearest, and one step back where that went up.
static inline floats toward_zero(const doubles &sum)
{
	const int64_t most = INT64_MAX;
	const longs magnitude = {most, most, most, most};
	floats f = __builtin_convertvector(sum, floats);
	doubles rounded = __builtin_convertvector(f, doubles);
	rounded = (doubles)((longs)rounded & magnitude);
	longs up = (rounded > (doubles)((longs)sum & magnitude)) & (rounded - rounded == 0);
	return (floats)((ints)f + __builtin_convertvector(up, ints)); // -1 where it went up
}

// multiply is mma.sync.m16n8k16 of the fragments in the slots: a result is the sum of the exact
// products and d, rounded toward zero, which is the worst that matrix units are known to do with it
// (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor cores, 2021).
static void multiply(warp &w, uint32_t parity)
{
	double a[16][16], b[16][8], d[16][8];
	for (uint32_t l = 0; l < WARP; l++) {
		uint32_t g = l / 4, t = l % 4;
		const uint32_t *s = w.slots[parity][l];
		for (uint32_t i = 0; i < 4; i++) { // a0: row g, a1: row g+8; a2, a3: 8 columns on
			a[g + i % 2 * 8][2 * t + i / 2 * 8] = bf16(s[i] & 0xffff);
			a[g + i % 2 * 8][2 * t + i / 2 * 8 + 1] = bf16(s[i] >> 16);
		}
		for (uint32_t i = 0; i < 2; i++) {
			b[2 * t + i * 8][g] = bf16(s[4 + i] & 0xffff);
			b[2 * t + i * 8 + 1][g] = bf16(s[4 + i] >> 16);
		}
		for (uint32_t i = 0; i < 4; i++) // d0, d1: row g, d2, d3: row g+8
			d[g + i / 2 * 8][2 * t + i % 2] = w.results[parity][l][i];
	}
	float out[16][8];
	for (uint32_t row = 0; row < 16; row++) {
		doubles left, right, x, y;
		memcpy(&left, d[row], sizeof left);
		memcpy(&right, d[row] + 4, sizeof right);
		for (uint32_t k = 0; k < 16; k++) {
			memcpy(&x, b[k], sizeof x);
			memcpy(&y, b[k] + 4, sizeof y);
			left += a[row][k] * x;
			right += a[row][k] * y;
		}
		floats f = toward_zero(left), g = toward_zero(right);
		memcpy(out[row], &f, sizeof f);
		memcpy(out[row] + 4, &g, sizeof g);
	}
	for (uint32_t l = 0; l < WARP; l++)
		for (uint32_t i = 0; i < 4; i++)
			w.results[parity][l][i] = out[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}

uint32_t collect(collective kind, const uint32_t *words, int count)
{
	machine *m = self;
	fiber *f = m->current;
	warp &w = m->warps[f->index / WARP];
	uint32_t parity = f->parity, first = f->index / WARP * WARP;
	f->parity ^= 1;
	if (w.arrived > 0 && w.kind != kind)
		fail(BARRIER, "lanes of a warp are at different collectives");
	w.kind = kind;
	for (int i = 0; i < count; i++)
		w.slots[parity][f->index % WARP][i] = words[i];
	if (++w.arrived < w.lanes) {
		f->state = AT_COLLECTIVE;
		yield();
		return parity;
	}
	w.arrived = 0;
	if (kind == MMA) {
		if (w.lanes < WARP)
			fail(BARRIER, "a matrix instruction in a part of a warp");
		multiply(w, parity);
	}
	for (uint32_t i = first; i < first + w.lanes; i++)
		if (m->fibers[i].state == AT_COLLECTIVE)
			m->fibers[i].state = READY;
	return parity;
}

// run_warp runs a warp as far as it goes without others, and reports whether it moved.
static bool run_warp(machine *m, uint32_t w, bool backwards)
{
	bool moved = false;
	uint32_t lanes = m->warps[w].lanes;
	for (bool again = true; again;) {
		again = false;
		for (uint32_t i = 0; i < lanes; i++) {
			fiber *f = &m->fibers[w * WARP + (backwards ? lanes - 1 - i : i)];
			if (f->state != READY)
				continue;
			again = moved = true;
			to_fiber(f);
			if (m->error != OK)
				return moved;
		}
	}
	return moved;
}

// run_block plays one block to its end, or to its first error.
static void run_block(machine *m, bool backwards)
{
	memset(m->shared_memory, GUARD_BYTE, GUARD_BYTES);
	memset(m->shared, POISON_BYTE, m->shared_bytes);
	memset(m->shared + m->shared_bytes, GUARD_BYTE, GUARD_BYTES);
	m->arrived = m->done = 0;
	for (uint32_t i = 0; i < m->threads; i++) {
		fiber *f = &m->fibers[i];
		prepare(f, m->stacks + i * STACK_BYTES);
		f->state = READY;
		f->index = i;
		f->parity = f->groups = 0;
		f->copy_count = 0;
		f->thread = {i % m->block.x, i / m->block.x % m->block.y, i / m->block.x / m->block.y};
	}
	for (uint32_t i = 0; i < m->threads; i += WARP) {
		m->warps[i / WARP].lanes = m->threads - i < WARP ? m->threads - i : WARP;
		m->warps[i / WARP].arrived = 0;
	}
	uint32_t warps = (m->threads + WARP - 1) / WARP;
	for (bool moved = true; moved && m->done < m->threads;) {
		moved = false;
		for (uint32_t i = 0; i < warps; i++) {
			moved = run_warp(m, backwards ? warps - 1 - i : i, backwards) || moved;
			if (m->error != OK)
				return;
		}
	}
	if (m->done < m->threads) {
		m->error = BARRIER;
		snprintf(m->message, sizeof m->message, "block %u %u %u: %u of %u threads have returned, "
			"others wait at a barrier (%u) or for lanes of their warp", m->block_index.x,
			m->block_index.y, m->block_index.z, m->done, m->threads, m->arrived);
		return;
	}
	for (size_t i = 0; i < GUARD_BYTES; i++)
		if (m->shared_memory[i] != GUARD_BYTE || m->shared[m->shared_bytes + i] != GUARD_BYTE) {
			m->error = SHARED_MEMORY;
			snprintf(m->message, sizeof m->message, "block %u %u %u: memory outside the %u bytes "
				"of shared memory was written", m->block_index.x, m->block_index.y,
				m->block_index.z, m->shared_bytes);
			return;
		}
}

result launch(machine *m, void (*kernel)(const void *), const dim &grid, const dim &block,
	uint32_t shared_bytes, const void *args)
{
	uint64_t threads = (uint64_t)block.x * block.y * block.z;
	m->error = OK;
	if (threads < 1 || threads > THREADS_MAX || shared_bytes > SHARED_MAX || grid.x < 1 ||
		grid.y < 1 || grid.z < 1 || grid.x > GRID_X_MAX || grid.y > GRID_MAX || grid.z > GRID_MAX) {
		snprintf(m->message, sizeof m->message, "a grid of %u %u %u blocks of %u %u %u threads and "
			"%u bytes", grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
		return m->error = BAD_LAUNCH;
	}
	m->kernel = kernel;
	m->args = args;
	m->grid = grid;
	m->block = block;
	m->threads = (uint32_t)threads;
	m->shared_bytes = (shared_bytes + 15) / 16 * 16;
	bool backwards = false;
	for (uint32_t z = 0; z < grid.z; z++)
		for (uint32_t y = 0; y < grid.y; y++)
			for (uint32_t x = 0; x < grid.x && m->error == OK; x++, backwards = !backwards) {
				m->block_index = {x, y, z};
				run_block(m, backwards);
			}
	return m->error;
}

} // namespace play
