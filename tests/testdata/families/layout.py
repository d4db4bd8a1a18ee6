"""Which tensors a variant has, under both names, and the weights that go into them."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Tensor:
    hf: str  # name in model.safetensors; the experts of a layer are one Tensor each
    gguf: str  # name in the GGUF; the experts of a layer share one
    shape: tuple
    expert: int = -1  # row of the GGUF's 3-D tensor, -1 for a tensor of its own
    heads: int = 0  # > 0: rows are reordered for this many heads in the `llama` architecture


def tensors(config, arch):
    """Lists the tensors of a variant in the order of the forward pass."""
    c, hidden = config, config["hidden_size"]
    out = [Tensor("model.embed_tokens.weight", "token_embd.weight", (c["vocab_size"], hidden))]
    for layer in range(c["num_hidden_layers"]):
        out += attention(c, arch, f"model.layers.{layer}.", f"blk.{layer}.")
        out += feed_forward(c, f"model.layers.{layer}.", f"blk.{layer}.")
    out.append(Tensor("model.norm.weight", "output_norm.weight", (hidden,)))
    if not c["tie_word_embeddings"]:
        out.append(Tensor("lm_head.weight", "output.weight", (c["vocab_size"], hidden)))
    return out


def head_dim(c):
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


def attention(c, arch, hf, gguf):
    hidden, dim = c["hidden_size"], head_dim(c)
    q, kv = c["num_attention_heads"], c["num_key_value_heads"]
    permuted = arch == "llama"
    out = [Tensor(hf + "input_layernorm.weight", gguf + "attn_norm.weight", (hidden,))]
    for name, heads in (("q", q), ("k", kv), ("v", kv)):
        reorder = heads if permuted and name != "v" else 0
        h, g = f"{hf}self_attn.{name}_proj.", f"{gguf}attn_{name}."
        out.append(Tensor(h + "weight", g + "weight", (heads * dim, hidden), heads=reorder))
        if c.get("attention_bias") or c["model_type"] == "qwen2_moe":
            out.append(Tensor(h + "bias", g + "bias", (heads * dim,), heads=reorder))
    out.append(Tensor(hf + "self_attn.o_proj.weight", gguf + "attn_output.weight",
                      (hidden, q * dim)))
    if c.get("attention_bias"):
        out.append(Tensor(hf + "self_attn.o_proj.bias", gguf + "attn_output.bias", (hidden,)))
    if c["model_type"] in ("qwen3", "qwen3_moe", "olmoe"):
        whole = c["model_type"] == "olmoe"  # one norm over all heads, not one a head
        for name, heads in (("q", q), ("k", kv)):
            width = heads * dim if whole else dim
            out.append(Tensor(f"{hf}self_attn.{name}_norm.weight",
                              f"{gguf}attn_{name}_norm.weight", (width,)))
    return out


def feed_forward(c, hf, gguf):
    hidden = c["hidden_size"]
    out = [Tensor(hf + "post_attention_layernorm.weight", gguf + "ffn_norm.weight", (hidden,))]
    experts = c.get("num_local_experts") or c.get("num_experts")
    if not experts:
        return out + gated(hf + "mlp.{}_proj.weight", gguf + "ffn_{}.weight", hidden,
                           c["intermediate_size"])
    block = "block_sparse_moe" if c["model_type"] == "mixtral" else "mlp"
    width = c.get("moe_intermediate_size") or c["intermediate_size"]
    out.append(Tensor(f"{hf}{block}.gate.weight", gguf + "ffn_gate_inp.weight",
                      (experts, hidden)))
    for e in range(experts):
        name = f"{hf}{block}.experts.{e}." + ("{}.weight" if block != "mlp" else "{}_proj.weight")
        out += gated(name, gguf + "ffn_{}_exps.weight", hidden, width, e, block != "mlp")
    if shared := c.get("shared_expert_intermediate_size"):
        out += gated(hf + "mlp.shared_expert.{}_proj.weight", gguf + "ffn_{}_shexp.weight",
                     hidden, shared)
        out.append(Tensor(hf + "mlp.shared_expert_gate.weight",
                          gguf + "ffn_gate_inp_shexp.weight", (1, hidden)))
    return out


def gated(hf, gguf, hidden, width, expert=-1, mixtral=False):
    """The three matrices of a gated feed-forward; Mixtral calls them w1, w3, w2."""
    parts = (("gate", "w1", (width, hidden)), ("up", "w3", (width, hidden)),
             ("down", "w2", (hidden, width)))
    return [Tensor(hf.format(w if mixtral else name), gguf.format(name), shape, expert)
            for name, w, shape in parts]


def weights(table, seed):
    """Random weights by Hugging Face name, from numpy's generator, so the same on any machine.

    The scales keep activations near 1 and logits near 3, let the router decide clearly, and leave
    no norm at 1 and no bias at 0.
    """
    out = {}
    for i, t in enumerate(table):
        x = np.random.default_rng([seed, i]).standard_normal(t.shape)
        if t.hf.endswith("norm.weight"):
            x = 1 + 0.3 * x
        elif t.hf.endswith("bias"):
            x = 0.3 * x
        elif "embed_tokens" in t.hf:
            x = 0.5 * x
        elif t.hf.endswith(".gate.weight") or t.hf.endswith("lm_head.weight"):
            x = 3 * x / math.sqrt(t.shape[1])
        else:
            x = 1.5 * x / math.sqrt(t.shape[1])
        out[t.hf] = x.astype(np.float32)
    return out


def to_interleaved(x, heads):
    """Reorders the rows of a q or k projection as the `llama` architecture of GGUF wants them.

    Hugging Face pairs row i with row i + dim/2 of a head in RoPE; this architecture pairs rows 2i
    and 2i + 1.
    """
    half = x.shape[0] // heads // 2
    return x.reshape(heads, 2, half, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def gguf_tensors(table, by_hf):
    """The same weights by GGUF name: experts stacked, q and k reordered."""
    out, stacks = {}, {}
    for t in table:
        x = by_hf[t.hf]
        if t.heads:
            x = to_interleaved(x, t.heads)
        if t.expert >= 0:
            stacks.setdefault(t.gguf, []).append(x)
            out[t.gguf] = None  # keeps the order
        else:
            out[t.gguf] = x
    out.update({name: np.stack(parts) for name, parts in stacks.items()})
    return {name: np.ascontiguousarray(x) for name, x in out.items()}
