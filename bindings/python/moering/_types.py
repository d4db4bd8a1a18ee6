"""What programs give to engines and sessions, and get from them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TypedDict, Union

from ._library import MoeringError

Prompt = Union[str, Sequence[int]]
"""A text, or token ids."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class EngineOptions(TypedDict, total=False):
    """How a model is opened; what is left out, or None, is chosen by the library."""

    device: str  # "cpu"; "cuda", "cuda:1", "cuda:GPU-UUID"; "ref" (slow, float64)
    threads: int  # that compute; one a processor
    host_bytes_max: int  # budget for all the engine holds in RAM; 3/4 of what is available
    device_bytes_max: int  # on a device with memory of its own; 9/10 of it
    context_tokens_max: int  # longest sequence; the model's, but at most 4096
    sequences_max: int  # sessions at once; 8
    chunk_tokens_max: int  # tokens of a pass; from the budget
    sections: int  # of the ring
    prefetch: bool  # read experts ahead; where it pays
    direct_io: bool  # bypass the page cache; where the file system allows it
    exact: bool  # float32 activations with block-quantised weights; False
    cpu_experts: bool  # beside a GPU: experts in RAM on the processor where that is sooner; False
    reader: str  # "uring", "pread"
    policy: str  # of the expert cache: "reuse", "lfu", "tinylfu", "stale", "lru", "clock"
    kv_tokens_max: int  # of all sequences, whose keys and values have memory; chosen
    kv_type: str  # keys and values: "f32", or rounded "f16", "q8_0"
    verify: str  # checksums of a packed model: "always" (every read), "first", "off"
    cublaslt: str  # NVIDIA's library for large 16-bit products: "off", "faster", "always"
    io_timeout_ms: int  # a read that takes longer raises FileError; a minute
    trace: str | os.PathLike[str]  # a timeline to write, for Perfetto
    routing_trace: str | os.PathLike[str]  # which experts each token used, for moering simulate


class Sampling(TypedDict, total=False):
    """How tokens are chosen; what is left out is greedy and ends at the end-of-text token."""

    temperature: float
    top_p: float
    min_p: float
    top_k: int
    repetition_window: int
    repetition_penalty: float
    tokens_max: int
    seed: int
    stop: Sequence[str]
    logprobs: int
    ignore_end: bool


@dataclasses.dataclass(frozen=True)
class TokenProb:
    """A token, and the natural log of its probability at temperature 1."""

    id: int
    logprob: float


@dataclasses.dataclass(frozen=True)
class Token:
    """A generated token. text is empty while a character is incomplete. finish is "stop" or
    "length" on the last token, and "" before. logprob and alternatives are there if logprobs was
    asked for."""

    id: int
    text: str
    finish: str = ""
    logprob: float | None = None
    alternatives: tuple[TokenProb, ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model is. Sizes in bytes."""

    format: str
    family: str
    types: str
    layers: int
    dim: int
    vocabulary: int
    context_tokens: int
    experts: int
    experts_used: int
    chat_template: bool
    weight_bytes: int
    expert_bytes: int
    expert_groups: int
    group_bytes_max: int
    checksums: bool  # the file carries them: see verify


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a memory budget is split: that of the memory that is computed in, and beside it the
    host's, on a device with memory of its own; elsewhere what is named host_ is 0. least_bytes is
    the smallest budget that works. Where dense_sections is less than dense_layers, dense weights
    stream."""

    device: str
    resident: bool
    budget_bytes: int
    least_bytes: int
    stay_bytes: int
    dense_bytes: int
    kv_bytes: int
    work_bytes: int
    reserve_bytes: int
    ring_bytes: int
    cache_bytes: int
    host_budget_bytes: int
    host_least_bytes: int
    host_cache_bytes: int
    kv_tokens: int
    sections: int
    cache_slots: int
    groups: int
    chunk_tokens: int
    dense_sections: int
    dense_layers: int
    host_cache_slots: int
    host_dense_sections: int
    cycle_groups: int  # that one token uses on its way through the layers
    cpu_experts: bool
    kv_type: str


@dataclasses.dataclass(frozen=True)
class Stats:
    """Counters since the engine was opened; bytes and nanoseconds where the name says so."""

    sessions: int  # open now
    passes: int
    prefill_tokens: int
    decode_tokens: int
    bytes_read: int  # experts, from disk
    dense_bytes_read: int  # dense weights, where they stream
    reads: int
    hits: int  # experts found in memory when asked for
    late: int  # found on their way
    misses: int
    prefetched: int
    prefetch_useful: int  # of prefetched, asked for while still there
    host_hits: int  # in host memory, of what a device's own memory misses
    host_late: int
    host_misses: int
    read_busy_ns: int
    wait_ns: int  # computing stood still for weights
    busy_ns: int
    memory_peak_bytes: int
    guessed: int  # experts thought worth reading ahead, read or not
    guesses_came: int  # of guessed, used: precision
    guesses_wanted: int  # used where there was a guess; guesses_came of them: recall
    all_bytes_read: int  # from disk, with what surrounds the weights
    cpu_experts: int  # computed on the processor beside a device
    probe_bytes_per_s: int  # what the disks gave when they were probed; 0: they were not


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one prompt of a batch. text and tokens are what there was before an error."""

    index: int
    text: str
    tokens: tuple[int, ...]
    finish: str
    prompt_tokens: int
    error: MoeringError | None = None
