"""Between Python's values and the structs of C."""

from __future__ import annotations

import array
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes import c_char_p, c_int32
from typing import Any, TypeVar, cast

from . import _capi
from ._library import text
from ._types import EngineOptions, Sampling

T = TypeVar("T")
Put = Callable[[Any, str, Any], None]


def copied(kind: type[T], struct: Any) -> T:
    """Copies a C struct into a dataclass with the same names."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, kind)):
        value = getattr(struct, field.name)
        if isinstance(value, bytes):
            value = text(value)
        values[field.name] = bool(value) if field.type in (bool, "bool") else value
    return kind(**values)


def numpy_module() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise ImportError("logits and embeddings are NumPy arrays: pip install numpy") from error
    return numpy


def filled(kind: Any, options: Mapping[str, Any], known: Any, owner: str, put: Put) -> Any:
    """The options struct with what is given; put sets a field. None leaves the default."""
    out = _capi.versioned(kind)
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"there is no option {name!r} of {owner}")
        if value is not None:
            put(out, name, value)
    return out


def engine_options(options: Mapping[str, Any]) -> Any:
    def put(out: Any, name: str, value: Any) -> None:
        if name in ("trace", "routing_trace"):
            value = c_path(value)
        elif isinstance(value, str):
            value = c_string(value, name)
        elif name in ("prefetch", "direct_io"):
            value = _capi.MR_ON if value else _capi.MR_OFF
        set_number(out, name, value)

    known = EngineOptions.__annotations__
    return filled(_capi.mr_engine_options, options, known, "an engine", put)


def session_options(options: Mapping[str, Any]) -> Any:
    def put(out: Any, name: str, value: Any) -> None:
        if name == "stop":
            out.stop, out.stop_count = c_strings(value, name)
        else:
            set_number(out, name, value)

    known = Sampling.__annotations__
    return filled(_capi.mr_session_options, options, known, "a generation", put)


def set_number(struct: Any, name: str, value: Any) -> None:
    """Sets a number, and refuses one that the field would cut."""
    setattr(struct, name, value)
    kept = getattr(struct, name)
    if isinstance(value, int) and int(kept) != int(value):
        raise OverflowError(f"{name} = {value} is out of range")


def c_string(value: str, what: str) -> bytes:
    """A text for C, which would end at a NUL."""
    data = value.encode()
    if b"\0" in data:
        raise ValueError(f"{what} {value!r} has a NUL in it")
    return data


def c_strings(value: str | Iterable[str], what: str) -> tuple[Any, int]:
    """An array of C strings, of one or of several, and its length."""
    texts = [value] if isinstance(value, str) else list(value)
    return (c_char_p * len(texts))(*(c_string(s, what) for s in texts)), len(texts)


def c_path(path: str | os.PathLike[str]) -> bytes:
    data = os.fsencode(path)
    if b"\0" in data:
        raise ValueError(f"the path {data!r} has a NUL in it")
    return data


def c_ids(tokens: Sequence[int]) -> Any:
    """Token ids for C. A number that is none of 32 bits is an OverflowError."""
    if isinstance(tokens, (bytes, bytearray, memoryview)):
        raise TypeError("a prompt is a str or token ids, and not bytes")
    data = array.array("i", tokens)
    return (c_int32 * len(data)).from_buffer(data)


FINISH = {
    _capi.MR_FINISH_NONE: "",
    _capi.MR_FINISH_STOP: "stop",
    _capi.MR_FINISH_LENGTH: "length",
}
