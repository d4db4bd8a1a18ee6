"""Ctrl-C while the main thread is in the library.

Python runs signal handlers in the main thread alone, and only between two of its instructions: while
that thread is in a call of the library, a signal waits. So the main thread has signals announced on
a pipe (signal.set_wakeup_fd) for the time of a call, and a thread that sleeps on the pipe cancels the
call; the main thread returns to Python, which runs the handler, which for Ctrl-C raises
KeyboardInterrupt. Where a handler raises nothing the call is made again: the library goes on where it
stopped. It costs two short system calls each time.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Callable

from . import _capi

# How often the call is cancelled until it returns: a first cancel may come before it has begun.
REPEAT_SECONDS = 0.01


class _Call:
    """One call of the main thread."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.cancelled = False

    def finish(self) -> None:
        with self._lock:
            self._done.set()

    def end(self) -> None:
        """Cancels until the call has returned, and never what comes after it."""
        while not self._done.is_set():
            with self._lock:
                if self._done.is_set():
                    return
                self.cancelled = True
                self._cancel()
            self._done.wait(REPEAT_SECONDS)


class _Watch:
    def __init__(self) -> None:
        self._read = self._write = -1
        self._process = 0
        self._current: _Call | None = None
        self._before = -1  # whom signals were announced to

    def call(self, function: Callable[[], int], cancel: Callable[[], None]) -> int:
        """Calls function, which may be called again after MR_ECANCELED, in the main thread."""
        while True:
            call = _Call(cancel)
            status = self._once(function, call)
            if status != _capi.MR_ECANCELED or not call.cancelled:
                return status

    def _once(self, function: Callable[[], int], call: _Call) -> int:
        self._start()
        self._current = call
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        try:
            return function()
        finally:
            call.finish()
            self._current = None
            signal.set_wakeup_fd(self._before)

    def _start(self) -> None:
        """Starts the thread, in a forked child once more."""
        if self._process == os.getpid():
            return
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._process = os.getpid()
        threading.Thread(target=self._run, name="moering-signals", daemon=True).start()

    def _run(self) -> None:
        while True:
            numbers = os.read(self._read, 4096)
            self._pass_on(numbers)
            call = self._current
            if call is not None:
                call.end()

    def _pass_on(self, numbers: bytes) -> None:
        """Tells an event loop that was told before."""
        if self._before >= 0:
            try:
                os.write(self._before, numbers)
            except OSError:
                pass  # its pipe is full or closed: it knows, or does not care


_watch = _Watch()


def interruptible(function: Callable[[], int], cancel: Callable[[], None]) -> int:
    """Calls function; in the main thread a signal makes cancel end it.

    function returns a status, and may be called again after MR_ECANCELED.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    return _watch.call(function, cancel)
