#define _GNU_SOURCE
#include "driver.h"

#include "cublas.h"
#include "library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

// The types of the driver API, as far as they cross it.
typedef int result;
typedef int dev;
typedef struct opaque_context *ctx;
typedef struct opaque_module *mod;
typedef struct opaque_function *fun;
typedef struct opaque_stream *str;
typedef struct opaque_event *evt;
typedef unsigned long long ptr; // CUdeviceptr

// Flags and options, by the numbers of the driver API.
enum {
	STREAM_NON_BLOCKING = 1, EVENT_BLOCKING_SYNC = 1, EVENT_DISABLE_TIMING = 2,
	HOST_REGISTER_PORTABLE = 1,
	JIT_ERROR_LOG_BUFFER = 5, JIT_ERROR_LOG_BYTES = 6
};

// ENTRIES lists the entry points: X(field, symbol, prototype).
#define ENTRIES(X) \
	X(init, "cuInit", (unsigned)) \
	X(version, "cuDriverGetVersion", (int *)) \
	X(count, "cuDeviceGetCount", (int *)) \
	X(get, "cuDeviceGet", (dev *, int)) \
	X(name, "cuDeviceGetName", (char *, int, dev)) \
	X(uuid, "cuDeviceGetUuid", (void *, dev)) \
	X(total, "cuDeviceTotalMem_v2", (size_t *, dev)) \
	X(attribute, "cuDeviceGetAttribute", (int *, int, dev)) \
	X(retain, "cuDevicePrimaryCtxRetain", (ctx *, dev)) \
	X(release, "cuDevicePrimaryCtxRelease_v2", (dev)) \
	X(push, "cuCtxPushCurrent_v2", (ctx)) \
	X(pop, "cuCtxPopCurrent_v2", (ctx *)) \
	X(mem_info, "cuMemGetInfo_v2", (size_t *, size_t *)) \
	X(mem_alloc, "cuMemAlloc_v2", (ptr *, size_t)) \
	X(mem_free, "cuMemFree_v2", (ptr)) \
	X(mem_set, "cuMemsetD8Async", (ptr, unsigned char, size_t, str)) \
	X(host_register, "cuMemHostRegister_v2", (void *, size_t, unsigned)) \
	X(host_unregister, "cuMemHostUnregister", (void *)) \
	X(copy_in, "cuMemcpyHtoDAsync_v2", (ptr, const void *, size_t, str)) \
	X(copy_out, "cuMemcpyDtoHAsync_v2", (void *, ptr, size_t, str)) \
	X(copy_within, "cuMemcpyDtoDAsync_v2", (ptr, ptr, size_t, str)) \
	X(module_load, "cuModuleLoadDataEx", (mod *, const void *, unsigned, int *, void **)) \
	X(module_unload, "cuModuleUnload", (mod)) \
	X(module_function, "cuModuleGetFunction", (fun *, mod, const char *)) \
	X(launch, "cuLaunchKernel", (fun, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
		unsigned, str, void **, void **)) \
	X(stream_create, "cuStreamCreate", (str *, unsigned)) \
	X(stream_destroy, "cuStreamDestroy_v2", (str)) \
	X(stream_sync, "cuStreamSynchronize", (str)) \
	X(stream_wait, "cuStreamWaitEvent", (str, evt, unsigned)) \
	X(event_create, "cuEventCreate", (evt *, unsigned)) \
	X(event_destroy, "cuEventDestroy_v2", (evt)) \
	X(event_record, "cuEventRecord", (evt, str)) \
	X(event_query, "cuEventQuery", (evt)) \
	X(event_sync, "cuEventSynchronize", (evt)) \
	X(error_name, "cuGetErrorName", (result, const char **)) \
	X(error_string, "cuGetErrorString", (result, const char **))

struct driver {
#define FIELD(field, symbol, prototype) result(*field) prototype;
	ENTRIES(FIELD)
#undef FIELD
	// NULL where the driver has none; only measurements need it.
	result (*elapsed)(float *, evt, evt);
	// Of the stand-in only, NULL in a driver.
	void (*declare)(void *stream, uint64_t at, uint64_t bytes, int write);
	void (*host_access)(uint64_t at, uint64_t bytes, int write);
	int (*control)(const char *request, char *reply, size_t reply_bytes);
};

driver *driver_open(const char *path, char *message, size_t message_bytes)
{
	void *library = library_open(path, message, message_bytes);
	if (!library)
		return NULL;
	driver *d = calloc(1, sizeof *d);
	if (!d) {
		snprintf(message, message_bytes, "no memory");
		return NULL;
	}
	const char *missing = NULL;
#define RESOLVE(field, symbol, prototype) \
	if (!library_resolve(library, symbol, &d->field)) \
		missing = symbol;
	ENTRIES(RESOLVE)
#undef RESOLVE
	if (missing) {
		snprintf(message, message_bytes, "missing entry point %s", missing);
		free(d);
		return NULL;
	}
	library_resolve(library, "cuEventElapsedTime", &d->elapsed);
	library_resolve(library, "fakecuda_access", &d->declare);
	library_resolve(library, "fakecuda_host_access", &d->host_access);
	library_resolve(library, "fakecuda_control", &d->control);
	return d;
}

void driver_free(driver *d) { free(d); }

int driver_enter(const driver *d, uint64_t context) { return d->push((ctx)(uintptr_t)context); }

void driver_leave(const driver *d)
{
	ctx before;
	d->pop(&before);
}

int driver_declares(const driver *d) { return d->declare != NULL; }

int driver_control(const driver *d, const char *request, char *reply, size_t reply_bytes)
{
	return d->control ? d->control(request, reply, reply_bytes) : -1;
}

void driver_host_access(const driver *d, uint64_t at, uint64_t bytes, int write)
{
	if (d->host_access)
		d->host_access(at, bytes, write);
}

const char *driver_error(const driver *d, int r, const char **name)
{
	const char *text = NULL;
	*name = NULL;
	if (d->error_name(r, name) != R_OK || !*name)
		*name = "an unknown result";
	if (d->error_string(r, &text) != R_OK || !text)
		text = "";
	return text;
}

const char *driver_env_library(void)
{
	const char *v = getenv("MOERING_CUDA_LIBRARY");
	return v ? v : "";
}

int driver_init(const driver *d, int *version, int *devices)
{
	*version = *devices = 0;
	result r = d->init(0);
	if (r == R_OK)
		r = d->version(version);
	if (r == R_OK)
		r = d->count(devices);
	return r;
}

int device_get(const driver *d, int ordinal, int *device) { return d->get(device, ordinal); }

int device_name(const driver *d, int device, char *name, int bytes)
{
	return d->name(name, bytes, device);
}

int device_uuid(const driver *d, int device, uint8_t uuid[16]) { return d->uuid(uuid, device); }

int device_memory(const driver *d, int device, uint64_t *bytes)
{
	size_t n = 0;
	result r = d->total(&n, device);
	*bytes = n;
	return r;
}

int device_attribute(const driver *d, int device, int attribute, int *value)
{
	return d->attribute(value, attribute, device);
}

int context_retain(const driver *d, int device, uint64_t *context)
{
	ctx c = NULL;
	result r = d->retain(&c, device);
	*context = (uint64_t)(uintptr_t)c;
	return r;
}

int context_release(const driver *d, int device) { return d->release(device); }

static void *pointer(uint64_t v) { return (void *)(uintptr_t)v; }

// IN runs an expression in a context. The result of the pop is of no interest: a context that has
// failed reports that at the call itself.
#define IN(d, context, expression) \
	do { \
		ctx before_; \
		result r_ = (d)->push(pointer(context)); \
		if (r_ != R_OK) \
			return r_; \
		r_ = (expression); \
		(d)->pop(&before_); \
		return r_; \
	} while (0)

int context_memory(const driver *d, uint64_t context, uint64_t *free_bytes, uint64_t *total)
{
	size_t f = 0, t = 0;
	*free_bytes = *total = 0;
	result r = d->push(pointer(context));
	if (r != R_OK)
		return r;
	ctx before;
	r = d->mem_info(&f, &t);
	d->pop(&before);
	*free_bytes = f;
	*total = t;
	return r;
}

int memory_alloc(const driver *d, uint64_t context, uint64_t bytes, uint64_t *at)
{
	ptr p = 0;
	ctx before;
	*at = 0;
	result r = d->push(pointer(context));
	if (r != R_OK)
		return r;
	r = d->mem_alloc(&p, bytes);
	d->pop(&before);
	*at = r == R_OK ? p : 0;
	return r;
}

int memory_free(const driver *d, uint64_t context, uint64_t at) { IN(d, context, d->mem_free(at)); }

static result zero(const driver *d, uint64_t stream, uint64_t at, uint64_t bytes)
{
	result r = d->mem_set(at, 0, bytes, pointer(stream));
	return r == R_OK ? d->stream_sync(pointer(stream)) : r;
}

int memory_zero(const driver *d, uint64_t context, uint64_t stream, uint64_t at, uint64_t bytes)
{
	IN(d, context, zero(d, stream, at, bytes));
}

uint64_t host_map(uint64_t bytes, uint64_t align, int *huge)
{
	size_t n = bytes, extra = align > 4096 ? align : 0;
	uint8_t *p = mmap(NULL, n + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*huge = 0;
	if (p == MAP_FAILED)
		return 0;
	if (extra) {
		size_t skip = (size_t)(-(uintptr_t)p & (align - 1));
		if (skip)
			munmap(p, skip);
		if (extra - skip)
			munmap(p + skip + n, extra - skip);
		p += skip;
#ifdef MADV_HUGEPAGE
		*huge = madvise(p, n, MADV_HUGEPAGE) == 0;
#endif
	}
#ifdef MADV_DONTFORK
	// A fork would mark the pages copy-on-write, and a later write of the host would then go to a
	// copy that the device does not see.
	madvise(p, n, MADV_DONTFORK);
#endif
	return (uint64_t)(uintptr_t)p;
}

int host_unmap(uint64_t at, uint64_t bytes) { return munmap(pointer(at), bytes); }

int host_register(const driver *d, uint64_t context, uint64_t at, uint64_t bytes)
{
	IN(d, context, d->host_register(pointer(at), bytes, HOST_REGISTER_PORTABLE));
}

int host_unregister(const driver *d, uint64_t context, uint64_t at)
{
	IN(d, context, d->host_unregister(pointer(at)));
}

int module_load(const driver *d, uint64_t context, const char *image, char *log, uint32_t log_bytes,
	uint64_t *module)
{
	mod m = NULL;
	ctx before;
	int options[] = {JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BYTES};
	void *values[] = {log, pointer(log_bytes)};
	*module = 0;
	log[0] = 0;
	result r = d->push(pointer(context));
	if (r != R_OK)
		return r;
	r = d->module_load(&m, image, 2, options, values);
	d->pop(&before);
	log[log_bytes - 1] = 0;
	*module = r == R_OK ? (uint64_t)(uintptr_t)m : 0;
	return r;
}

int module_unload(const driver *d, uint64_t context, uint64_t module)
{
	IN(d, context, d->module_unload(pointer(module)));
}

int module_function(const driver *d, uint64_t context, uint64_t module, const char *name,
	uint64_t *function)
{
	fun f = NULL;
	ctx before;
	*function = 0;
	result r = d->push(pointer(context));
	if (r != R_OK)
		return r;
	r = d->module_function(&f, pointer(module), name);
	d->pop(&before);
	*function = r == R_OK ? (uint64_t)(uintptr_t)f : 0;
	return r;
}

int stream_create(const driver *d, uint64_t context, uint64_t *stream)
{
	str s = NULL;
	ctx before;
	*stream = 0;
	result r = d->push(pointer(context));
	if (r != R_OK)
		return r;
	r = d->stream_create(&s, STREAM_NON_BLOCKING);
	d->pop(&before);
	*stream = r == R_OK ? (uint64_t)(uintptr_t)s : 0;
	return r;
}

int stream_destroy(const driver *d, uint64_t context, uint64_t stream)
{
	IN(d, context, d->stream_destroy(pointer(stream)));
}

int stream_sync(const driver *d, uint64_t context, uint64_t stream)
{
	IN(d, context, d->stream_sync(pointer(stream)));
}

static int create_event(const driver *d, uint64_t context, unsigned flags, uint64_t *event)
{
	evt e = NULL;
	ctx before;
	*event = 0;
	result r = d->push(pointer(context));
	if (r != R_OK)
		return r;
	r = d->event_create(&e, flags);
	d->pop(&before);
	*event = r == R_OK ? (uint64_t)(uintptr_t)e : 0;
	return r;
}

int event_create(const driver *d, uint64_t context, uint64_t *event)
{
	return create_event(d, context, EVENT_BLOCKING_SYNC | EVENT_DISABLE_TIMING, event);
}

int event_create_timed(const driver *d, uint64_t context, uint64_t *event)
{
	return create_event(d, context, EVENT_BLOCKING_SYNC, event);
}

int event_elapsed(const driver *d, uint64_t context, uint64_t from, uint64_t to,
	float *milliseconds)
{
	*milliseconds = 0;
	if (!d->elapsed)
		return R_NOT_FOUND;
	IN(d, context, d->elapsed(milliseconds, pointer(from), pointer(to)));
}

int event_destroy(const driver *d, uint64_t context, uint64_t event)
{
	IN(d, context, d->event_destroy(pointer(event)));
}

int event_query(const driver *d, uint64_t context, uint64_t event)
{
	IN(d, context, d->event_query(pointer(event)));
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static result wait(const driver *d, void *event, int64_t spin_ns)
{
	for (int64_t end = spin_ns > 0 ? now_ns() + spin_ns : 0; spin_ns > 0 && now_ns() < end;) {
		result r = d->event_query(event);
		if (r != R_NOT_READY)
			return r;
	}
	return d->event_sync(event);
}

int event_sync(const driver *d, uint64_t context, uint64_t event, int64_t spin_ns)
{
	IN(d, context, wait(d, pointer(event), spin_ns));
}

// launch passes the arguments as a buffer with its size, so that the driver can tell a structure
// that differs from the kernel's.
static result launch(const driver *d, void *stream, const command *c)
{
	enum { PARAM_END = 0, PARAM_BUFFER = 1, PARAM_BUFFER_BYTES = 2 };
	size_t bytes = c->bytes;
	void *extra[] = {pointer(PARAM_BUFFER), pointer(c->args), pointer(PARAM_BUFFER_BYTES), &bytes,
		pointer(PARAM_END)};
	const access_span *spans = pointer(c->spans);
	for (uint32_t i = 0; d->declare && i < c->span_count; i++)
		d->declare(stream, spans[i].at, spans[i].bytes, spans[i].write != 0);
	return d->launch(pointer(c->object), c->grid[0], c->grid[1], c->grid[2], c->block[0],
		c->block[1], c->block[2], c->shared, stream, NULL, extra);
}

static result enqueue(const driver *d, void *stream, const command *c)
{
	switch (c->kind) {
	case C_LAUNCH:
		return launch(d, stream, c);
	case C_COPY_IN:
		return d->copy_in(c->dst, pointer(c->src), c->bytes, stream);
	case C_COPY_OUT:
		return d->copy_out(pointer(c->dst), c->src, c->bytes, stream);
	case C_COPY_WITHIN:
		return d->copy_within(c->dst, c->src, c->bytes, stream);
	case C_RECORD:
		return d->event_record(pointer(c->object), stream);
	case C_WAIT:
		return d->stream_wait(stream, pointer(c->object), 0);
	case C_PRODUCT:
		return cublas_multiply(pointer(c->object), pointer(c->args), stream);
	}
	return R_INVALID_VALUE;
}

int stream_submit(const driver *d, uint64_t context, uint64_t stream, const command *commands,
	int count, int *failed)
{
	ctx before;
	*failed = 0;
	result r = d->push(pointer(context));
	if (r != R_OK)
		return r;
	for (int i = 0; i < count && r == R_OK; i++) {
		*failed = i;
		r = enqueue(d, pointer(stream), &commands[i]);
	}
	d->pop(&before);
	return r;
}
