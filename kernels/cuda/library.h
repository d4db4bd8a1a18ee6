// Shared libraries that are opened when the program runs, so that it starts where there are none.
#ifndef MOERING_CUDA_LIBRARY_H
#define MOERING_CUDA_LIBRARY_H

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

// library_open returns NULL, and why in message, if there is no such library.
static inline void *library_open(const char *path, char *message, size_t message_bytes)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		const char *why = dlerror();
		snprintf(message, message_bytes, "%s", why ? why : path);
	}
	return library;
}

// library_resolve stores a symbol in a function pointer of any type, as POSIX has it done.
static inline int library_resolve(void *library, const char *symbol, void *field)
{
	void *p = dlsym(library, symbol);
	memcpy(field, &p, sizeof p);
	return p != NULL;
}

#endif
