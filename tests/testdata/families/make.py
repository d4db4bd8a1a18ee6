"""Writes the oracle checkpoints: NAME/hf, NAME/model.gguf, NAME/golden.json for every variant.

    python make.py [NAME ...]

requirements: torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 gguf==0.19.0 numpy==2.4.6

README.md beside this file says what the files hold and why. The weights depend on the seed alone;
the seeds are tried from 0 until every choice (expert, greedy token) is clear of its runner-up.
"""

import json
import math
import pathlib
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

import layout
import oracle
import specs

ROUTER_MARGIN_MIN = 1e-3  # relative distance of neighbouring router scores, down to rank k+1
LOGIT_GAP_MIN = 1e-2  # absolute distance of the two highest logits; logits have a deviation near 3
SEEDS_MAX = 200
HERE = pathlib.Path(__file__).parent


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_hf(variant, folder, by_hf):
    """A directory as published: config, generation config, one safetensors file or an index."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", variant.config)
    write_json(folder / "generation_config.json",
               {"_from_model_config": True, **variant.generation,
                "transformers_version": variant.config["transformers_version"]})
    names, meta = list(by_hf), {"format": "pt"}
    if variant.shards == 1:
        save_file(by_hf, folder / "model.safetensors", metadata=meta)
        return
    where, count = {}, variant.shards
    for i in range(count):
        part = names[i * len(names) // count:(i + 1) * len(names) // count]
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        save_file({n: by_hf[n] for n in part}, folder / file, metadata=meta)
        where.update({n: file for n in part})
    total = sum(x.nbytes for x in by_hf.values())
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


def rope_fields(config):
    """(theta, scaling) of either spelling."""
    if "rope_parameters" in config:
        return config["rope_parameters"]["rope_theta"], config["rope_parameters"]
    return config["rope_theta"], config.get("rope_scaling") or {}


def llama3_factors(theta, scaling, dim):
    """The divisors of the RoPE frequencies that GGUF carries as the tensor rope_freqs.weight."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    out = []
    for i in range(0, dim, 2):
        turns = context / (2 * math.pi * theta ** (i / dim))  # in the original context
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def add_metadata(w, variant):
    c, dim = variant.config, layout.head_dim(variant.config)
    theta, scaling = rope_fields(c)
    w.add_type("model")
    w.add_name(variant.name)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(theta)
    w.add_vocab_size(c["vocab_size"])
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    if "head_dim" in c:
        w.add_key_length(dim)
        w.add_value_length(dim)
    if variant.arch == "llama":
        w.add_rope_dimension_count(dim)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(kind))
        w.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if experts := c.get("num_local_experts") or c.get("num_experts"):
        w.add_expert_count(experts)
        w.add_expert_used_count(c["num_experts_per_tok"])
    if width := c.get("moe_intermediate_size"):
        w.add_expert_feed_forward_length(width)
    if width := c.get("shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(width)
    for key, value in variant.extra.items():
        w.add_uint32(f"{variant.arch}.{key}", value)
    w.add_tokenizer_model("none")
    return kind, theta, scaling, dim


def write_gguf(variant, path, table, by_hf):
    w = gguf.GGUFWriter(path, variant.arch)
    kind, theta, scaling, dim = add_metadata(w, variant)
    if kind == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(theta, scaling, dim))
    for name, x in layout.gguf_tensors(table, by_hf).items():
        w.add_tensor(name, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def attempt(variant, table, folder, seed):
    """Writes the checkpoint for one seed; returns the golden, or why the seed will not do."""
    by_hf = layout.weights(table, seed)
    shutil.rmtree(folder, ignore_errors=True)
    write_hf(variant, folder / "hf", by_hf)
    model = oracle.load(folder / "hf", by_hf)
    rng = np.random.default_rng([seed, 1 << 20])
    prompt = [int(i) for i in rng.integers(3, 248, specs.PROMPT_TOKENS)]
    tokens, gap = oracle.greedy(model, prompt, specs.GREEDY_TOKENS)
    if gap < LOGIT_GAP_MIN:
        return None, f"logit gap {gap:.1e}"
    ids = prompt + tokens[:-1]
    logits, hidden, routers = oracle.forward(model, ids)
    margin = oracle.router_margin(routers)
    if margin < ROUTER_MARGIN_MIN:
        return None, f"router margin {margin:.1e}"
    model.config.save_pretrained(folder)
    (folder / "config.json").rename(folder / "config.v5.json")
    exact, exact_routers = oracle.float64_logits(model, ids)
    for got, want in zip(routers, exact_routers):
        assert torch.equal(got[2], want[2]), "float64 routes differently"
    assert torch.equal(exact.argmax(-1)[len(prompt) - 1:], torch.tensor(tokens))
    write_gguf(variant, folder / "model.gguf", table, by_hf)
    n = len(prompt)
    return {
        "name": variant.name, "note": variant.note, "seed": seed,
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "prompt": prompt, "greedy": tokens,
        "logits_shape": [n, specs.VOCAB], "logits": oracle.b64(logits[:n]),
        "logits_end": oracle.b64(logits[-1]),
        "hidden_mean": oracle.b64(hidden[:n].mean(0)), "hidden_last": oracle.b64(hidden[n - 1]),
        "router": [{"experts": r[2].tolist(),
                    "weights": [[float(f"{x:.7g}") for x in row] for row in r[1].tolist()]}
                   for r in routers],
        "float32_error": oracle.relative(logits, exact),
        "router_margin": margin if routers else None, "logit_gap": gap,
        "logit_deviation": float(logits.std()),
    }, ""


def dump(golden):
    """JSON with one line for each field, and one for each router layer."""
    lines = []
    for key, value in golden.items():
        if key == "router" and value:
            rows = ",\n  ".join(json.dumps(v, separators=(",", ":")) for v in value)
            lines.append(f' "router": [\n  {rows}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def make(variant):
    table = layout.tensors(variant.config, variant.arch)
    folder = HERE / variant.name
    for seed in range(SEEDS_MAX):
        golden, why = attempt(variant, table, folder, seed)
        if golden:
            break
        print(f"{variant.name}: seed {seed}: {why}", file=sys.stderr)
    else:
        sys.exit(f"{variant.name}: no seed below {SEEDS_MAX} will do")
    (folder / "golden.json").write_text(dump(golden))
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{variant.name:14s} seed {golden['seed']:3d} {size:8d} bytes "
          f"float32 error {golden['float32_error']:.1e} gap {golden['logit_gap']:.1e} "
          f"margin {golden['router_margin'] or 0:.1e} deviation {golden['logit_deviation']:.2f}")


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = sys.argv[1:] or [v.name for v in specs.VARIANTS]
    for variant in specs.VARIANTS:
        if variant.name in wanted:
            make(variant)


if __name__ == "__main__":
    main()
