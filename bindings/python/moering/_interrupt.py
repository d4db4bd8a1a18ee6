"""Ctrl-C while the main thread is in the library.

Python runs signal handlers in the main thread alone, and only between two of its instructions:
while that thread is in a call of the library, a signal waits. So the main thread has signals
announced on a pipe (signal.set_wakeup_fd) for the time of a call, and a thread that sleeps on the
pipe cancels the call; the main thread returns to Python, which runs the handler, which for Ctrl-C
raises KeyboardInterrupt. Where a handler raises nothing the call is made again: the library goes on
where it stopped. It costs two short system calls each time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Callable, TypeVar

from . import _capi

# How often the call is cancelled until it returns: a first cancel may come before it has begun.
REPEAT_SECONDS = 0.01

T = TypeVar("T")


class _Call:
    """One call of the main thread."""

    __slots__ = ("cancel", "cancelled", "outer")

    def __init__(self, cancel: Callable[[], None], outer: _Call | None) -> None:
        self.cancel = cancel
        self.cancelled = False
        self.outer = outer  # that a signal handler interrupted to make this one


class _Watch:
    def __init__(self) -> None:
        self._read = self._write = -1
        self._process = 0
        self._lock = threading.RLock()  # a signal handler may come while it is held
        self._current: _Call | None = None
        self._before = -1  # whom signals were announced to

    def call(self, function: Callable[[], int], cancel: Callable[[], None]) -> int:
        """Calls function, which may be called again after MR_ECANCELED, in the main thread."""
        while True:
            self._start()
            call = _Call(cancel, self._current)
            before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            if before != self._write:
                self._before = before
            self._current = call
            try:
                status = function()
            finally:
                with self._lock:  # from here on it is not cancelled any more
                    self._current = call.outer
                signal.set_wakeup_fd(before)
            if status != _capi.MR_ECANCELED or not call.cancelled:
                return status

    def _start(self) -> None:
        """Starts the thread, in a forked child once more."""
        if self._process == os.getpid():
            return
        self._lock = threading.RLock()  # the old one may be held by a thread that is not here
        self._current = None
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._process = os.getpid()
        threading.Thread(target=self._run, name="moering-signals", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._pass_on(os.read(self._read, 4096))
            call = self._current
            if call is not None:
                self._end(call)

    def _end(self, call: _Call) -> None:
        """Cancels until the call has returned, and never what comes after it."""
        while True:
            with self._lock:
                if self._current is not call:
                    return
                call.cancelled = True
                call.cancel()
            time.sleep(REPEAT_SECONDS)

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

    function returns a status, and may be called again after MR_ECANCELED. cancel raises nothing.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return function()
    return _watch.call(function, cancel)


def off_main(function: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
    """Calls function in another thread than the main one, and waits for it.

    Inside a callback of ctypes what a signal handler raises is lost; handlers run in the main
    thread alone. Ctrl-C makes cancel end the call, if it is given, and raises KeyboardInterrupt
    once the call has returned; with cancel, a second one raises it at once.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return function()
    results: list[T] = []
    errors: list[BaseException] = []
    ended = threading.Event()  # Python 3.11 takes a thread for dead whose join() was interrupted

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="moering-call", daemon=True).start()
    interrupt: BaseException | None = None
    while not ended.is_set():
        try:
            ended.wait()
        except BaseException as error:
            if cancel is not None:
                if interrupt is not None:
                    raise
                cancel()
            interrupt = error
    if interrupt is not None or errors:
        raise interrupt or errors[0]
    return results[0]
