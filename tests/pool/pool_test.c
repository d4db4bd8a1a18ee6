// A hammer for the worker pool, without Go, for ThreadSanitizer: several owners of streams submit
// batches of dependent tasks to one pool at the same time, and wait for them or not. Each batch adds
// one to every value of its stream in several steps, which only a barrier between tasks keeps apart;
// a wrong sum is an error, too.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

enum { OWNERS = 4, ROUNDS = 400, VALUES = 512, STEPS = 3, FLYING = 3 };

// command is a batch: STEPS tasks that copy back and forth, and one that adds.
typedef struct {
	batch b;
	task tasks[STEPS];
	copy_args copies[2];
	combine_args add;
} command;

typedef struct {
	pool *p;
	unsigned seed;
	int failed;
} owner;

static void fill(command *c, progress *stream, int64_t seq, float *x, float *copy, float *one)
{
	memset(c, 0, sizeof *c);
	c->copies[0] = (copy_args){(uintptr_t)copy, (uintptr_t)x, 4 * VALUES, 256};
	c->copies[1] = (copy_args){(uintptr_t)x, (uintptr_t)copy, 4 * VALUES, 512};
	c->add = (combine_args){.x = (uintptr_t)copy, .y = (uintptr_t)one, .rows = 8, .dim = VALUES / 8,
	                        .top_k = 1, .per_chunk = 1};
	task steps[STEPS] = {
		{.args = (uintptr_t)&c->copies[0], .kind = K_COPY, .chunks = 8},
		{.args = (uintptr_t)&c->add, .kind = K_COMBINE, .chunks = 8},
		{.args = (uintptr_t)&c->copies[1], .kind = K_COPY, .chunks = 4},
	};
	memcpy(c->tasks, steps, sizeof steps);
	for (int i = 0; i + 1 < STEPS; i++)
		c->tasks[i].next = &c->tasks[i + 1];
	c->b.first = c->tasks;
	c->b.stream = stream;
	c->b.seq = seq;
	c->b.scratch = 64 + seq % 5 * 4096;
}

static void *own(void *arg)
{
	owner *o = arg;
	progress stream = {0};
	command commands[FLYING];
	float x[VALUES] = {0}, copy[VALUES], one[VALUES];
	for (int i = 0; i < VALUES; i++)
		one[i] = 1;
	for (int64_t seq = 1; seq <= ROUNDS; seq++) {
		if (seq > FLYING) // its memory is free once it is done
			pool_wait(o->p, &stream, seq - FLYING);
		fill(&commands[seq % FLYING], &stream, seq, x, copy, one);
		pool_submit(o->p, &commands[seq % FLYING].b);
		if (rand_r(&o->seed) % 8 == 0)
			pool_wait(o->p, &stream, seq);
		if (rand_r(&o->seed) % 64 == 0) { // long enough that workers sleep
			struct timespec ms = {0, 1000000};
			nanosleep(&ms, NULL);
		}
	}
	pool_wait(o->p, &stream, ROUNDS);
	for (int i = 0; i < VALUES; i++)
		o->failed |= x[i] != ROUNDS;
	return NULL;
}

int main(void)
{
	int failed = 0;
	for (int threads = 1; threads <= 4; threads++) {
		int err;
		pool *p = pool_new(threads, isa_find("portable"), &err);
		if (!p)
			return 2;
		pthread_t owners[OWNERS];
		owner o[OWNERS];
		for (int i = 0; i < OWNERS; i++) {
			o[i] = (owner){p, (unsigned)i, 0};
			if (pthread_create(&owners[i], NULL, own, &o[i]))
				return 2;
		}
		for (int i = 0; i < OWNERS; i++) {
			pthread_join(owners[i], NULL);
			failed |= o[i].failed;
		}
		pool_free(p);
		printf("%d threads: %s\n", threads, failed ? "wrong sums" : "ok");
	}
	return failed;
}
