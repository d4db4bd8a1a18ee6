"""The functions and structs of moering.h. Written by generate.py: do not edit."""

from __future__ import annotations

from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from typing import Any, ClassVar

API_VERSION = (0, 1)

MR_OK = 0
MR_END = 1
MR_AGAIN = 2
MR_EINVAL = -1
MR_ENOMEM = -2
MR_EIO = -3
MR_EFORMAT = -4
MR_EDEVICE = -5
MR_ECANCELED = -6
MR_ELIMIT = -7
MR_EUNSUPPORTED = -8
MR_EINTERNAL = -9
MR_EBUSY = -10
MR_ECLOSED = -11
MR_EFORK = -12

MR_LOG_DEBUG = -4
MR_LOG_INFO = 0
MR_LOG_WARN = 4
MR_LOG_ERROR = 8

MR_AUTO = 0
MR_ON = 1
MR_OFF = 2

MR_ENCODE_ADD_SPECIAL = 1
MR_ENCODE_PARSE_SPECIAL = 2
MR_DECODE_SKIP_SPECIAL = 1

MR_TOKEN_SPECIAL = 1
MR_TOKEN_END = 2

MR_POOL_MEAN = 0
MR_POOL_LAST = 1

MR_FINISH_NONE = 0
MR_FINISH_STOP = 1
MR_FINISH_LENGTH = 2


mr_log_fn = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)

mr_poll_fn = CFUNCTYPE(c_int32, c_void_p, c_uint64, c_uint64)

mr_write_fn = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_size_t)

mr_read_fn = CFUNCTYPE(c_int64, c_void_p, c_void_p, c_size_t)

class mr_error(Structure):
    struct_size: int
    status: int
    message: bytes | None
    file: bytes | None
    tensor: bytes | None
    offset: int
    line: int
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("status", c_int32),
        ("message", c_char_p),
        ("file", c_char_p),
        ("tensor", c_char_p),
        ("offset", c_int64),
        ("line", c_int64),
    ]


class mr_engine_options(Structure):
    struct_size: int
    threads: int
    host_bytes_max: int
    device_bytes_max: int
    device: bytes | None
    context_tokens_max: int
    sequences_max: int
    chunk_tokens_max: int
    sections: int
    prefetch: int
    direct_io: int
    exact: int
    log_level: int
    cpu_experts: int
    half_activations: int
    reader: bytes | None
    policy: bytes | None
    kv_tokens_max: int
    kv_type: bytes | None
    verify: bytes | None
    cublaslt: bytes | None
    io_timeout_ms: int
    trace: bytes | None
    routing_trace: bytes | None
    log: Any
    log_user: int | None
    poll: Any
    poll_user: int | None
    open_cancel: Any
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("threads", c_int32),
        ("host_bytes_max", c_uint64),
        ("device_bytes_max", c_uint64),
        ("device", c_char_p),
        ("context_tokens_max", c_uint32),
        ("sequences_max", c_uint32),
        ("chunk_tokens_max", c_uint32),
        ("sections", c_uint32),
        ("prefetch", c_int32),
        ("direct_io", c_int32),
        ("exact", c_int32),
        ("log_level", c_int32),
        ("cpu_experts", c_int32),
        ("half_activations", c_int32),
        ("reader", c_char_p),
        ("policy", c_char_p),
        ("kv_tokens_max", c_uint64),
        ("kv_type", c_char_p),
        ("verify", c_char_p),
        ("cublaslt", c_char_p),
        ("io_timeout_ms", c_uint64),
        ("trace", c_char_p),
        ("routing_trace", c_char_p),
        ("log", mr_log_fn),
        ("log_user", c_void_p),
        ("poll", mr_poll_fn),
        ("poll_user", c_void_p),
        ("open_cancel", POINTER(c_int32)),
    ]


class mr_model_info(Structure):
    struct_size: int
    layers: int
    dim: int
    vocabulary: int
    context_tokens: int
    experts: int
    experts_used: int
    chat_template: int
    weight_bytes: int
    expert_bytes: int
    expert_groups: int
    group_bytes_max: int
    checksums: int
    format: bytes
    family: bytes
    types: bytes
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("layers", c_uint32),
        ("dim", c_uint32),
        ("vocabulary", c_uint32),
        ("context_tokens", c_uint32),
        ("experts", c_uint32),
        ("experts_used", c_uint32),
        ("chat_template", c_int32),
        ("weight_bytes", c_uint64),
        ("expert_bytes", c_uint64),
        ("expert_groups", c_uint64),
        ("group_bytes_max", c_uint64),
        ("checksums", c_int32),
        ("format", c_char * 12),
        ("family", c_char * 32),
        ("types", c_char * 128),
    ]


class mr_plan(Structure):
    struct_size: int
    resident: int
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
    cycle_groups: int
    cpu_experts: int
    kv_type: bytes
    device: bytes
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("resident", c_int32),
        ("budget_bytes", c_uint64),
        ("least_bytes", c_uint64),
        ("stay_bytes", c_uint64),
        ("dense_bytes", c_uint64),
        ("kv_bytes", c_uint64),
        ("work_bytes", c_uint64),
        ("reserve_bytes", c_uint64),
        ("ring_bytes", c_uint64),
        ("cache_bytes", c_uint64),
        ("host_budget_bytes", c_uint64),
        ("host_least_bytes", c_uint64),
        ("host_cache_bytes", c_uint64),
        ("kv_tokens", c_uint32),
        ("sections", c_uint32),
        ("cache_slots", c_uint32),
        ("groups", c_uint32),
        ("chunk_tokens", c_uint32),
        ("dense_sections", c_uint32),
        ("dense_layers", c_uint32),
        ("host_cache_slots", c_uint32),
        ("host_dense_sections", c_uint32),
        ("cycle_groups", c_uint32),
        ("cpu_experts", c_int32),
        ("kv_type", c_char * 12),
        ("device", c_char * 64),
    ]


class mr_stats(Structure):
    struct_size: int
    sessions: int
    passes: int
    prefill_tokens: int
    decode_tokens: int
    bytes_read: int
    dense_bytes_read: int
    reads: int
    hits: int
    late: int
    misses: int
    prefetched: int
    prefetch_useful: int
    host_hits: int
    host_late: int
    host_misses: int
    read_busy_ns: int
    wait_ns: int
    busy_ns: int
    memory_peak_bytes: int
    guessed: int
    guesses_came: int
    guesses_wanted: int
    all_bytes_read: int
    cpu_experts: int
    probe_bytes_per_s: int
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("sessions", c_uint32),
        ("passes", c_uint64),
        ("prefill_tokens", c_uint64),
        ("decode_tokens", c_uint64),
        ("bytes_read", c_uint64),
        ("dense_bytes_read", c_uint64),
        ("reads", c_uint64),
        ("hits", c_uint64),
        ("late", c_uint64),
        ("misses", c_uint64),
        ("prefetched", c_uint64),
        ("prefetch_useful", c_uint64),
        ("host_hits", c_uint64),
        ("host_late", c_uint64),
        ("host_misses", c_uint64),
        ("read_busy_ns", c_uint64),
        ("wait_ns", c_uint64),
        ("busy_ns", c_uint64),
        ("memory_peak_bytes", c_uint64),
        ("guessed", c_uint64),
        ("guesses_came", c_uint64),
        ("guesses_wanted", c_uint64),
        ("all_bytes_read", c_uint64),
        ("cpu_experts", c_uint64),
        ("probe_bytes_per_s", c_uint64),
    ]


class mr_message(Structure):
    role: bytes | None
    content: bytes | None
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("role", c_char_p),
        ("content", c_char_p),
    ]


class mr_session_options(Structure):
    struct_size: int
    temperature: float
    top_p: float
    min_p: float
    top_k: int
    repetition_window: int
    repetition_penalty: float
    tokens_max: int
    seed: int
    stop: Any
    stop_count: int
    logprobs: int
    ignore_end: int
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("top_k", c_int32),
        ("repetition_window", c_int32),
        ("repetition_penalty", c_float),
        ("tokens_max", c_uint32),
        ("seed", c_uint64),
        ("stop", POINTER(c_char_p)),
        ("stop_count", c_size_t),
        ("logprobs", c_int32),
        ("ignore_end", c_int32),
    ]


class mr_token_prob(Structure):
    id: int
    logprob: float
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("id", c_int32),
        ("logprob", c_float),
    ]


class mr_token(Structure):
    struct_size: int
    id: int
    text: int | None
    text_size: int
    alternatives: Any
    alternatives_count: int
    logprob: float
    finish: int
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("id", c_int32),
        ("text", c_void_p),
        ("text_size", c_size_t),
        ("alternatives", POINTER(mr_token_prob)),
        ("alternatives_count", c_size_t),
        ("logprob", c_float),
        ("finish", c_int32),
    ]


class mr_result(Structure):
    struct_size: int
    status: int
    id: int
    text: int | None
    text_size: int
    tokens: Any
    tokens_count: int
    error: bytes | None
    prompt_tokens: int
    finish: int
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("status", c_int32),
        ("id", c_uint64),
        ("text", c_void_p),
        ("text_size", c_size_t),
        ("tokens", POINTER(c_int32)),
        ("tokens_count", c_size_t),
        ("error", c_char_p),
        ("prompt_tokens", c_uint32),
        ("finish", c_int32),
    ]


class mr_job_progress(Structure):
    struct_size: int
    sequences: int
    requests: int
    finished: int
    refused: int
    resumed: int
    prompt_tokens: int
    new_tokens: int
    shared_tokens: int
    tokens_in_flight: int
    elapsed_ns: int
    left_ns: int
    memory_bytes: int
    budget_bytes: int
    preempted: int
    moved_bytes: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    wait_share: float
    hit_rate: float
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("sequences", c_uint32),
        ("requests", c_uint64),
        ("finished", c_uint64),
        ("refused", c_uint64),
        ("resumed", c_uint64),
        ("prompt_tokens", c_uint64),
        ("new_tokens", c_uint64),
        ("shared_tokens", c_uint64),
        ("tokens_in_flight", c_uint64),
        ("elapsed_ns", c_uint64),
        ("left_ns", c_uint64),
        ("memory_bytes", c_uint64),
        ("budget_bytes", c_uint64),
        ("preempted", c_uint64),
        ("moved_bytes", c_uint64),
        ("prefill_tokens_per_s", c_float),
        ("decode_tokens_per_s", c_float),
        ("wait_share", c_float),
        ("hit_rate", c_float),
    ]


class mr_job_result(Structure):
    struct_size: int
    complete: int
    requests: int
    finished: int
    refused: int
    resumed: int
    prompt_tokens: int
    new_tokens: int
    shared_tokens: int
    preempted: int
    moved_bytes: int
    recomputed_tokens: int
    elapsed_ns: int
    output: bytes | None
    errors: bytes | None
    journal: bytes | None
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("complete", c_int32),
        ("requests", c_uint64),
        ("finished", c_uint64),
        ("refused", c_uint64),
        ("resumed", c_uint64),
        ("prompt_tokens", c_uint64),
        ("new_tokens", c_uint64),
        ("shared_tokens", c_uint64),
        ("preempted", c_uint64),
        ("moved_bytes", c_uint64),
        ("recomputed_tokens", c_uint64),
        ("elapsed_ns", c_uint64),
        ("output", c_char_p),
        ("errors", c_char_p),
        ("journal", c_char_p),
    ]


mr_result_fn = CFUNCTYPE(c_int32, c_void_p, POINTER(mr_result), c_size_t, c_size_t)

mr_job_fn = CFUNCTYPE(c_int32, c_void_p, POINTER(mr_job_progress))

class mr_job_options(Structure):
    struct_size: int
    tokens_max: int
    input: bytes | None
    output: bytes | None
    errors: bytes | None
    journal: bytes | None
    follow: bytes | None
    format: bytes | None
    report: bytes | None
    model_names: Any
    model_names_count: int
    seed: int
    created_s: int
    sync_ms: int
    spill_bytes_max: int
    spill_host_bytes_max: int
    spill_dir: bytes | None
    ordered: int
    overwrite: int
    greedy: int
    chat: int
    progress: Any
    user: int | None
    cancel: Any
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("struct_size", c_uint32),
        ("tokens_max", c_uint32),
        ("input", c_char_p),
        ("output", c_char_p),
        ("errors", c_char_p),
        ("journal", c_char_p),
        ("follow", c_char_p),
        ("format", c_char_p),
        ("report", c_char_p),
        ("model_names", POINTER(c_char_p)),
        ("model_names_count", c_size_t),
        ("seed", c_uint64),
        ("created_s", c_int64),
        ("sync_ms", c_uint64),
        ("spill_bytes_max", c_uint64),
        ("spill_host_bytes_max", c_uint64),
        ("spill_dir", c_char_p),
        ("ordered", c_int32),
        ("overwrite", c_int32),
        ("greedy", c_int32),
        ("chat", c_int32),
        ("progress", mr_job_fn),
        ("user", c_void_p),
        ("cancel", POINTER(c_int32)),
    ]


def versioned(kind: type[Any]) -> Any:
    """A struct with struct_size set, as MR_..._INIT makes it in C."""
    value = kind()
    value.struct_size = sizeof(kind)
    return value


def bind(library: CDLL) -> None:
    """Declares all functions, so that wrong arguments are errors and not crashes."""
    library.mr_api_version.restype = c_uint32
    library.mr_api_version.argtypes = []
    library.mr_build_info.restype = c_char_p
    library.mr_build_info.argtypes = []
    library.mr_status_name.restype = c_char_p
    library.mr_status_name.argtypes = [c_int32]
    library.mr_last_error.restype = c_char_p
    library.mr_last_error.argtypes = []
    library.mr_last_error_detail.restype = c_int32
    library.mr_last_error_detail.argtypes = [POINTER(mr_error)]
    library.mr_engine_open.restype = c_int32
    library.mr_engine_open.argtypes = [POINTER(c_void_p), c_char_p, POINTER(mr_engine_options)]
    library.mr_engine_close.restype = None
    library.mr_engine_close.argtypes = [c_void_p]
    library.mr_engine_cancel.restype = None
    library.mr_engine_cancel.argtypes = [c_void_p]
    library.mr_plan_make.restype = c_int32
    library.mr_plan_make.argtypes = [
        c_char_p,
        POINTER(mr_engine_options),
        POINTER(mr_model_info),
        POINTER(mr_plan),
    ]
    library.mr_engine_info.restype = c_int32
    library.mr_engine_info.argtypes = [c_void_p, POINTER(mr_model_info)]
    library.mr_engine_plan.restype = c_int32
    library.mr_engine_plan.argtypes = [c_void_p, POINTER(mr_plan)]
    library.mr_engine_stats.restype = c_int32
    library.mr_engine_stats.argtypes = [c_void_p, POINTER(mr_stats)]
    library.mr_engine_encode.restype = c_int32
    library.mr_engine_encode.argtypes = [
        c_void_p,
        c_char_p,
        c_size_t,
        c_uint32,
        POINTER(c_int32),
        c_size_t,
        POINTER(c_size_t),
    ]
    library.mr_engine_decode.restype = c_int32
    library.mr_engine_decode.argtypes = [
        c_void_p,
        POINTER(c_int32),
        c_size_t,
        c_uint32,
        c_void_p,
        c_size_t,
        POINTER(c_size_t),
    ]
    library.mr_engine_token.restype = c_int32
    library.mr_engine_token.argtypes = [
        c_void_p,
        c_int32,
        c_void_p,
        c_size_t,
        POINTER(c_size_t),
        POINTER(c_uint32),
    ]
    library.mr_engine_find_token.restype = c_int32
    library.mr_engine_find_token.argtypes = [c_void_p, c_char_p, POINTER(c_int32)]
    library.mr_engine_chat_text.restype = c_int32
    library.mr_engine_chat_text.argtypes = [
        c_void_p,
        POINTER(mr_message),
        c_size_t,
        c_void_p,
        c_size_t,
        POINTER(c_size_t),
    ]
    library.mr_engine_chat_tokens.restype = c_int32
    library.mr_engine_chat_tokens.argtypes = [
        c_void_p,
        POINTER(mr_message),
        c_size_t,
        POINTER(c_int32),
        c_size_t,
        POINTER(c_size_t),
    ]
    library.mr_engine_embed.restype = c_int32
    library.mr_engine_embed.argtypes = [
        c_void_p,
        POINTER(c_int32),
        c_size_t,
        c_int32,
        POINTER(c_float),
        c_size_t,
        POINTER(c_size_t),
    ]
    library.mr_session_open.restype = c_int32
    library.mr_session_open.argtypes = [POINTER(c_void_p), c_void_p, POINTER(mr_session_options)]
    library.mr_session_close.restype = None
    library.mr_session_close.argtypes = [c_void_p]
    library.mr_session_cancel.restype = None
    library.mr_session_cancel.argtypes = [c_void_p]
    library.mr_session_configure.restype = c_int32
    library.mr_session_configure.argtypes = [c_void_p, POINTER(mr_session_options)]
    library.mr_session_feed.restype = c_int32
    library.mr_session_feed.argtypes = [c_void_p, c_char_p, c_size_t]
    library.mr_session_feed_tokens.restype = c_int32
    library.mr_session_feed_tokens.argtypes = [c_void_p, POINTER(c_int32), c_size_t]
    library.mr_session_score.restype = c_int32
    library.mr_session_score.argtypes = [c_void_p, POINTER(c_int32), c_size_t, POINTER(c_float)]
    library.mr_session_next.restype = c_int32
    library.mr_session_next.argtypes = [c_void_p, POINTER(c_void_p), POINTER(c_size_t)]
    library.mr_session_token.restype = c_int32
    library.mr_session_token.argtypes = [c_void_p, POINTER(mr_token)]
    library.mr_session_length.restype = c_int32
    library.mr_session_length.argtypes = [c_void_p, POINTER(c_size_t)]
    library.mr_session_tokens.restype = c_int32
    library.mr_session_tokens.argtypes = [c_void_p, POINTER(c_int32), c_size_t, POINTER(c_size_t)]
    library.mr_session_logits.restype = c_int32
    library.mr_session_logits.argtypes = [c_void_p, POINTER(POINTER(c_float)), POINTER(c_size_t)]
    library.mr_session_top.restype = c_int32
    library.mr_session_top.argtypes = [
        c_void_p,
        POINTER(mr_token_prob),
        c_size_t,
        POINTER(c_size_t),
    ]
    library.mr_session_truncate.restype = c_int32
    library.mr_session_truncate.argtypes = [c_void_p, c_size_t]
    library.mr_session_fork.restype = c_int32
    library.mr_session_fork.argtypes = [POINTER(c_void_p), c_void_p]
    library.mr_session_save.restype = c_int32
    library.mr_session_save.argtypes = [c_void_p, c_char_p]
    library.mr_session_save_to.restype = c_int32
    library.mr_session_save_to.argtypes = [c_void_p, mr_write_fn, c_void_p]
    library.mr_session_restore.restype = c_int32
    library.mr_session_restore.argtypes = [c_void_p, c_char_p]
    library.mr_session_restore_from.restype = c_int32
    library.mr_session_restore_from.argtypes = [c_void_p, mr_read_fn, c_void_p]
    library.mr_batch_open.restype = c_int32
    library.mr_batch_open.argtypes = [
        POINTER(c_void_p),
        c_void_p,
        POINTER(mr_session_options),
        c_uint32,
    ]
    library.mr_batch_submit.restype = c_int32
    library.mr_batch_submit.argtypes = [c_void_p, c_uint64, c_char_p, c_size_t]
    library.mr_batch_submit_tokens.restype = c_int32
    library.mr_batch_submit_tokens.argtypes = [c_void_p, c_uint64, POINTER(c_int32), c_size_t]
    library.mr_batch_next.restype = c_int32
    library.mr_batch_next.argtypes = [c_void_p, POINTER(mr_result)]
    library.mr_batch_cancel.restype = None
    library.mr_batch_cancel.argtypes = [c_void_p]
    library.mr_batch_wake.restype = None
    library.mr_batch_wake.argtypes = [c_void_p]
    library.mr_batch_close.restype = None
    library.mr_batch_close.argtypes = [c_void_p]
    library.mr_engine_batch.restype = c_int32
    library.mr_engine_batch.argtypes = [
        c_void_p,
        POINTER(mr_session_options),
        POINTER(c_char_p),
        POINTER(c_size_t),
        c_size_t,
        mr_result_fn,
        c_void_p,
    ]
    library.mr_job_run.restype = c_int32
    library.mr_job_run.argtypes = [
        c_char_p,
        POINTER(mr_engine_options),
        POINTER(mr_job_options),
        POINTER(mr_job_result),
    ]


FUNCTIONS = (
    "mr_api_version",
    "mr_build_info",
    "mr_status_name",
    "mr_last_error",
    "mr_last_error_detail",
    "mr_engine_open",
    "mr_engine_close",
    "mr_engine_cancel",
    "mr_plan_make",
    "mr_engine_info",
    "mr_engine_plan",
    "mr_engine_stats",
    "mr_engine_encode",
    "mr_engine_decode",
    "mr_engine_token",
    "mr_engine_find_token",
    "mr_engine_chat_text",
    "mr_engine_chat_tokens",
    "mr_engine_embed",
    "mr_session_open",
    "mr_session_close",
    "mr_session_cancel",
    "mr_session_configure",
    "mr_session_feed",
    "mr_session_feed_tokens",
    "mr_session_score",
    "mr_session_next",
    "mr_session_token",
    "mr_session_length",
    "mr_session_tokens",
    "mr_session_logits",
    "mr_session_top",
    "mr_session_truncate",
    "mr_session_fork",
    "mr_session_save",
    "mr_session_save_to",
    "mr_session_restore",
    "mr_session_restore_from",
    "mr_batch_open",
    "mr_batch_submit",
    "mr_batch_submit_tokens",
    "mr_batch_next",
    "mr_batch_cancel",
    "mr_batch_wake",
    "mr_batch_close",
    "mr_engine_batch",
    "mr_job_run",
)
