// Memory straight from the kernel: zeroed, untouched, in huge pages where it is large.
#define _GNU_SOURCE
#include <sys/mman.h>

#include "cpu.h"

uintptr_t memory_map(int64_t bytes, int64_t align, int lock, int *locked, int *huge)
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
#ifdef MADV_HUGEPAGE
		*huge = madvise(p, n, MADV_HUGEPAGE) == 0;
#endif
	}
	if (lock)
		*locked = mlock(p, n) == 0;
	return (uintptr_t)p;
}

int memory_unmap(uintptr_t at, int64_t bytes) { return munmap((void *)at, (size_t)bytes); }
