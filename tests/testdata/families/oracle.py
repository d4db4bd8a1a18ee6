"""Runs a checkpoint in transformers and gathers what an engine has to agree with."""

import base64
import contextlib

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def load(directory, want):
    """Loads the checkpoint; fails unless every weight was used, with the value that was written."""
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager",
        experts_implementation="eager", output_loading_info=True)
    bad = {k: v for k, v in info.items() if v}
    assert not bad, (directory, bad)
    for name, tensor in model.state_dict().items():
        if name in want:
            assert np.array_equal(tensor.numpy(), want[name]), name
    return model.eval()


@contextlib.contextmanager
def float64_throughout():
    """Makes float64 what transformers means by float32.

    The models cast to float32 inside norms, RoPE and the router whatever their weights are, so
    model.double() alone would not raise the precision of the result.
    """
    names = {"float32": torch.float32, "float": torch.float}
    method = torch.Tensor.float
    try:
        torch.float32 = torch.float = torch.float64
        torch.Tensor.float = torch.Tensor.double
        yield
    finally:
        for name, dtype in names.items():
            setattr(torch, name, dtype)
        torch.Tensor.float = method


def forward(model, ids):
    """Returns logits (n, vocab), final hidden (n, d), routers: (logits, weights, ids) a layer."""
    seen, hooks = [], []
    for layer in model.model.layers:
        gate = getattr(layer.mlp, "gate", None)
        if gate is not None:
            hooks.append(gate.register_forward_hook(lambda _m, _i, out: seen.append(out)))
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids]), use_cache=False).last_hidden_state
        logits = model.lm_head(hidden)
    for hook in hooks:
        hook.remove()
    return logits[0], hidden[0], seen


def greedy(model, prompt, count):
    """Extends the prompt by `count` tokens, no cache; returns them and the least gap to a rival."""
    ids, gap = list(prompt), float("inf")
    for _ in range(count):
        top = forward(model, ids)[0][-1].topk(2)
        gap = min(gap, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    return ids[len(prompt):], gap


def router_margin(routers):
    """Least relative distance between the last expert chosen and the first one that was not."""
    margin = float("inf")
    for logits, _, chosen in routers:
        probs = torch.softmax(logits.double(), -1).sort(-1, descending=True).values
        k = chosen.shape[-1]
        margin = min(margin, float(((probs[:, k - 1] - probs[:, k]) / probs[:, k - 1]).min()))
        order = (probs[:, :k - 1] - probs[:, 1:k]) / probs[:, :k - 1]
        margin = min(margin, float(order.min()))
    return margin


def relative(a, b):
    """Normalised error of a against b, over the whole array: |a - b| / |b|."""
    return float(torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double()))


def b64(tensor):
    return base64.b64encode(tensor.float().numpy().astype("<f4").tobytes()).decode()


def float64_logits(model, ids):
    """The same forward pass, all of it in float64."""
    with float64_throughout():
        model.double()
        rotary = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(model.config)
        logits, _, routers = forward(model, ids)
        assert logits.dtype == torch.float64 == model.model.rotary_emb.inv_freq.dtype
    return logits, routers
