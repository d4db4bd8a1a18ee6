"""Runs language models that do not fit in memory: expert weights stream from disk.

    import moering

    with moering.Engine("mr:tiny") as engine:
        for token in engine.generate("package main", tokens_max=64):
            print(token.text, end="")

"mr:tiny" is a small model that is part of the package. The shared library is loaded, and its
threads start, with the first Engine or Engine.plan: import and then fork is fine, but after a fork
from a process that has used it every call raises ForkError. Use the start method "spawn" or
"forkserver".
"""

from ._engine import Batch, Engine, Session
from ._job import batch_file
from ._library import (
    BudgetError,
    BusyError,
    Canceled,
    ClosedError,
    DeviceError,
    FileError,
    ForkError,
    FormatError,
    InternalError,
    InvalidArgument,
    LimitError,
    MoeringError,
    Unsupported,
    build_info,
)
from ._types import (
    JobProgress,
    JobResult,
    Message,
    ModelInfo,
    Plan,
    Result,
    Stats,
    Token,
    TokenProb,
)
from ._version import __version__

__all__ = [
    "Batch",
    "BudgetError",
    "BusyError",
    "Canceled",
    "ClosedError",
    "DeviceError",
    "Engine",
    "FileError",
    "ForkError",
    "FormatError",
    "InternalError",
    "InvalidArgument",
    "JobProgress",
    "JobResult",
    "LimitError",
    "Message",
    "ModelInfo",
    "MoeringError",
    "Plan",
    "Result",
    "Session",
    "Stats",
    "Token",
    "TokenProb",
    "Unsupported",
    "__version__",
    "batch_file",
    "build_info",
]
