#!/usr/bin/env python3
"""Writes golden.json: which tokens Hugging Face transformers leaves, and how likely they are.

Needs torch==2.15.* and transformers==5.24.*. Run by hand; the result is committed.
"""
import json
import pathlib

import torch
from transformers.generation import logits_process as lp

CASES = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 0.9, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 0.05},
    {"temperature": 1.1, "min_p": 0.2},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 0.8, "repetition_penalty": 1.3},
    {"temperature": 1.2, "repetition_penalty": 1.8, "top_k": 12, "top_p": 0.7, "min_p": 0.1},
    {"temperature": 2.0, "repetition_penalty": 0.6, "top_k": 40},
]


def process(logits, history, case):
    scores = logits[None]
    ids = torch.tensor([history])
    if (v := case.get("repetition_penalty")) is not None:
        scores = lp.RepetitionPenaltyLogitsProcessor(v)(ids, scores)
    if (v := case.get("temperature")) is not None:
        scores = lp.TemperatureLogitsWarper(v)(ids, scores)
    if (v := case.get("top_k")) is not None:
        scores = lp.TopKLogitsWarper(v)(ids, scores)
    if (v := case.get("top_p")) is not None:
        scores = lp.TopPLogitsWarper(v)(ids, scores)
    if (v := case.get("min_p")) is not None:
        scores = lp.MinPLogitsWarper(v)(ids, scores)
    return torch.softmax(scores.double(), -1)[0].tolist()


def main():
    torch.manual_seed(1)
    out = []
    for case in CASES:
        logits = torch.randn(60) * 2
        history = torch.randint(0, 60, (12,)).tolist()
        out.append({**case, "logits": logits.tolist(), "history": history,
                    "probabilities": process(logits, history, case)})
    path = pathlib.Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(out, separators=(",", ":")).replace("},{", "},\n{") + "\n")


main()
