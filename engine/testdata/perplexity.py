#!/usr/bin/env python3
"""Writes perplexity.json: the perplexity of the model in this repository as llama.cpp computes it.

Needs llama-cpp-python==0.3.36. Run by hand; the result is committed. The windows are those of
llama.cpp's perplexity tool: logits of positions n/2 to n-2 score tokens n/2+1 to n-1.
"""
import json
import pathlib

import numpy as np
from llama_cpp import Llama

WINDOW, WINDOWS = 128, 16
HERE = pathlib.Path(__file__).parent
TINY = HERE / "../../tests/testdata/tiny"


def main():
    model = Llama(str(TINY / "tiny.gguf"), n_ctx=WINDOW, n_batch=WINDOW, logits_all=True,
                  verbose=False, n_threads=1)
    text = (TINY / "heldout.txt").read_bytes()
    ids = model.tokenize(text, add_bos=True, special=True)[:WINDOW * WINDOWS]
    nats = []
    for start in range(0, len(ids), WINDOW):
        window = ids[start:start + WINDOW]
        model.reset()
        model.eval(window)
        logits = np.array(model.scores[:WINDOW], dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        nats += [-logp[i, window[i + 1]] for i in range(WINDOW // 2, WINDOW - 1)]
    nats = np.array(nats)
    result = {"window": WINDOW, "windows": WINDOWS, "scored": len(nats),
              "nats": float(nats.mean()), "perplexity": float(np.exp(nats.mean())),
              "error": float(np.exp(nats.mean()) * nats.std() / np.sqrt(len(nats) - 1)), "ids": ids}
    (HERE / "perplexity.json").write_text(json.dumps(result) + "\n")
    print({k: v for k, v in result.items() if k != "ids"})


main()
