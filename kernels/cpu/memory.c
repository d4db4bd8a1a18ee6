// Memory straight from the kernel: zeroed, untouched, in huge pages where it is large.
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu.h"

enum { INTERLEAVE = 3 }; // MPOL_INTERLEAVE of linux/mempolicy.h

// spread has pages taken from the nodes in turn. A system without nodes refuses, which changes speed
// alone.
static void spread(void *p, size_t n, uint64_t nodes)
{
	unsigned long mask[] = {(unsigned long)nodes, (unsigned long)(nodes >> 32)};
	if (sizeof mask[0] > 4)
		mask[1] = 0;
	syscall(SYS_mbind, p, n, INTERLEAVE, mask, 8 * sizeof mask, 0);
}

uintptr_t memory_map(int64_t bytes, int64_t align, int lock, uint64_t nodes, int *locked, int *huge)
{
	*locked = *huge = 0;
	size_t n = (size_t)bytes, extra = align > 4096 ? (size_t)align : 0;
	uint8_t *p = mmap(NULL, n + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 0;
	if (extra) {
		size_t skip = (size_t)(-(uintptr_t)p & ((uintptr_t)align - 1));
		if (skip)
			munmap(p, skip);
		if (extra - skip)
			munmap(p + skip + n, extra - skip);
		p += skip;
		if (nodes)
			spread(p, n, nodes);
#ifdef MADV_HUGEPAGE
		*huge = madvise(p, n, MADV_HUGEPAGE) == 0;
#endif
	}
	if (lock)
		*locked = mlock(p, n) == 0;
	return (uintptr_t)p;
}

int memory_unmap(uintptr_t at, int64_t bytes) { return munmap((void *)at, (size_t)bytes); }
