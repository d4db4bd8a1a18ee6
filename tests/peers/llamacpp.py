"""Measures llama.cpp on a model: prefill of one sequence, then decoding of several at once.

Run by llamacpp.sh with a Python that has llama-cpp-python (tried with 0.3.36, which carries its own
llama.cpp). Tokens are random and given, as in llama-bench, so that routing is not that of a loop.
Prints one JSON object.
"""

import argparse
import json
import random
import time

import llama_cpp as l


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--sequences", type=int, default=1)
    p.add_argument("--prompt-tokens", type=int, default=128)
    p.add_argument("--gen-tokens", type=int, default=16)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    # llama.cpp keeps a second, repacked copy of the weights unless told not to: faster, but in memory
    # that a limit does not have.
    p.add_argument("--no-repack", action="store_true")
    o = p.parse_args()

    quiet = l.llama_log_callback(lambda *_: None)  # llama.cpp keeps the pointer, not a reference
    l.llama_log_set(quiet, None)
    l.llama_backend_init()
    mp = l.llama_model_default_params()
    mp.n_gpu_layers, mp.use_extra_bufts = 0, not o.no_repack  # it maps the file unless told not to
    model = l.llama_model_load_from_file(o.model.encode(), mp)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {o.model}")
    vocabulary = l.llama_vocab_n_tokens(l.llama_model_get_vocab(model))
    cp = l.llama_context_default_params()
    cp.n_ctx = (o.prompt_tokens + o.gen_tokens + 8) * o.sequences
    cp.n_batch = cp.n_ubatch = 512
    cp.n_threads = cp.n_threads_batch = o.threads
    cp.n_seq_max = o.sequences
    context = l.llama_init_from_model(model, cp)
    batch = l.llama_batch_init(512, 0, 1)
    rng = random.Random(o.seed)

    def decode(rows: list[tuple[int, int]], last_only: bool) -> None:
        batch.n_tokens = len(rows)
        for i, (sequence, position) in enumerate(rows):
            batch.token[i] = rng.randrange(vocabulary)
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = not last_only or i == len(rows) - 1
        if l.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")

    # A cold start would count the loading of the weights that every token needs.
    decode([(0, i) for i in range(32)], True)
    l.llama_memory_clear(l.llama_get_memory(context), True)

    start = time.perf_counter()
    decode([(0, i) for i in range(o.prompt_tokens)], True)
    prefill = time.perf_counter() - start
    # The other sequences start at position 0 with one token: what counts is the batch's width.
    if o.sequences > 1:
        decode([(s, 0) for s in range(1, o.sequences)], False)
    start = time.perf_counter()
    for n in range(o.gen_tokens):
        decode([(s, (o.prompt_tokens if s == 0 else 1) + n) for s in range(o.sequences)], False)
    took = time.perf_counter() - start
    print(json.dumps({
        "prefill_tokens_per_s": o.prompt_tokens / prefill,
        "decode_tokens_per_s": o.gen_tokens * o.sequences / took,
    }))


if __name__ == "__main__":
    main()
