// The worker pool: a queue of batches, run in order of submission by whoever is there. Tasks are
// taken one at a time; their chunks are claimed from a ticket, (number of the task, chunks left) in
// one word, which always refers to the current task. The thread that finishes the last chunk makes
// the next task current. Threads that find nothing spin for a while, then sleep on a futex.
//
// Participants are the workers and, on a workspace of their own, one of the threads in pool_wait.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

enum {
	SPIN_NS = 100000, // longer than a barrier or the gap between two tokens of Python, short beside a token
	SPIN_STEPS = 64  // pauses between looks at the clock
};

struct pool {
	uint64_t ticket; // task number << 32 | chunks left
	char pad0[56];
	uint32_t wake; // futex: raised whenever sleepers should look again
	int32_t sleepers;
	int32_t closing;
	int32_t guest; // whether slot 0 is taken
	char pad1[48];

	task *current;   // read only between claiming a chunk and finishing it
	batch *running;  // its batch; NULL when idle
	pthread_mutex_t mutex; // guards head, tail, and running between NULL and not
	batch *head, *tail;
	uint8_t *scratch;
	int64_t scratch_bytes;

	const isa *isa;
	int workers, threads;
	slot *slots;       // [threads]; 0 is the guest's
	pthread_t *thread; // [workers]
};

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void futex(uint32_t *at, int op, uint32_t value)
{
	syscall(SYS_futex, at, op, value, NULL, NULL, 0);
}

uint8_t *slot_memory(slot *s, int64_t bytes)
{
	if (bytes > s->bytes) {
		int64_t n = (bytes + 4095) / 4096 * 4096;
		free(s->memory);
		s->memory = aligned_alloc(CACHE_LINE, (size_t)n);
		s->bytes = s->memory ? n : 0;
		if (!s->memory)
			slot_fault(s, FAULT_MEMORY);
	}
	return s->memory;
}

static void fault(progress *p, int32_t f)
{
	int32_t none = FAULT_NONE;
	__atomic_compare_exchange_n(&p->fault, &none, f, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void slot_fault(slot *s, int32_t f) { fault(s->stream, f); }

static void wake_sleepers(pool *p)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&p->sleepers, __ATOMIC_RELAXED) > 0) {
		__atomic_fetch_add(&p->wake, 1, __ATOMIC_SEQ_CST);
		futex(&p->wake, FUTEX_WAKE_PRIVATE, 0x7fffffff);
	}
}

// publish makes t the current task.
static void publish(pool *p, task *t)
{
	p->current = t;
	uint64_t number = (__atomic_load_n(&p->ticket, __ATOMIC_RELAXED) >> 32) + 1;
	__atomic_store_n(&p->ticket, number << 32 | (uint32_t)t->chunks, __ATOMIC_RELEASE);
}

// reserve makes the scratch memory large enough for a batch. Nothing is running.
static int reserve(pool *p, const batch *b)
{
	if (b->scratch <= p->scratch_bytes)
		return 0;
	free(p->scratch);
	int64_t n = (b->scratch + 4095) / 4096 * 4096;
	p->scratch = aligned_alloc(CACHE_LINE, (size_t)n);
	p->scratch_bytes = p->scratch ? n : 0;
	for (int i = 0; i < p->threads; i++)
		p->slots[i].scratch = p->scratch;
	return p->scratch ? 0 : -1;
}

// finish reports a batch as done; it is its owner's from then on.
static void finish(pool *p, batch *b)
{
	__atomic_store_n(&b->stream->done, b->seq, __ATOMIC_RELEASE);
	wake_sleepers(p);
}

// start takes batches from the queue until one has a task to run. The mutex is held.
static void start(pool *p)
{
	for (;;) {
		batch *b = p->head;
		p->running = b;
		if (!b)
			return;
		p->head = b->next;
		if (!p->head)
			p->tail = NULL;
		if (b->first && reserve(p, b)) {
			fault(b->stream, FAULT_MEMORY);
		} else if (b->first) {
			for (int i = 0; i < p->threads; i++)
				p->slots[i].stream = b->stream;
			publish(p, b->first);
			wake_sleepers(p);
			return;
		}
		finish(p, b);
	}
}

// advance is called by the thread that finished the last chunk of t.
static void advance(pool *p, task *t)
{
	if (t->next) {
		int many = t->next->chunks > 1; // t->next may be finished once it is published
		publish(p, t->next);
		if (many)
			wake_sleepers(p);
		return;
	}
	// The batch is reported before the next can run, so that progress only rises. p->running stays
	// set, though no longer followed: nobody else starts.
	pthread_mutex_lock(&p->mutex);
	finish(p, p->running);
	start(p);
	pthread_mutex_unlock(&p->mutex);
}

// run_chunk runs a chunk if there is one.
static int run_chunk(pool *p, slot *s)
{
	uint64_t v = __atomic_load_n(&p->ticket, __ATOMIC_ACQUIRE);
	if (!(uint32_t)v || !__atomic_compare_exchange_n(&p->ticket, &v, v - 1, 0, __ATOMIC_ACQ_REL,
	                                                 __ATOMIC_RELAXED))
		return 0;
	task *t = p->current;
	int chunks = t->chunks;
	task_run(p->isa, t, chunks - (int)(uint32_t)v, s);
	if (__atomic_add_fetch(&t->done, 1, __ATOMIC_ACQ_REL) == chunks)
		advance(p, t);
	return 1;
}

static int reached(const progress *s, int64_t seq)
{
	return s && __atomic_load_n(&s->done, __ATOMIC_ACQUIRE) >= seq;
}

// look reports whether there is something to do: a chunk, for one with a slot; the end of the wait.
static int look(pool *p, const slot *s, const progress *until, int64_t seq)
{
	int guest_free = !__atomic_load_n(&p->guest, __ATOMIC_SEQ_CST);
	if ((uint32_t)__atomic_load_n(&p->ticket, __ATOMIC_SEQ_CST) && (s || guest_free))
		return 1;
	return reached(until, seq) || __atomic_load_n(&p->closing, __ATOMIC_SEQ_CST);
}

// idle spins, then sleeps, until there is something to do.
static void idle(pool *p, const slot *s, const progress *until, int64_t seq)
{
	int64_t begin = now_ns();
	do {
		for (int i = 0; i < SPIN_STEPS; i++) {
			if (look(p, s, until, seq))
				return;
			pause_cpu();
		}
	} while (now_ns() - begin < SPIN_NS);
	__atomic_fetch_add(&p->sleepers, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		uint32_t w = __atomic_load_n(&p->wake, __ATOMIC_SEQ_CST);
		if (look(p, s, until, seq))
			break;
		futex(&p->wake, FUTEX_WAIT_PRIVATE, w);
	}
	__atomic_fetch_sub(&p->sleepers, 1, __ATOMIC_SEQ_CST);
}

static slot *guest_enter(pool *p)
{
	return __atomic_exchange_n(&p->guest, 1, __ATOMIC_SEQ_CST) ? NULL : &p->slots[0];
}

static void guest_leave(pool *p)
{
	__atomic_store_n(&p->guest, 0, __ATOMIC_SEQ_CST);
	// What it would have gone on with is for others, who may be asleep.
	if ((uint32_t)__atomic_load_n(&p->ticket, __ATOMIC_SEQ_CST))
		wake_sleepers(p);
}

// take_part runs chunks until there are none or the wait is over.
static void take_part(pool *p, slot *s, const progress *until, int64_t seq)
{
	while (!reached(until, seq) && (uint32_t)__atomic_load_n(&p->ticket, __ATOMIC_ACQUIRE))
		run_chunk(p, s);
}

void pool_wait(pool *p, progress *s, int64_t seq)
{
	slot *own = NULL;
	while (!reached(s, seq)) {
		if (!own)
			own = guest_enter(p);
		if (own)
			take_part(p, own, s, seq);
		if (!reached(s, seq))
			idle(p, own, s, seq);
	}
	if (own)
		guest_leave(p);
}

typedef struct {
	pool *p;
	int index;
} start_args;

static void *worker(void *arg)
{
	start_args a = *(start_args *)arg;
	pool *p = a.p;
	free(arg);
	// A single thread shares its workspace with whoever waits.
	slot *fixed = p->threads > 1 ? &p->slots[a.index + 1] : NULL;
	while (!__atomic_load_n(&p->closing, __ATOMIC_ACQUIRE)) {
		slot *s = fixed ? fixed : guest_enter(p);
		if (s)
			take_part(p, s, NULL, 0);
		if (s && !fixed)
			guest_leave(p);
		idle(p, fixed, NULL, 0);
	}
	return NULL;
}

void pool_submit(pool *p, batch *b)
{
	b->next = NULL;
	pthread_mutex_lock(&p->mutex);
	if (p->tail)
		p->tail->next = b;
	else
		p->head = b;
	p->tail = b;
	if (!p->running)
		start(p);
	pthread_mutex_unlock(&p->mutex);
}

// spawn starts worker i with all signals blocked: they are for the host program's threads.
static int spawn(pool *p, int i)
{
	start_args *a = malloc(sizeof *a);
	if (!a)
		return ENOMEM;
	*a = (start_args){p, i};
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int err = pthread_create(&p->thread[i], NULL, worker, a);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		free(a);
	else
		pthread_setname_np(p->thread[i], "moering-cpu");
	return err;
}

pool *pool_new(int threads, const isa *k, int *err)
{
	pool *p = aligned_alloc(CACHE_LINE, (sizeof *p + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	*err = ENOMEM;
	if (!p)
		return NULL;
	memset(p, 0, sizeof *p);
	pthread_mutex_init(&p->mutex, NULL);
	p->isa = k;
	p->threads = threads;
	p->slots = calloc((size_t)threads, sizeof *p->slots);
	p->thread = calloc((size_t)threads, sizeof *p->thread);
	int want = threads > 1 ? threads - 1 : 1;
	*err = p->slots && p->thread ? 0 : ENOMEM;
	while (!*err && p->workers < want) {
		*err = spawn(p, p->workers);
		p->workers += !*err;
	}
	if (*err) {
		pool_free(p);
		return NULL;
	}
	return p;
}

int pool_place(pool *p, int worker, const int32_t *processors, int n)
{
	int last = 0;
	for (int i = 0; i < n; i++)
		last = processors[i] > last ? processors[i] : last;
	cpu_set_t *set = CPU_ALLOC((size_t)last + 1);
	size_t bytes = CPU_ALLOC_SIZE((size_t)last + 1);
	if (!set)
		return ENOMEM;
	CPU_ZERO_S(bytes, set);
	for (int i = 0; i < n; i++)
		CPU_SET_S((size_t)processors[i], bytes, set);
	int err = worker < p->workers ? pthread_setaffinity_np(p->thread[worker], bytes, set) : EINVAL;
	CPU_FREE(set);
	return err;
}

void pool_free(pool *p)
{
	if (p->workers > 0) {
		progress mark = {0};
		batch last = {.stream = &mark, .seq = 1};
		pool_submit(p, &last);
		pool_wait(p, &mark, 1);
	}
	__atomic_store_n(&p->closing, 1, __ATOMIC_SEQ_CST);
	wake_sleepers(p);
	for (int i = 0; i < p->workers; i++)
		pthread_join(p->thread[i], NULL);
	for (int i = 0; p->slots && i < p->threads; i++)
		free(p->slots[i].memory);
	free(p->slots);
	free(p->thread);
	free(p->scratch);
	pthread_mutex_destroy(&p->mutex);
	free(p);
}
