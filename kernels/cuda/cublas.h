// cuBLASLt, found with dlopen as the driver is: only the few entry points that a product needs, by
// prototypes of the published interface, which versions 11 to 13 share. No CUDA header is used.
//
// Results are the driver's codes, or R_CUBLAS plus a status of cuBLASLt; 0 is success. Calls with one
// cublas are made one at a time.
#ifndef MOERING_CUDA_CUBLAS_H
#define MOERING_CUDA_CUBLAS_H

#include "driver.h"

enum { R_CUBLAS = 1 << 20 };

// Statuses of cuBLASLt, as published.
enum {
	S_OK = 0, S_NOT_INITIALIZED = 1, S_ALLOC_FAILED = 3, S_INVALID_VALUE = 7, S_ARCH_MISMATCH = 8,
	S_MAPPING_ERROR = 11, S_EXECUTION_FAILED = 13, S_INTERNAL_ERROR = 14, S_NOT_SUPPORTED = 15,
	S_LICENSE_ERROR = 16
};

// Types of elements, as published (cudaDataType).
enum { T_FLOAT = 0, T_HALF = 2, T_BFLOAT16 = 14 };

typedef struct cublas cublas;
typedef struct cublas_plan cublas_plan;

// cublas_open loads the library and resolves every entry point; it calls none. On failure it returns
// NULL, with the reason in message.
cublas *cublas_open(const char *path, char *message, size_t message_bytes);
// cublas_free forgets the table. The library stays loaded.
void cublas_free(cublas *b);
int cublas_version(const cublas *b, int *major, int *minor, int *patch);
// cublas_start makes the handle, in a context; cublas_end destroys it, unless the context is gone, and
// with it what the handle held.
int cublas_start(cublas *b, const driver *d, uint64_t context);
int cublas_end(cublas *b, const driver *d, uint64_t context);

// cublas_shape is a product: out (rows, outputs) float = x (rows, inputs) * weights (outputs, inputs)
// transposed, weights and x of one 16-bit type, all without gaps.
typedef struct {
	uint64_t rows, outputs, inputs;
	uint64_t workspace; // bytes that there are
	uint32_t alignment; // of all addresses, bytes
	int32_t type;
} cublas_shape;

// cublas_make_plan asks for the algorithm of a shape; S_NOT_SUPPORTED where there is none.
int cublas_make_plan(cublas *b, const driver *d, uint64_t context, const cublas_shape *shape,
	cublas_plan **plan);
void cublas_free_plan(cublas_plan *p);

typedef struct {
	uint64_t weights, x, out, workspace; // addresses
	uint64_t accumulate;                 // 1: out = out + product
} cublas_args;

// cublas_multiply enqueues a product; the plan's context is current.
int cublas_multiply(const cublas_plan *p, const cublas_args *a, void *stream);

#endif
