// Route: the TopK largest of softmax(Logits[t]), in descending order, the lower index first among
// equals; weights are the probabilities, divided by their sum where a.normalize. A warp has one
// row. The softmax keeps order, so the logits are compared. NaN counts as the least for the choice,
// so that ids are always experts, and makes the weights NaN. Roof: latency.
#include "common.cuh"

MR_FN float mr_logit(const float *row, int i)
{
	float v = row[i];
	return v == v ? v : -mr_infinity();
}

MR_KERNEL(MR_WARP) mr_route(const MR_ARGS mr_cuda_route_args a)
{
	int lane = threadIdx.x;
	const float *row = (const float *)a.logits + (int64_t)blockIdx.x * a.experts; // (experts)
	int32_t *ids = (int32_t *)a.ids + (int64_t)blockIdx.x * a.top_k;
	float *weights = (float *)a.weights + (int64_t)blockIdx.x * a.top_k;
	float top = -mr_infinity(), all = 0.0f, chosen = 0.0f;
	for (int i = lane; i < a.experts; i += MR_WARP)
		top = fmaxf(top, mr_logit(row, i));
	top = mr_warp_max(top);
	for (int i = lane; i < a.experts; i += MR_WARP)
		all = all + expf(row[i] - top);
	all = mr_warp_sum(all);

	float before = mr_infinity(); // the last one that was taken
	int before_id = -1;
	for (int j = 0; j < a.top_k; j++) {
		float best = -mr_infinity();
		int best_id = a.experts;
		for (int i = lane; i < a.experts; i += MR_WARP) {
			float v = mr_logit(row, i);
			bool left = v < before || (v == before && i > before_id);
			if (left && (best_id == a.experts || v > best)) {
				best = v;
				best_id = i;
			}
		}
		for (int step = 16; step > 0; step /= 2) {
			float v = __shfl_xor_sync(MR_ALL_LANES, best, step);
			int i = __shfl_xor_sync(MR_ALL_LANES, best_id, step);
			if (i < a.experts && (best_id == a.experts || v > best || (v == best && i < best_id))) {
				best = v;
				best_id = i;
			}
		}
		before = best;
		before_id = best_id;
		float e = expf(best - top);
		chosen = chosen + e;
		if (lane == 0) {
			ids[j] = best_id;
			weights[j] = e;
		}
	}
	float sum = all == all && a.normalize ? chosen : all;
	__syncwarp();
	for (int j = lane; j < a.top_k; j += MR_WARP)
		weights[j] = weights[j] / sum;
}
