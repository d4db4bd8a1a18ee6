// The stand-in for libcublasLt: what kernels/cuda uses of it, over the memory and the streams of the
// stand-in driver. Descriptors are remembered and checked as those of the driver are. A product must
// be the one that its algorithm was found for, with the workspace and the alignment promised then.
//
// As in cuBLASLt, the order of a sum depends on the shape: a row's bits change with the rows beside it.
#include "world.h"

#include <cmath>
#include <cstring>

namespace fakecuda {

enum Status {
	SUCCESS = 0, ALLOC_FAILED = 3, INVALID = 7, EXECUTION_FAILED = 13, INTERNAL_ERROR = 14,
	NOT_SUPPORTED = 15
};

// Numbers of the published interface.
enum { REAL_32F = 0, REAL_16F = 2, REAL_16BF = 14, COMPUTE_32F = 68, OP_N = 0, OP_T = 1 };
enum { PRODUCT_TRANSPOSE_A = 3, PRODUCT_TRANSPOSE_B = 4 };
enum { PREFERENCE_WORKSPACE = 1, PREFERENCE_ALIGNMENT_A = 5, PREFERENCE_ALIGNMENT_D = 8 };

// Algorithm is what a caller keeps of a search, and gives back.
struct Algorithm {
	uint64_t data[8]; // problem, workspace, alignment of A, B, C and D
};

struct Found {
	Algorithm algorithm;
	size_t workspace;
	int state;
	float waves;
	int reserved[4];
};

// BlasCall is a call of cuBLASLt. Failures that are drawn for it come as a status.
struct BlasCall : Call {
	int status = SUCCESS;
	BlasCall(const char *name, bool needs_context) : Call(name, needs_context)
	{
		if (code == OK)
			return;
		if (w.fail_name == name && code == w.fail_code)
			status = code;
		else
			status = sticky(code) ? EXECUTION_FAILED : code == OUT_OF_MEMORY ? ALLOC_FAILED : INTERNAL_ERROR;
	}
	int wrong(const std::string &text)
	{
		w.violate(context, "cuBLASLt: " + text);
		return INVALID;
	}
	bool is(BlasObject *o, BlasObject::Kind kind)
	{
		if (w.blas.count(o) && o->kind == kind)
			return true;
		wrong("a handle or descriptor that is destroyed, or never was");
		return false;
	}
	int make(BlasObject **out, const BlasObject &like)
	{
		*out = nullptr;
		if (status != SUCCESS)
			return status;
		*out = *w.blas.insert(new BlasObject(like)).first;
		return SUCCESS;
	}
	int end(BlasObject *o, BlasObject::Kind kind)
	{
		if (!is(o, kind))
			return status != SUCCESS ? status : int(INVALID);
		w.blas.erase(o);
		delete o;
		return status;
	}
};

EXPORT int cublasLtGetProperty(int which, int *value)
{
	BlasCall call("cublasLtGetProperty", false);
	if (which < 0 || which > 2)
		return INVALID;
	*value = call.w.blas_version[which];
	return call.status;
}

EXPORT int cublasLtCreate(BlasObject **out)
{
	BlasCall call("cublasLtCreate", true);
	return call.make(out, {BlasObject::HANDLE, call.context});
}

EXPORT int cublasLtDestroy(BlasObject *o)
{
	BlasCall call("cublasLtDestroy", false);
	return call.end(o, BlasObject::HANDLE);
}

EXPORT int cublasLtMatmulDescCreate(BlasObject **out, int compute, int scale)
{
	BlasCall call("cublasLtMatmulDescCreate", false);
	BlasObject like{BlasObject::PRODUCT};
	like.compute = compute, like.scale = scale;
	return call.make(out, like);
}

EXPORT int cublasLtMatmulDescDestroy(BlasObject *o)
{
	BlasCall call("cublasLtMatmulDescDestroy", false);
	return call.end(o, BlasObject::PRODUCT);
}

EXPORT int cublasLtMatmulDescSetAttribute(BlasObject *o, int attribute, const void *value, size_t bytes)
{
	BlasCall call("cublasLtMatmulDescSetAttribute", false);
	if (call.status != SUCCESS)
		return call.status;
	if (!call.is(o, BlasObject::PRODUCT))
		return INVALID;
	if ((attribute != PRODUCT_TRANSPOSE_A && attribute != PRODUCT_TRANSPOSE_B) || bytes != 4)
		return call.wrong("attribute " + std::to_string(attribute) + " of a product, of " +
			std::to_string(bytes) + " bytes");
	memcpy(&o->transposed[attribute - PRODUCT_TRANSPOSE_A], value, 4);
	return SUCCESS;
}

EXPORT int cublasLtMatrixLayoutCreate(BlasObject **out, int type, uint64_t rows, uint64_t cols,
	int64_t ld)
{
	BlasCall call("cublasLtMatrixLayoutCreate", false);
	BlasObject like{BlasObject::LAYOUT};
	like.type = type, like.rows = rows, like.cols = cols, like.ld = uint64_t(ld);
	if (ld < 1 || like.ld < rows || (type != REAL_32F && type != REAL_16F && type != REAL_16BF))
		return call.wrong("a layout of type " + std::to_string(type) + ", " + std::to_string(rows) +
			" rows, stride " + std::to_string(ld));
	return call.make(out, like);
}

EXPORT int cublasLtMatrixLayoutDestroy(BlasObject *o)
{
	BlasCall call("cublasLtMatrixLayoutDestroy", false);
	return call.end(o, BlasObject::LAYOUT);
}

EXPORT int cublasLtMatmulPreferenceCreate(BlasObject **out)
{
	BlasCall call("cublasLtMatmulPreferenceCreate", false);
	return call.make(out, {BlasObject::PREFERENCE});
}

EXPORT int cublasLtMatmulPreferenceDestroy(BlasObject *o)
{
	BlasCall call("cublasLtMatmulPreferenceDestroy", false);
	return call.end(o, BlasObject::PREFERENCE);
}

EXPORT int cublasLtMatmulPreferenceSetAttribute(BlasObject *o, int attribute, const void *value,
	size_t bytes)
{
	BlasCall call("cublasLtMatmulPreferenceSetAttribute", false);
	if (call.status != SUCCESS)
		return call.status;
	if (!call.is(o, BlasObject::PREFERENCE))
		return INVALID;
	if (attribute == PREFERENCE_WORKSPACE && bytes == 8)
		memcpy(&o->workspace, value, 8);
	else if (attribute >= PREFERENCE_ALIGNMENT_A && attribute <= PREFERENCE_ALIGNMENT_D && bytes == 4)
		memcpy(&o->alignment[attribute - PREFERENCE_ALIGNMENT_A], value, 4);
	else
		return call.wrong("attribute " + std::to_string(attribute) + " of a preference, of " +
			std::to_string(bytes) + " bytes");
	return SUCCESS;
}

// Problem is a product as its descriptors have it: D = A^T B, column by column.
struct Problem {
	BlasObject *handle, *product, *a, *b, *c, *d;

	bool live(BlasCall &call) const
	{
		return call.is(handle, BlasObject::HANDLE) && call.is(product, BlasObject::PRODUCT) &&
			call.is(a, BlasObject::LAYOUT) && call.is(b, BlasObject::LAYOUT) &&
			call.is(c, BlasObject::LAYOUT) && call.is(d, BlasObject::LAYOUT);
	}
	// refusal returns why cuBLASLt would not take it; "" if it would.
	std::string refusal() const
	{
		if (product->compute != COMPUTE_32F || product->scale != REAL_32F)
			return "sums that are not float";
		if (product->transposed[0] != OP_T || product->transposed[1] != OP_N)
			return "not A transposed times B";
		if (a->type != b->type || a->type == REAL_32F || c->type != REAL_32F || d->type != REAL_32F)
			return "types that do not go together";
		if (a->rows != b->rows || a->cols != d->rows || b->cols != d->cols)
			return "shapes that do not go together";
		if (c->rows != d->rows || c->cols != d->cols || c->ld != d->ld)
			return "C and D of different shapes";
		return "";
	}
	uint64_t key() const
	{
		uint64_t parts[] = {uint64_t(a->type), a->rows, a->cols, a->ld, b->cols, b->ld, d->ld};
		return hash(parts, sizeof parts);
	}
};

constexpr size_t workspace_wanted = 1 << 20;

EXPORT int cublasLtMatmulAlgoGetHeuristic(BlasObject *handle, BlasObject *product, BlasObject *a,
	BlasObject *b, BlasObject *c, BlasObject *d, BlasObject *preference, int wanted, Found *found,
	int *count)
{
	BlasCall call("cublasLtMatmulAlgoGetHeuristic", true);
	*count = 0;
	if (call.status != SUCCESS)
		return call.status;
	Problem p{handle, product, a, b, c, d};
	if (!p.live(call) || !call.is(preference, BlasObject::PREFERENCE))
		return INVALID;
	if (std::string no = p.refusal(); !no.empty() || wanted < 1)
		return call.wrong("a search for " + no);
	if (call.w.blas_algorithms == 0)
		return NOT_SUPPORTED;
	memset(found, 0xA5, sizeof *found);
	found->workspace = std::min<size_t>(workspace_wanted, preference->workspace);
	found->state = SUCCESS;
	found->algorithm = {{p.key(), found->workspace, preference->alignment[0], preference->alignment[1],
		preference->alignment[2], preference->alignment[3], 0, 0}};
	*count = 1;
	return SUCCESS;
}

static float element(const uint8_t *at, int type)
{
	uint16_t bits;
	memcpy(&bits, at, 2);
	if (type == REAL_16BF) {
		uint32_t wide = uint32_t(bits) << 16;
		float f;
		memcpy(&f, &wide, 4);
		return f;
	}
	int exponent = bits >> 10 & 31, fraction = bits & 1023;
	float f = exponent == 31 ? (fraction ? NAN : INFINITY) :
		exponent == 0 ? ldexpf(float(fraction), -24) : ldexpf(float(fraction + 1024), exponent - 25);
	return bits & 0x8000 ? -f : f;
}

// Job is a product that a stream executes.
struct Job {
	int type;
	uint64_t outputs, rows, inputs, a_ld, b_ld, d_ld;
	const uint8_t *a, *b;
	float *d;
	uint8_t *workspace;
	uint64_t workspace_bytes;
	float alpha, beta;

	void run() const
	{
		if (workspace_bytes)
			memset(workspace, 0xB7, workspace_bytes);
		uint64_t parts = 1 + rows % 5; // the sum of each is added up by itself
		for (uint64_t n = 0; n < rows; n++)
			for (uint64_t m = 0; m < outputs; m++) {
				float total = 0;
				for (uint64_t part = 0; part < parts; part++) {
					float sum = 0;
					for (uint64_t k = inputs * part / parts; k < inputs * (part + 1) / parts; k++)
						sum += element(a + 2 * (m * a_ld + k), type) * element(b + 2 * (n * b_ld + k), type);
					total += sum;
				}
				float *to = d + n * d_ld + m;
				*to = alpha * total + (beta != 0 ? beta * *to : 0);
			}
	}
};

static uint64_t extent(const BlasObject *layout)
{
	return ((layout->cols - 1) * layout->ld + layout->rows) * (layout->type == REAL_32F ? 4 : 2);
}

EXPORT int cublasLtMatmul(BlasObject *handle, BlasObject *product, const float *alpha, const void *a,
	BlasObject *la, const void *b, BlasObject *lb, const float *beta, const void *c, BlasObject *lc,
	void *d, BlasObject *ld, const Algorithm *algorithm, void *workspace, size_t workspace_bytes,
	Stream *s)
{
	BlasCall call("cublasLtMatmul", true);
	if (call.status != SUCCESS)
		return call.status;
	Problem p{handle, product, la, lb, lc, ld};
	if (!p.live(call) || !call.has(call.w.streams, s, "stream"))
		return INVALID;
	if (handle->context != call.context || s->context != call.context)
		return call.wrong("a handle or a stream of another context");
	if (std::string no = p.refusal(); !no.empty())
		return call.wrong(no);
	if (!algorithm || algorithm->data[0] != p.key())
		return call.wrong("an algorithm that was found for another product");
	if (workspace_bytes < algorithm->data[1] || c != d)
		return call.wrong("too small a workspace, or C that is not D");
	auto address = [](const void *v) { return reinterpret_cast<uint64_t>(v); };
	struct {
		uint64_t at, bytes;
		const char *what;
	} uses[] = {{address(a), extent(la), "A"}, {address(b), extent(lb), "B"}, {address(c), extent(lc), "C"},
		{address(d), extent(ld), "D"}, {address(workspace), workspace_bytes, "the workspace"}};
	for (int i = 0; i < 5; i++) {
		if (i < 4 && uses[i].at % algorithm->data[2 + i] != 0)
			return call.wrong(std::string(uses[i].what) + " is not aligned as was promised");
		if (uses[i].bytes && !call.w.allocated(uses[i].at, uses[i].bytes))
			return call.wrong(std::string(uses[i].what) + " has " + std::to_string(uses[i].bytes) +
				" bytes at " + hex(uses[i].at) + ", which are not allocated");
	}
	const std::string what = "a product of cuBLASLt on " + s->name();
	call.w.begin(s);
	call.w.access(s, uses[0].at, uses[0].bytes, false, what);
	call.w.access(s, uses[1].at, uses[1].bytes, false, what);
	call.w.access(s, uses[3].at, uses[3].bytes, true, what);
	call.w.access(s, uses[4].at, uses[4].bytes, true, what);
	Job job{la->type, ld->rows, ld->cols, la->rows, la->ld, lb->ld, ld->ld,
		static_cast<const uint8_t *>(a), static_cast<const uint8_t *>(b), static_cast<float *>(d),
		static_cast<uint8_t *>(workspace), workspace_bytes, *alpha, *beta};
	Op op;
	op.cost = call.w.product_ns;
	op.run = [=] {
		job.run();
		return std::string();
	};
	call.w.push(s, std::move(op));
	return SUCCESS;
}

} // namespace fakecuda
