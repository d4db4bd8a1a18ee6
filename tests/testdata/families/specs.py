"""The variants: for each one the config.json that a published model of its family has, made small.

Field names, and which fields are there at all, follow the published files. Those of `v5` variants
follow what transformers 5 writes instead (rope_parameters, dtype). What matters to the result is
set to values that change it: a head size that is not hidden/heads, a window shorter than the
prompt, a short original context, an epsilon that can be felt (published ones cannot, here).
"""

from dataclasses import dataclass, field

VOCAB = 256
PROMPT_TOKENS = 40
GREEDY_TOKENS = 64


@dataclass
class Variant:
    name: str
    arch: str  # GGUF's general.architecture
    config: dict
    generation: dict
    shards: int = 1
    note: str = ""
    # Metadata that the config does not decide alone: key without the architecture -> value.
    extra: dict = field(default_factory=dict)


def common(arch, model_type, **fields):
    """Fields that every family has, as published before transformers 5."""
    out = {
        "architectures": [arch], "attention_dropout": 0.0, "hidden_act": "silu",
        "initializer_range": 0.02, "model_type": model_type, "torch_dtype": "float32",
        "transformers_version": "4.51.0", "use_cache": True, "vocab_size": VOCAB,
    }
    out.update(fields)
    return dict(sorted(out.items()))


def v5(config, **rope):
    """The same config as transformers 5 spells it."""
    moved = ("rope_theta", "rope_scaling", "torch_dtype")
    out = {k: v for k, v in config.items() if k not in moved}
    out["dtype"] = config["torch_dtype"]
    out["rope_parameters"] = {"rope_theta": config["rope_theta"], "rope_type": "default", **rope}
    out["transformers_version"] = "5.0.0"
    return dict(sorted(out.items()))


def mixtral(**changes):
    fields = dict(
        bos_token_id=1, eos_token_id=2, hidden_size=64, intermediate_size=32,
        max_position_embeddings=512, num_attention_heads=4, num_experts_per_tok=2,
        num_hidden_layers=2, num_key_value_heads=2, num_local_experts=8,
        output_router_logits=False, rms_norm_eps=1e-05, rope_theta=1000000.0,
        router_aux_loss_coef=0.02, sliding_window=None, tie_word_embeddings=False)
    return common("MixtralForCausalLM", "mixtral", **{**fields, **changes})


def olmoe():
    return common(
        "OlmoeForCausalLM", "olmoe", attention_bias=False, clip_qkv=None, eos_token_id=250,
        hidden_size=64, intermediate_size=24, max_position_embeddings=512, norm_topk_prob=False,
        num_attention_heads=4, num_experts=8, num_experts_per_tok=3, num_hidden_layers=2,
        num_key_value_heads=4, output_router_logits=False, pad_token_id=1, rms_norm_eps=1e-05,
        rope_scaling=None, rope_theta=10000.0, router_aux_loss_coef=0.01,
        tie_word_embeddings=False)


def qwen2moe():
    return common(
        "Qwen2MoeForCausalLM", "qwen2_moe", bos_token_id=250, decoder_sparse_step=1,
        eos_token_id=250, hidden_size=64, intermediate_size=96, max_position_embeddings=512,
        max_window_layers=1, mlp_only_layers=[], moe_intermediate_size=24, norm_topk_prob=False,
        num_attention_heads=4, num_experts=8, num_experts_per_tok=4, num_hidden_layers=2,
        num_key_value_heads=2, output_router_logits=False, rms_norm_eps=1e-06,
        rope_theta=1000000.0, router_aux_loss_coef=0.001, shared_expert_intermediate_size=48,
        sliding_window=16, tie_word_embeddings=False, use_sliding_window=False)


def qwen3moe(**changes):
    fields = dict(
        attention_bias=False, bos_token_id=250, decoder_sparse_step=1, eos_token_id=251,
        head_dim=24, hidden_size=64, intermediate_size=96, max_position_embeddings=512,
        max_window_layers=3, mlp_only_layers=[], moe_intermediate_size=16, norm_topk_prob=True,
        num_attention_heads=4, num_experts=8, num_experts_per_tok=2, num_hidden_layers=3,
        num_key_value_heads=2, output_router_logits=False, rms_norm_eps=1e-06,
        rope_scaling=None, rope_theta=1000000.0, router_aux_loss_coef=0.001,
        sliding_window=None, tie_word_embeddings=False, use_sliding_window=False)
    return common("Qwen3MoeForCausalLM", "qwen3_moe", **{**fields, **changes})


def llama(**changes):
    fields = dict(
        attention_bias=False, bos_token_id=250, eos_token_id=251, head_dim=16, hidden_size=64,
        intermediate_size=96, max_position_embeddings=512, mlp_bias=False,
        num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, pretraining_tp=1,
        rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False)
    return common("LlamaForCausalLM", "llama", **{**fields, **changes})


def qwen3():
    return common(
        "Qwen3ForCausalLM", "qwen3", attention_bias=False, bos_token_id=250, eos_token_id=251,
        head_dim=32, hidden_size=64, intermediate_size=96, max_position_embeddings=512,
        max_window_layers=2, num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2,
        rms_norm_eps=EPSILON, rope_scaling=None, rope_theta=1000000.0, sliding_window=None,
        tie_word_embeddings=True, use_sliding_window=False)


LLAMA3 = {
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64, "rope_type": "llama3",
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 512, "rope_type": "yarn"}
EPSILON = 1e-3
CHAT = {"do_sample": True, "eos_token_id": [251, 250], "pad_token_id": 250,
        "temperature": 0.6, "top_k": 20, "top_p": 0.95}

VARIANTS = [
    Variant("mixtral", "llama", mixtral(), {"bos_token_id": 1, "eos_token_id": 2}, shards=2,
            note="two shards"),
    Variant("mixtral-swa", "llama", v5(mixtral(hidden_size=32, rms_norm_eps=EPSILON,
                                            sliding_window=16)),
            {"bos_token_id": 1, "eos_token_id": 2}, note="window 16; transformers 5 config",
            extra={"attention.sliding_window": 16}),
    Variant("olmoe", "olmoe", olmoe(), {"eos_token_id": 250, "pad_token_id": 1}),
    Variant("qwen2moe", "qwen2moe", qwen2moe(), {"bos_token_id": 250, "eos_token_id": 250}),
    Variant("qwen3moe", "qwen3moe", qwen3moe(), CHAT, shards=3, note="three shards"),
    Variant("qwen3moe-yarn", "qwen3moe",
            qwen3moe(hidden_size=32, head_dim=32, num_hidden_layers=2, max_window_layers=2,
                     rms_norm_eps=EPSILON, rope_theta=10000.0, rope_scaling=YARN,
                     max_position_embeddings=2048), CHAT),
    Variant("llama", "llama",
            llama(rope_scaling=LLAMA3, tie_word_embeddings=True),
            {"bos_token_id": 250, "do_sample": True, "eos_token_id": 251, "temperature": 0.6,
             "top_p": 0.9}, note="llama3 RoPE, tied"),
    Variant("llama-linear", "llama",
            llama(rope_scaling={"type": "linear", "factor": 4.0}, attention_bias=True,
                  rms_norm_eps=EPSILON),
            {"bos_token_id": 250, "eos_token_id": 251}, note="biases in attention, untied"),
    Variant("qwen3", "qwen3", v5(qwen3()), CHAT, note="tied; transformers 5 config"),
]
