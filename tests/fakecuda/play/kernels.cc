// The kernels of kernels/cuda, compiled for the host through play.h, and the door to them:
// mr_play_launch runs one and returns 0, or a number of play::result with mr_play_error's text.
#include "play.h"

#include "attention.cu"
#include "combine.cu"
#include "dense.cu"
#include "embed.cu"
#include "expert_ffn.cu"
#include "gather_rows.cu"
#include "kv_append.cu"
#include "matmul.cu"
#include "rms_norm.cu"
#include "rope.cu"
#include "route.cu"

using play::kernel;

// mr_planted_kernels are those of a test of the player, up to one without a name.
extern const kernel mr_planted_kernels[] __attribute__((weak));

template <typename ARGS, void (*RUN)(ARGS)> static void run(const void *args)
{
	RUN(*(const ARGS *)args);
}

#define KERNEL(name, threads, args) \
	{#name, threads, sizeof(struct args), run<const struct args, name>},
#define MR_PRODUCT(format, type, wp, xp, nt)                                               \
	KERNEL(mr_product_##format##_one, MR_PRODUCT_THREADS, mr_cuda_product_args)            \
	KERNEL(mr_product_##format##_tile, MR_PRODUCT_THREADS, mr_cuda_product_args)
#define MR_PRODUCT_FEW(format, type, wp, xp, nt)                                           \
	MR_PRODUCT(format, type, wp, xp, nt)                                                   \
	KERNEL(mr_product_##format##_few, MR_PRODUCT_THREADS, mr_cuda_product_args)

static const kernel kernels[] = {
	KERNEL(mr_attention, MR_ATTENTION_THREADS, mr_cuda_attention_args)
	KERNEL(mr_attention_split, MR_ATTENTION_THREADS, mr_cuda_attention_args)
	KERNEL(mr_attention_merge, MR_ATTENTION_THREADS, mr_cuda_attention_args)
	KERNEL(mr_combine, 256, mr_cuda_combine_args)
	KERNEL(mr_embed, 128, mr_cuda_embed_args)
	KERNEL(mr_gate, 256, mr_cuda_prepare_args)
	KERNEL(mr_gather_rows, 256, mr_cuda_gather_rows_args)
	KERNEL(mr_join, 256, mr_cuda_join_args)
	KERNEL(mr_kv_append, 256, mr_cuda_kv_append_args)
	KERNEL(mr_prepare, 256, mr_cuda_prepare_args)
	KERNEL(mr_rms_norm, MR_NORM_THREADS, mr_cuda_rms_norm_args)
	KERNEL(mr_rope, 256, mr_cuda_rope_args)
	KERNEL(mr_route, MR_WARP, mr_cuda_route_args)
	KERNEL(mr_split, MR_SPLIT_THREADS, mr_cuda_split_args)
#include "product_formats.inc"
};

static const kernel *find(const char *name)
{
	for (const kernel &k : kernels)
		if (strcmp(k.name, name) == 0)
			return &k;
	for (const kernel *k = mr_planted_kernels; k && k->name; k++)
		if (strcmp(k->name, name) == 0)
			return k;
	return nullptr;
}

static thread_local char message[256];

static int failed(int code, const char *kernel, const char *text)
{
	snprintf(message, sizeof message, "%s: %s", kernel, text);
	return code;
}

extern "C" {

// mr_play_args_bytes returns the size of a kernel's argument structure; 0 where there is none.
uint32_t mr_play_args_bytes(const char *name)
{
	const kernel *k = find(name);
	return k ? k->args_bytes : 0;
}

// mr_play_error is the reason of this thread's last failed launch.
const char *mr_play_error(void) { return message; }

int mr_play_launch(const char *name, const uint32_t grid[3], const uint32_t block[3],
	uint32_t shared, const void *args)
{
	const kernel *k = find(name);
	if (!k)
		return failed(play::UNKNOWN_KERNEL, name, "there is no such kernel");
	if (block[0] != k->threads || block[1] != 1 || block[2] != 1)
		return failed(play::BAD_LAUNCH, name, "the block is not of the kernel's number of threads");
	play::machine *m = play::open_machine();
	if (!m)
		return failed(play::NO_MEMORY, name, "no memory for fibers");
	int code = play::launch(m, k->run, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
		shared, args);
	return code == play::OK ? code : failed(code, name, m->message);
}

} // extern "C"
