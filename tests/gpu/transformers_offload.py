#!/usr/bin/env python3
"""Hugging Face transformers with accelerate's CPU offload beside Moering: the same checkpoint, the same cap.

    transformers_offload.py MODEL RESULTS [--dry-run]

RESULTS are the JSON lines of TestMeasureModel, "model under a memory cap": for each, the same number of
sequences, prompt and generated tokens are measured here, under the same cap of GPU memory, and a line with
both and their ratios is printed. Tokens are random and given, so that routing is not that of a loop. Without
PyTorch, transformers and accelerate, or without a GPU, it prints why on standard error and exits 3; a dry run
goes without a GPU and a cap.
"""

import argparse
import gc
import json
import statistics
import sys
import time

REPEATS = 3
# What the cap leaves to weights; the rest is for activations and keys. Tried in turn until one suffices.
SHARES = [0.85, 0.7, 0.5]


def load(transformers, torch, model, cap):
    kind = {"torch_dtype": torch.bfloat16, "low_cpu_mem_usage": True}
    if cap:
        kind |= {"device_map": "auto", "max_memory": {0: cap, "cpu": 1 << 40}}
    return transformers.AutoModelForCausalLM.from_pretrained(model, **kind).eval()


def measure(torch, model, line, device):
    """Prefill and decode rates, the median of repetitions after one that is not counted."""
    n, prompt, gen = line["sequences"], line["prompt_tokens"], line["gen_tokens"]
    vocabulary = model.config.vocab_size
    prefill, decode = [], []

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for repeat in range(REPEATS + 1):
        torch.manual_seed(repeat)
        ids = torch.randint(vocabulary, (n, prompt + gen), device=device)
        with torch.inference_mode():
            wait()
            start = time.perf_counter()
            out = model(input_ids=ids[:, :prompt], use_cache=True)
            wait()
            middle = time.perf_counter()
            for i in range(prompt, prompt + gen):
                out = model(input_ids=ids[:, i : i + 1], past_key_values=out.past_key_values,
                            use_cache=True)
            wait()
            end = time.perf_counter()
        if repeat > 0:
            prefill.append(n * prompt / (middle - start))
            decode.append(n * gen / (end - middle))
    return statistics.median(prefill), statistics.median(decode)


def run(o):
    try:
        import accelerate
        import torch
        import transformers
    except ImportError as e:
        print(f"transformers_offload.py: {e}", file=sys.stderr)
        return 3
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not o.dry_run:
        print("transformers_offload.py: PyTorch sees no GPU", file=sys.stderr)
        return 3
    with open(o.results) as f:
        lines = [json.loads(text) for text in f]
    lines = [x for x in lines if x["what"] == "model under a memory cap"]
    if not lines:
        print(f"transformers_offload.py: {o.results} has no model under a memory cap", file=sys.stderr)
        return 1
    cap = lines[0]["memory_budget_bytes"] if device == "cuda" else 0
    if cap:
        torch.cuda.set_per_process_memory_fraction(
            cap / torch.cuda.get_device_properties(0).total_memory)
    found, model = {}, None
    for share in SHARES:
        try:
            model = load(transformers, torch, o.model, int(cap * share))
            for line in lines:
                found[line["sequences"]] = measure(torch, model, line, device)
            break
        except torch.cuda.OutOfMemoryError:
            model = None
            gc.collect()
            torch.cuda.empty_cache()
    if len(found) < len(lines):
        print(f"transformers_offload.py: out of memory under a cap of {cap} bytes", file=sys.stderr)
        return 1
    for line in lines:
        prefill, decode = found[line["sequences"]]
        record = {
            "what": "beside transformers with accelerate", "sequences": line["sequences"],
            "prompt_tokens": line["prompt_tokens"], "gen_tokens": line["gen_tokens"],
            "memory_cap_bytes": line["memory_budget_bytes"], "weights_share_of_cap": share,
            "torch": torch.__version__, "transformers": transformers.__version__,
            "accelerate": accelerate.__version__, "device": line["device"],
            "moering": {k: line[k] for k in ("prefill_tokens_per_s", "decode_tokens_per_s")},
            "peer": {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode},
            "prefill_ratio": line["prefill_tokens_per_s"] / prefill,
            "decode_ratio": line["decode_tokens_per_s"] / decode,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": line["commit"]}
        print(json.dumps(record | ({"dry_run": True} if o.dry_run else {})))
    return 0


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model")
    p.add_argument("results")
    p.add_argument("--dry-run", action="store_true")
    return run(p.parse_args())


if __name__ == "__main__":
    sys.exit(main())
