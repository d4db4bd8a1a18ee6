// The C side of kernels/cuda: the NVIDIA driver, found with dlopen, and the functions that Go calls.
// Nothing here is linked against CUDA, and no CUDA header is used: the prototypes in driver.c are of
// the published driver API. Handles and addresses are uint64_t so that Go can hold them as the
// numbers they are.
//
// Every function that works in a context makes it current for the calling thread and restores what
// was current before, so that the caller may be any thread, of any host program. Results are the
// driver's own codes; 0 is success.
#ifndef MOERING_CUDA_DRIVER_H
#define MOERING_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef struct driver driver;

// Results that Go looks at by number, as published in the driver API.
enum {
	R_OK = 0, R_INVALID_VALUE = 1, R_OUT_OF_MEMORY = 2, R_DEINITIALIZED = 4, R_STUB_LIBRARY = 34,
	R_DEVICE_UNAVAILABLE = 46, R_NO_DEVICE = 100, R_INVALID_DEVICE = 101, R_DEVICE_NOT_LICENSED = 102,
	R_INVALID_CONTEXT = 201, R_NO_BINARY_FOR_GPU = 209, R_ECC_UNCORRECTABLE = 214,
	R_INVALID_PTX = 218, R_NVLINK_UNCORRECTABLE = 220, R_JIT_COMPILER_NOT_FOUND = 221,
	R_UNSUPPORTED_PTX_VERSION = 222, R_JIT_COMPILATION_DISABLED = 223, R_NOT_FOUND = 500,
	R_NOT_READY = 600, R_ILLEGAL_ADDRESS = 700, R_LAUNCH_OUT_OF_RESOURCES = 701,
	R_LAUNCH_TIMEOUT = 702, R_CONTEXT_IS_DESTROYED = 709, R_ASSERT = 710,
	R_HARDWARE_STACK_ERROR = 714, R_ILLEGAL_INSTRUCTION = 715, R_MISALIGNED_ADDRESS = 716,
	R_INVALID_ADDRESS_SPACE = 717, R_INVALID_PC = 718, R_LAUNCH_FAILED = 719,
	R_SYSTEM_NOT_READY = 802, R_SYSTEM_DRIVER_MISMATCH = 803, R_COMPAT_NOT_SUPPORTED = 804,
	R_UNKNOWN = 999
};

// Attributes of a device, by the numbers of the driver API.
enum {
	A_PROCESSORS = 16, A_MAJOR = 75, A_MINOR = 76,
	A_HOST_POINTER = 91 // kernels reach registered memory by the host's address
};

// driver_open loads the library and resolves every entry point; it calls none. On failure it
// returns NULL, with the reason in message.
driver *driver_open(const char *path, char *message, size_t message_bytes);
// driver_free forgets the table. The library stays loaded: drivers leave threads behind.
void driver_free(driver *d);
// driver_declares reports whether the library wants to know what launches read and write: the
// stand-in of tests/fakecuda does, a driver does not.
int driver_declares(const driver *d);
// driver_control asks the stand-in something, in text; -1 where the library is a driver.
int driver_control(const driver *d, const char *request, char *reply, size_t reply_bytes);
// driver_host_access tells the stand-in that the host reads or writes registered memory.
void driver_host_access(const driver *d, uint64_t at, uint64_t bytes, int write);
const char *driver_error(const driver *d, int result, const char **name);
const char *driver_env_library(void); // the environment as C sees it; "" where it is not set

// driver_enter makes a context current for the calling thread; after success driver_leave restores what
// was current before.
int driver_enter(const driver *d, uint64_t context);
void driver_leave(const driver *d);

int driver_init(const driver *d, int *version, int *devices);
int device_get(const driver *d, int ordinal, int *device);
int device_name(const driver *d, int device, char *name, int bytes);
int device_uuid(const driver *d, int device, uint8_t uuid[16]);
int device_memory(const driver *d, int device, uint64_t *bytes);
int device_attribute(const driver *d, int device, int attribute, int *value);

int context_retain(const driver *d, int device, uint64_t *context);
int context_release(const driver *d, int device);
int context_memory(const driver *d, uint64_t context, uint64_t *free_bytes, uint64_t *total);

int memory_alloc(const driver *d, uint64_t context, uint64_t bytes, uint64_t *at);
int memory_free(const driver *d, uint64_t context, uint64_t at);
// memory_zero fills with zeros, on a stream, and waits for it.
int memory_zero(const driver *d, uint64_t context, uint64_t stream, uint64_t at, uint64_t bytes);
// host_map maps anonymous memory, in huge pages where there are any (*huge), and touches nothing;
// 0 where there is none. bytes are a multiple of the page size.
uint64_t host_map(uint64_t bytes, uint64_t align, int *huge);
int host_unmap(uint64_t at, uint64_t bytes);
int host_register(const driver *d, uint64_t context, uint64_t at, uint64_t bytes);
int host_unregister(const driver *d, uint64_t context, uint64_t at);

int module_load(const driver *d, uint64_t context, const char *image, char *log, uint32_t log_bytes,
	uint64_t *module);
int module_unload(const driver *d, uint64_t context, uint64_t module);
int module_function(const driver *d, uint64_t context, uint64_t module, const char *name,
	uint64_t *function);

int stream_create(const driver *d, uint64_t context, uint64_t *stream);
int stream_destroy(const driver *d, uint64_t context, uint64_t stream);
int stream_sync(const driver *d, uint64_t context, uint64_t stream);

// Events block the thread that waits instead of spinning.
int event_create(const driver *d, uint64_t context, uint64_t *event);
int event_destroy(const driver *d, uint64_t context, uint64_t event);
int event_query(const driver *d, uint64_t context, uint64_t event);
// event_create_timed makes an event that knows when it was passed.
int event_create_timed(const driver *d, uint64_t context, uint64_t *event);
// event_elapsed is the time from one timed event to another, both of which have passed.
int event_elapsed(const driver *d, uint64_t context, uint64_t from, uint64_t to,
	float *milliseconds);
// event_sync waits: for spin_ns by asking again and again, which is quick, and then asleep.
int event_sync(const driver *d, uint64_t context, uint64_t event, int64_t spin_ns);

enum { C_LAUNCH = 1, C_COPY_IN, C_COPY_OUT, C_COPY_WITHIN, C_RECORD, C_WAIT, C_PRODUCT };

// span is memory that a launch reads or writes.
typedef struct {
	uint64_t at, bytes;
	uint64_t write;
} access_span;

// command is one entry of a batch.
typedef struct {
	uint64_t object;   // the function of a launch; the event of a record or a wait; cublas_plan
	uint64_t dst, src; // of a copy
	uint64_t bytes;    // of a copy; of a launch's arguments
	uint64_t args;     // address of a launch's arguments, which are one structure; or cublas_args
	uint64_t spans;    // address of access_span[span_count]
	uint32_t grid[3], block[3];
	uint32_t shared; // dynamic shared memory, bytes
	uint32_t kind, span_count;
} command;

// stream_submit enqueues commands in order. At a failure it stops, with *failed the index of the
// command that the driver refused; those before it are enqueued.
int stream_submit(const driver *d, uint64_t context, uint64_t stream, const command *commands,
	int count, int *failed);

#endif
