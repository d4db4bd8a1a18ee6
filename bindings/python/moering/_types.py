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
    half_activations: bool  # on a GPU: bfloat16 activations with F16 and BF16 weights; False
    reader: str  # "uring", "pread"
    policy: str  # of the expert cache: "reuse", "lfu", "tinylfu", "stale", "lru", "clock"
    kv_tokens_max: int  # of all sequences, whose keys and values have memory; chosen
    kv_type: str  # keys and values: "f32", or rounded "f16", "q8_0"
    verify: str  # checksums of a packed model: "always" (every read), "first", "off"
    cublaslt: str  # NVIDIA's library for large 16-bit products: "off", "faster", "always"
    io_timeout_ms: int  # a read that takes longer raises FileError; a minute
    trace: str | os.PathLike[str]  # a timeline to write, for Perfetto
    routing_trace: str | os.PathLike[str]  # which experts each token used, for moering simulate


class JobOptions(TypedDict, total=False):
    """How batch_file() reads, answers and writes; what is left out has the default that is named."""

    tokens_max: int  # of requests that state no limit; 256
    errors: str | os.PathLike[str]  # what is refused; beside the output, .errors.jsonl
    journal: str | os.PathLike[str]  # what is finished; the output's name with .journal
    follow: str | os.PathLike[str]  # also gets answers as they finish; none
    ordered: bool  # follow is in the order of the input; False
    overwrite: bool  # begin a job although its output is there; False
    format: str  # of the input: "jsonl", "text" (a prompt a line); by the first line
    chat: bool  # a line of text is a user's message; False: the beginning of a text
    greedy: bool  # temperature 0 for requests that state none; False: OpenAI's 1
    seed: int  # mixed into the seeds that requests get by their custom_id; 0
    model_names: Sequence[str]  # more names that requests may give for the model; "*": any
    created_s: int  # since 1970, that answers give; when the input last changed
    sync_ms: int  # the journal is synced to the disk so often; 1000
    spill_bytes_max: int  # file for keys and values of requests that give their place; 0
    spill_host_bytes_max: int  # the same in host memory, beside a device's; 0
    spill_dir: str | os.PathLike[str]  # where that file is made; where the journal is
    report: str | os.PathLike[str]  # a page about the run; none


class BatchFileOptions(EngineOptions, JobOptions, total=False):
    """What batch_file() can be told about the job, and about the engine that it opens."""


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


@dataclasses.dataclass(frozen=True)
class JobProgress:
    """How far a job is, between two passes. Bytes, nanoseconds and tokens a second where the name says
    so; shares are 0 to 1."""

    requests: int
    finished: int  # answered or refused, by this run or an earlier one
    refused: int  # of finished
    resumed: int  # of finished, by earlier runs
    sequences: int  # in flight
    tokens_in_flight: int  # in the KV cache
    prompt_tokens: int  # computed by this run, as the next two
    new_tokens: int
    shared_tokens: int  # of prompts, not computed again
    elapsed_ns: int
    left_ns: int  # estimated; 0 while nothing is known
    memory_bytes: int  # resident set of the process
    budget_bytes: int
    preempted: int  # times that a sequence gave its memory to others
    moved_bytes: int  # of such sequences, out of the KV cache and in again
    prefill_tokens_per_s: float  # lately, as decode
    decode_tokens_per_s: float
    wait_share: float  # of the time of passes, waiting for weights
    hit_rate: float  # of experts asked for, found in memory


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a job has come to. errors is "" if nothing was refused. Tokens, bytes and nanoseconds are
    this run's."""

    complete: bool  # every request is finished; output and errors are in place
    requests: int
    finished: int  # answered or refused, by this run or an earlier one
    refused: int  # of finished
    resumed: int  # of finished, by earlier runs
    prompt_tokens: int
    new_tokens: int
    shared_tokens: int  # of prompts, not computed again
    preempted: int  # times that a sequence gave its memory to others
    moved_bytes: int  # of such sequences, out of the KV cache and in again
    recomputed_tokens: int  # of such sequences; not in prompt_tokens
    elapsed_ns: int
    output: str
    errors: str
    journal: str
