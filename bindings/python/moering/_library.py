"""Finds and loads the shared library, and turns its failures into exceptions."""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform
import threading
from typing import Any

from . import _capi


def check_system() -> None:
    """Refuses, with a reason, a system where the library cannot be loaded."""
    if platform.system() != "Linux":
        raise ImportError(f"moering runs on Linux, and not yet on {platform.system()}")
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        libc = ""
    if not libc.startswith("glibc"):
        raise ImportError(
            "moering needs glibc; this Python is built for another C library, probably musl "
            "(Alpine), where a library with a Go runtime cannot be loaded; use an image with "
            "glibc, such as Debian's"
        )


check_system()


class MoeringError(Exception):
    """A failure that the library reports.

    status is the number of moering.h; file, tensor, offset and line say where in the files of a model,
    or of batch_file(), the failure lies, or are "", "", -1 and 0.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        file: str = "",
        tensor: str = "",
        offset: int = -1,
        line: int = 0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.file = file
        self.tensor = tensor
        self.offset = offset
        self.line = line

    def __reduce__(self) -> tuple[Any, ...]:
        place = self.file, self.tensor, self.offset, self.line
        return type(self), (str(self), self.status, *place)


class InvalidArgument(MoeringError, ValueError):
    """An argument makes no sense."""


class BudgetError(MoeringError, MemoryError):
    """The memory budget is too small; the message says the least that works."""


class FileError(MoeringError, OSError):
    """The system could not give or take the bytes of a file."""

    __str__ = Exception.__str__


class FormatError(MoeringError):
    """A model file, or a saved session, is damaged or malformed."""


class DeviceError(MoeringError):
    """The compute device failed."""


class Canceled(MoeringError):
    """The call was cancelled."""


class LimitError(MoeringError):
    """The context is full, or as many sessions are open as sequences_max allows."""


class Unsupported(MoeringError):
    """A model, format or device that this build does not run."""


class InternalError(MoeringError):
    """A defect of the library."""


class BusyError(MoeringError):
    """Another thread is in a call on the session or batch."""


class ClosedError(MoeringError):
    """The engine, session or batch was closed."""


class ForkError(MoeringError):
    """This process was forked from one that had used the library."""


_EXCEPTIONS: dict[int, type[MoeringError]] = {
    _capi.MR_EINVAL: InvalidArgument,
    _capi.MR_ENOMEM: BudgetError,
    _capi.MR_EIO: FileError,
    _capi.MR_EFORMAT: FormatError,
    _capi.MR_EDEVICE: DeviceError,
    _capi.MR_ECANCELED: Canceled,
    _capi.MR_ELIMIT: LimitError,
    _capi.MR_EUNSUPPORTED: Unsupported,
    _capi.MR_EINTERNAL: InternalError,
    _capi.MR_EBUSY: BusyError,
    _capi.MR_ECLOSED: ClosedError,
    _capi.MR_EFORK: ForkError,
}

FILE = "libmoering.so"


class _Loader:
    """Loads the library once, at its first use."""

    def __init__(self) -> None:
        self._new_lock()
        os.register_at_fork(after_in_child=self._new_lock)  # another thread may have held it
        self._library: ctypes.CDLL | None = None

    def _new_lock(self) -> None:
        self._lock = threading.Lock()

    def get(self) -> ctypes.CDLL:
        if self._library is None:
            with self._lock:
                if self._library is None:
                    self._library = self._load()
        return self._library

    def _load(self) -> ctypes.CDLL:
        path = os.environ.get("MOERING_LIBRARY") or str(pathlib.Path(__file__).parent / FILE)
        try:
            library = ctypes.CDLL(path)
            library.mr_api_version.restype = ctypes.c_uint32
            number = library.mr_api_version()
        except (OSError, AttributeError) as error:
            raise ImportError(
                f"the shared library of moering could not be loaded from {path}: {error}"
            ) from error
        found = (number >> 16, number & 0xFFFF)
        if found != _capi.API_VERSION:
            raise ImportError(
                "{} has version {}.{} of the C API, and this package is for {}.{}".format(
                    path, *found, *_capi.API_VERSION
                )
            )
        _capi.bind(library)
        return library


_loader = _Loader()


def library() -> ctypes.CDLL:
    """The shared library, with all functions declared."""
    return _loader.get()


def build_info() -> str:
    """One line about the library: version, revision, compiler, system."""
    return text(library().mr_build_info())


def text(data: bytes | None) -> str:
    """Text of the library, which is UTF-8."""
    return (data or b"").decode("utf-8", "replace")


def failure(status: int) -> MoeringError:
    """This thread's last failure, as the exception of its kind."""
    detail = _capi.versioned(_capi.mr_error)
    library().mr_last_error_detail(ctypes.byref(detail))
    return make_failure(
        status,
        text(detail.message),
        text(detail.file),
        text(detail.tensor),
        int(detail.offset),
        int(detail.line),
    )


def make_failure(
    status: int, message: str, file: str = "", tensor: str = "", offset: int = -1, line: int = 0
) -> MoeringError:
    kind = _EXCEPTIONS.get(status, InternalError)
    return kind(message, status, file, tensor, offset, line)


def check(status: int) -> int:
    """Raises what a negative status means, and returns any other."""
    if status < 0:
        raise failure(status)
    return status
