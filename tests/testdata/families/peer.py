"""Runs every model.gguf in llama.cpp and compares it with the goldens made by transformers.

    python peer.py [NAME ...]

requirements: llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6

This shows that the GGUF files follow the conventions of another reader than ours. llama.cpp keeps
its KV cache in float16 unless told otherwise, and has no sliding window in its `llama`
architecture, so mixtral-swa is compared within the first window only.
"""

import base64
import json
import pathlib
import sys

import llama_cpp
import numpy as np

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4  # normalised error of the logits, as asked of Moering
WINDOWED = {"mixtral-swa": 16}


def logits_of(path, ids):
    """All logits of one prefill, float32 KV, one thread."""
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, n_threads=1, logits_all=True, verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False)
    model.eval(ids)
    return np.array(model.scores[:len(ids)], np.float64)


def compare(folder):
    golden = json.loads((folder / "golden.json").read_text())
    prompt, tokens = golden["prompt"], golden["greedy"]
    want = np.frombuffer(base64.b64decode(golden["logits"]), "<f4").reshape(len(prompt), -1)
    got = logits_of(folder / "model.gguf", prompt + tokens[:-1])
    span = WINDOWED.get(folder.name, len(prompt))
    error = np.linalg.norm(got[:span] - want[:span]) / np.linalg.norm(want[:span])
    beyond = np.linalg.norm(got[span:len(prompt)] - want[span:]) / np.linalg.norm(want)
    same = int((got[len(prompt) - 1:].argmax(-1) == tokens).sum())
    ok = error < TOLERANCE and (folder.name in WINDOWED or same == len(tokens))
    print(f"{folder.name:14s} error {error:.1e} greedy {same}/{len(tokens)} "
          f"beyond the window {beyond:.1e} {'ok' if ok else 'DIFFERS'}")
    return ok


def main():
    names = sys.argv[1:] or sorted(p.parent.name for p in HERE.glob("*/golden.json"))
    if not all([compare(HERE / name) for name in names]):
        sys.exit(1)


if __name__ == "__main__":
    main()
