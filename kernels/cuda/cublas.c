#include "cublas.h"
#include "library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The types of cuBLASLt, as far as they cross it.
typedef int status;
typedef struct opaque_handle *handle;
typedef struct opaque_product *product;
typedef struct opaque_layout *layout;
typedef struct opaque_preference *preference;

typedef struct {
	uint64_t data[8];
} algorithm;

typedef struct {
	algorithm algorithm;
	size_t workspace;
	status state;
	float waves;
	int reserved[4];
} found;

// Numbers of the published interface.
enum {
	MAJOR_VERSION = 0, MINOR_VERSION = 1, PATCH_LEVEL = 2, // libraryPropertyType
	COMPUTE_32F = 68,                                      // cublasComputeType_t
	OP_T = 1,                                              // cublasOperation_t
	DESC_TRANSA = 3,                                       // cublasLtMatmulDescAttributes_t
	PREF_MAX_WORKSPACE_BYTES = 1,                          // cublasLtMatmulPreferenceAttributes_t
	PREF_MIN_ALIGNMENT_A_BYTES = 5, PREF_MIN_ALIGNMENT_D_BYTES = 8
};

// ENTRIES lists the entry points: X(field, symbol, prototype).
#define ENTRIES(X) \
	X(property, "cublasLtGetProperty", (int, int *)) \
	X(create, "cublasLtCreate", (handle *)) \
	X(destroy, "cublasLtDestroy", (handle)) \
	X(product_create, "cublasLtMatmulDescCreate", (product *, int, int)) \
	X(product_destroy, "cublasLtMatmulDescDestroy", (product)) \
	X(product_set, "cublasLtMatmulDescSetAttribute", (product, int, const void *, size_t)) \
	X(layout_create, "cublasLtMatrixLayoutCreate", (layout *, int, uint64_t, uint64_t, int64_t)) \
	X(layout_destroy, "cublasLtMatrixLayoutDestroy", (layout)) \
	X(preference_create, "cublasLtMatmulPreferenceCreate", (preference *)) \
	X(preference_destroy, "cublasLtMatmulPreferenceDestroy", (preference)) \
	X(preference_set, "cublasLtMatmulPreferenceSetAttribute", \
		(preference, int, const void *, size_t)) \
	X(search, "cublasLtMatmulAlgoGetHeuristic", (handle, product, layout, layout, layout, layout, \
		preference, int, found *, int *)) \
	X(multiply, "cublasLtMatmul", (handle, product, const void *, const void *, layout, \
		const void *, layout, const void *, const void *, layout, void *, layout, \
		const algorithm *, void *, size_t, void *))

struct cublas {
#define FIELD(field, symbol, prototype) status(*field) prototype;
	ENTRIES(FIELD)
#undef FIELD
	handle handle; // NULL before cublas_start
};

struct cublas_plan {
	const cublas *b;
	product product;
	layout weights, x, out; // column by column, as cuBLASLt has them
	found found;
};

cublas *cublas_open(const char *path, char *message, size_t message_bytes)
{
	void *library = library_open(path, message, message_bytes);
	if (!library)
		return NULL;
	cublas *b = calloc(1, sizeof *b);
	if (!b) {
		snprintf(message, message_bytes, "no memory");
		return NULL;
	}
	const char *missing = NULL;
#define RESOLVE(field, symbol, prototype) \
	if (!library_resolve(library, symbol, &b->field)) \
		missing = symbol;
	ENTRIES(RESOLVE)
#undef RESOLVE
	if (missing) {
		snprintf(message, message_bytes, "%s: missing entry point %s", path, missing);
		free(b);
		return NULL;
	}
	return b;
}

void cublas_free(cublas *b) { free(b); }

static int of(status s) { return s == S_OK ? R_OK : R_CUBLAS + s; }

int cublas_version(const cublas *b, int *major, int *minor, int *patch)
{
	status s = b->property(MAJOR_VERSION, major);
	if (s == S_OK)
		s = b->property(MINOR_VERSION, minor);
	if (s == S_OK)
		s = b->property(PATCH_LEVEL, patch);
	return of(s);
}

int cublas_start(cublas *b, const driver *d, uint64_t context)
{
	int r = driver_enter(d, context);
	if (r != R_OK)
		return r;
	r = of(b->create(&b->handle));
	if (r != R_OK)
		b->handle = NULL;
	driver_leave(d);
	return r;
}

int cublas_end(cublas *b, const driver *d, uint64_t context)
{
	if (!b->handle)
		return R_OK;
	int r = driver_enter(d, context);
	if (r != R_OK)
		return r;
	r = of(b->destroy(b->handle));
	b->handle = NULL;
	driver_leave(d);
	return r;
}

// describe fills in the descriptors of a plan. Both matrices have their rows one after the other,
// which for cuBLASLt are columns: weights are (inputs, outputs), x is (inputs, rows), and the product
// (outputs, rows) is that of the first transposed with the second.
static status describe(cublas_plan *p, const cublas_shape *shape)
{
	const cublas *b = p->b;
	const int32_t transposed = OP_T;
	status s = b->product_create(&p->product, COMPUTE_32F, T_FLOAT);
	if (s == S_OK)
		s = b->product_set(p->product, DESC_TRANSA, &transposed, sizeof transposed);
	if (s == S_OK)
		s = b->layout_create(&p->weights, shape->type, shape->inputs, shape->outputs,
			(int64_t)shape->inputs);
	if (s == S_OK)
		s = b->layout_create(&p->x, shape->type, shape->inputs, shape->rows, (int64_t)shape->inputs);
	if (s == S_OK)
		s = b->layout_create(&p->out, T_FLOAT, shape->outputs, shape->rows, (int64_t)shape->outputs);
	return s;
}

// search asks for the best algorithm under the preferences.
static status search(cublas_plan *p, preference preference, const cublas_shape *shape)
{
	const cublas *b = p->b;
	status s = b->preference_set(preference, PREF_MAX_WORKSPACE_BYTES, &shape->workspace,
		sizeof shape->workspace);
	for (int a = PREF_MIN_ALIGNMENT_A_BYTES; a <= PREF_MIN_ALIGNMENT_D_BYTES && s == S_OK; a++)
		s = b->preference_set(preference, a, &shape->alignment, sizeof shape->alignment);
	int count = 0;
	if (s == S_OK)
		s = b->search(b->handle, p->product, p->weights, p->x, p->out, p->out, preference, 1, &p->found,
			&count);
	if (s == S_OK && count < 1)
		s = S_NOT_SUPPORTED;
	if (s == S_OK)
		s = p->found.state;
	if (s == S_OK && p->found.workspace > shape->workspace)
		s = S_NOT_SUPPORTED;
	return s;
}

int cublas_make_plan(cublas *b, const driver *d, uint64_t context, const cublas_shape *shape,
	cublas_plan **plan)
{
	*plan = NULL;
	cublas_plan *p = calloc(1, sizeof *p);
	if (!p)
		return R_CUBLAS + S_ALLOC_FAILED;
	p->b = b;
	int r = driver_enter(d, context);
	if (r != R_OK) {
		free(p);
		return r;
	}
	preference preference = NULL;
	status s = describe(p, shape);
	if (s == S_OK)
		s = b->preference_create(&preference);
	if (s == S_OK)
		s = search(p, preference, shape);
	if (preference)
		b->preference_destroy(preference);
	driver_leave(d);
	if (s != S_OK)
		cublas_free_plan(p);
	else
		*plan = p;
	return of(s);
}

void cublas_free_plan(cublas_plan *p)
{
	if (!p)
		return;
	if (p->product)
		p->b->product_destroy(p->product);
	if (p->weights)
		p->b->layout_destroy(p->weights);
	if (p->x)
		p->b->layout_destroy(p->x);
	if (p->out)
		p->b->layout_destroy(p->out);
	free(p);
}

static void *pointer(uint64_t v) { return (void *)(uintptr_t)v; }

int cublas_multiply(const cublas_plan *p, const cublas_args *a, void *stream)
{
	const float one = 1, kept = a->accumulate ? 1 : 0;
	return of(p->b->multiply(p->b->handle, p->product, &one, pointer(a->weights), p->weights,
		pointer(a->x), p->x, &kept, pointer(a->out), p->out, pointer(a->out), p->out,
		&p->found.algorithm, pointer(a->workspace), p->found.workspace, stream));
}
