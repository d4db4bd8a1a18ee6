"""Engines, sessions and batches."""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import functools
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from ctypes import byref, c_float, c_int32, c_size_t, c_uint32, c_void_p
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, TypeVar, cast

from . import _capi
from ._convert import (
    FINISH,
    c_ids,
    c_path,
    c_string,
    copied,
    engine_options,
    numpy_module,
    session_options,
)
from ._interrupt import interruptible, off_main
from ._library import (
    BusyError,
    ClosedError,
    InternalError,
    check,
    library,
    make_failure,
    text,
)
from ._types import (
    EngineOptions,
    Message,
    ModelInfo,
    Plan,
    Prompt,
    Result,
    Sampling,
    Stats,
    Token,
    TokenProb,
)

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    Floats = numpy.typing.NDArray[numpy.float32]
    from typing_extensions import Self, Unpack


T = TypeVar("T")


class _Handle:
    """A handle of the library, closed once: by close(), at the end of with, or with the object."""

    def __init__(self, number: int, close: Callable[[Any], None]) -> None:
        self._number: int | None = number
        self._finalizer = weakref.finalize(self, close, number)
        self._finalizer.atexit = False  # the process's end frees all

    @property
    def _handle(self) -> int:
        if self._number is None:
            raise self._closed_error()
        return self._number

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"the {type(self).__name__.lower()} was closed", _capi.MR_ECLOSED)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._number is None

    def close(self) -> None:
        """Frees it. A running call in another thread ends with ClosedError. May be called again."""
        self._number = None
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def _opening(close: Callable[[Any], None]) -> Iterator[c_void_p]:
    """Where a handle goes, which is closed if a failure, or Ctrl-C, comes before it has its owner.
    One that is none, or has been closed, is closed in vain."""
    out = c_void_p()
    try:
        yield out
    except BaseException:
        close(out)
        raise


class Engine(_Handle):
    """An open model. Safe to use from several threads at once.

    path is a GGUF file, a Hugging Face directory, or "mr:tiny", the model in the package. Options
    are those of EngineOptions. Sessions may outlive the engine's close().
    """

    def __init__(self, path: str | os.PathLike[str], **options: Unpack[EngineOptions]) -> None:
        name, wanted, lib = c_path(path), engine_options(options), library()
        # A callback of Python's cannot end the call: Python would run signal handlers inside it.
        flag = c_int32()
        wanted.open_cancel = ctypes.pointer(flag)

        def call() -> int:
            flag.value = 0
            return int(lib.mr_engine_open(byref(out), name, byref(wanted)))

        def cancel() -> None:
            flag.value = 1

        with _opening(lib.mr_engine_close) as out:
            check(interruptible(call, cancel))
            super().__init__(cast(int, out.value), lib.mr_engine_close)

    @classmethod
    def plan(cls, path: str | os.PathLike[str], **options: Unpack[EngineOptions]) -> Plan:
        """How the budget would be split, without reading weights. A budget that is too small raises
        nothing: compare budget_bytes and least_bytes."""
        return cls.inspect(path, **options)[1]

    @classmethod
    def inspect(
        cls, path: str | os.PathLike[str], **options: Unpack[EngineOptions]
    ) -> tuple[ModelInfo, Plan]:
        """What a model is, and plan()."""
        info, plan = _capi.versioned(_capi.mr_model_info), _capi.versioned(_capi.mr_plan)
        wanted = engine_options(options)
        check(library().mr_plan_make(c_path(path), byref(wanted), byref(info), byref(plan)))
        return copied(ModelInfo, info), copied(Plan, plan)

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        out = _capi.versioned(_capi.mr_model_info)
        check(library().mr_engine_info(self._handle, byref(out)))
        return copied(ModelInfo, out)

    @property
    def memory(self) -> Plan:
        """How the budget is split."""
        out = _capi.versioned(_capi.mr_plan)
        check(library().mr_engine_plan(self._handle, byref(out)))
        return copied(Plan, out)

    def stats(self) -> Stats:
        """Counters since the engine was opened."""
        out = _capi.versioned(_capi.mr_stats)
        check(library().mr_engine_stats(self._handle, byref(out)))
        return copied(Stats, out)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """The token ids of a text. add_special puts the model's begin token in front, where it has
        one; parse_special makes special tokens that are spelled in the text their ids."""
        data = text.encode("utf-8", "surrogatepass")
        flags = add_special * _capi.MR_ENCODE_ADD_SPECIAL
        flags |= parse_special * _capi.MR_ENCODE_PARSE_SPECIAL
        return self._ints(
            lambda out, room, count: library().mr_engine_encode(
                self._handle, data, len(data), flags, out, room, count
            ),
            len(data) + 8,
        )

    def decode(self, tokens: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of token ids."""
        ids = c_ids(tokens)
        flags = skip_special * _capi.MR_DECODE_SKIP_SPECIAL
        return self._text(
            lambda out, room, size: library().mr_engine_decode(
                self._handle, ids, len(ids), flags, out, room, size
            ),
            16 * len(ids) + 64,
        )

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text; maybe a part of a character."""
        return self._bytes(
            lambda out, room, size: library().mr_engine_token(
                self._handle, token, out, room, size, None
            ),
            64,
        )

    def token_id(self, spelled: str) -> int:
        """The id of a token as the vocabulary spells it, such as "<|im_end|>"."""
        out = c_int32()
        name = c_string(spelled, "the token")
        check(library().mr_engine_find_token(self._handle, name, byref(out)))
        return out.value

    def chat_text(self, messages: Iterable[Message]) -> str:
        """A conversation by the model's chat template, with the header of the answer at its end."""
        list_, count = self._messages(messages)
        return self._text(
            lambda out, room, size: library().mr_engine_chat_text(
                self._handle, list_, count, out, room, size
            ),
            4096,
        )

    def chat_tokens(self, messages: Iterable[Message]) -> list[int]:
        """chat_text() as token ids."""
        list_, n = self._messages(messages)
        return self._ints(
            lambda out, room, count: library().mr_engine_chat_tokens(
                self._handle, list_, n, out, room, count
            ),
            1024,
        )

    @staticmethod
    def _messages(messages: Iterable[Message]) -> tuple[Any, int]:
        items = [
            _capi.mr_message(c_string(m["role"], "role"), c_string(m["content"], "content"))
            for m in messages
        ]
        return (_capi.mr_message * len(items))(*items), len(items)

    def _sized(self, call: Callable[[Any, int, Any], int], kind: Any, guess: int) -> Any:
        """Fills an array of the size that the library asks for."""
        room, count = guess, c_size_t()
        while True:
            out = (kind * room)()
            status = call(out, room, byref(count))
            if status == _capi.MR_ELIMIT and count.value > room:
                room = count.value
                continue
            check(status)
            return out, count.value

    def _ints(self, call: Callable[[Any, int, Any], int], guess: int) -> list[int]:
        out, count = self._sized(call, c_int32, guess)
        return list(out[:count])

    def _bytes(self, call: Callable[[Any, int, Any], int], guess: int) -> bytes:
        out, size = self._sized(call, ctypes.c_char, guess)
        return bytes(out.raw[:size])

    def _text(self, call: Callable[[Any, int, Any], int], guess: int) -> str:
        return text(self._bytes(call, guess))

    def embed(self, prompt: Prompt, *, pooling: str = "mean") -> Floats:
        """The hidden states of a text after the final norm, pooled: shape (dim,), float32, not of
        unit length. pooling is "mean", over all tokens, or "last", the state after the last token.
        Takes one of sequences_max while it runs."""
        kinds = {"mean": _capi.MR_POOL_MEAN, "last": _capi.MR_POOL_LAST}
        if pooling not in kinds:
            raise ValueError(f'pooling is {pooling!r}, not "mean" or "last"')
        ids = c_ids(self._tokens(prompt))
        lib, handle = library(), self._handle
        count = c_size_t(self.info.dim)
        out = numpy_module().empty(count.value, dtype="float32")
        data = out.ctypes.data_as(ctypes.POINTER(c_float))
        check(
            interruptible(
                lambda: int(
                    lib.mr_engine_embed(
                        handle, ids, len(ids), kinds[pooling], data, out.size, byref(count)
                    )
                ),
                lambda: lib.mr_engine_cancel(handle),
            )
        )
        return cast("Floats", out)

    def _tokens(self, prompt: Prompt) -> Sequence[int]:
        return self.encode(prompt) if isinstance(prompt, str) else prompt

    def session(self, **sampling: Unpack[Sampling]) -> Session:
        """An empty session. Options are those of Sampling."""
        return Session(self, **sampling)

    def generate(self, prompt: Prompt, **sampling: Unpack[Sampling]) -> Iterator[Token]:
        """Generates after a prompt, in a session of its own. Ctrl-C stops it within a layer.
        Closing the iterator, or leaving it, ends the generation."""
        with Session(self, **sampling) as session:
            session.feed(prompt)
            yield from session

    async def agenerate(
        self, prompt: Prompt, **sampling: Unpack[Sampling]
    ) -> AsyncIterator[Token]:
        """generate() for asyncio: the event loop goes on while tokens are computed. Cancelling the
        task ends the generation within a layer."""
        session = await asyncio.to_thread(Session, self, **sampling)
        try:
            await _in_thread(session, session.feed, prompt)
            while (token := await _in_thread(session, session.next)) is not None:
                yield token
        finally:
            session.close()

    def batch(
        self,
        prompts: Iterable[Prompt],
        *,
        parallel: int = 0,
        ordered: bool = True,
        progress: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Iterator[Result]:
        """Generates for many prompts side by side, and yields a result for each.

        prompts is read as results are taken, so it may be endless. parallel sequences run at once,
        or as many as are free. ordered keeps the order of the prompts; without it results come as
        they are done. A prompt that fails is a result with an error. progress shows a bar if tqdm
        is installed. A result depends on its prompt and the options alone, seed included.
        """
        with Batch(self, parallel=parallel, **sampling) as batch:
            results = batch.run(prompts, ordered=ordered)
            yield from _with_progress(results, prompts) if progress else results

    def cancel(self) -> None:
        """Ends running embeddings and waits for batch results; sessions go on."""
        library().mr_engine_cancel(self._handle)


async def _in_thread(session: Session, call: Callable[..., T], *arguments: Any) -> T:
    """Runs a call of the session in a thread, and ends it if the task is cancelled."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            session.cancel()
            await asyncio.wait([running], timeout=0.01)
        running.exception()  # Canceled, and of no interest
        raise


def _with_progress(results: Iterator[Result], prompts: Iterable[Prompt]) -> Iterator[Result]:
    try:
        from tqdm import tqdm
    except ImportError:
        yield from results
        return
    total = len(prompts) if isinstance(prompts, Sequence) else None
    tokens = 0
    with tqdm(total=total, unit=" prompts") as bar:
        for result in results:
            tokens += len(result.tokens)
            bar.set_postfix(tokens=tokens, refresh=False)
            bar.update()
            yield result


class _Exclusive(_Handle):
    """A handle that one thread at a time uses, except for cancel() and close(). A second one, or a
    signal handler inside a call, gets BusyError: the library refuses calls that overlap, and this
    what lies between two calls that belong together."""

    def __init__(self, number: int, close: Callable[[Any], None]) -> None:
        super().__init__(number, close)
        self._in_use = threading.Lock()

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        self._take()
        try:
            yield
        finally:
            self._in_use.release()

    def _take(self) -> None:
        if not self._in_use.acquire(blocking=False):
            name = type(self).__name__.lower()
            raise BusyError(f"the {name} is in use by another thread", _capi.MR_EBUSY)


class Session(_Exclusive):
    """One sequence: its tokens, and their keys and values. One thread at a time uses it, except for
    cancel() and close(). Options are those of Sampling."""

    def __init__(self, engine: Engine, **sampling: Unpack[Sampling]) -> None:
        lib, options = library(), session_options(sampling)
        with _opening(lib.mr_session_close) as out:
            check(lib.mr_session_open(byref(out), engine._handle, byref(options)))
            self._set_up(engine, cast(int, out.value), bool(sampling.get("logprobs")))

    def _set_up(self, engine: Engine, number: int, logprobs: bool) -> None:
        super().__init__(number, library().mr_session_close)
        self._engine = engine
        self._logprobs = logprobs
        # What next() calls, made once: little is done for a token beside computing it.
        lib = library()
        self._token = _capi.versioned(_capi.mr_token)
        unused = byref(c_void_p()), byref(c_size_t())
        self._next_call = functools.partial(lib.mr_session_next, number, *unused)
        self._token_call = functools.partial(lib.mr_session_token, number, byref(self._token))
        self._views = 0  # arrays that look at the library's memory
        self._views_lock = threading.RLock()  # taken again where memory is collected inside

    def configure(self, **sampling: Unpack[Sampling]) -> None:
        """New options for what is generated from here on."""
        options = session_options(sampling)
        with self._use():
            self._call(lambda: library().mr_session_configure(self._handle, byref(options)))
            self._logprobs = bool(sampling.get("logprobs"))

    def _call(self, function: Callable[[], int]) -> int:
        return check(interruptible(function, self.cancel))

    def cancel(self) -> None:
        """Ends the call that is running in another thread, with Canceled, within a layer. Next()
        goes on where it stopped; what feed() has computed stays."""
        library().mr_session_cancel(self._number)

    def feed(self, prompt: Prompt) -> None:
        """Appends a text, or tokens, to the context, and computes it. In an empty session the
        model's begin token comes first, and special tokens in a text are recognised."""
        lib, handle = library(), self._handle
        if isinstance(prompt, str):
            data = prompt.encode("utf-8", "surrogatepass")
            self._append(lambda: int(lib.mr_session_feed(handle, data, len(data))))
        else:
            ids = c_ids(prompt)
            self._append(lambda: int(lib.mr_session_feed_tokens(handle, ids, len(ids))))

    def _append(self, append: Callable[[], int]) -> None:
        """Makes a call that appends to the context; not in parts, where a signal comes whose
        handler raises nothing."""
        with self._use():
            self._settle()
            start = self._length()

            def whole() -> int:
                if self._length() > start:
                    check(library().mr_session_truncate(self._handle, start))
                return append()

            self._call(whole)

    def _settle(self) -> None:
        """Brings the last token into the context, so that the length says what is there."""
        self._call(lambda: int(library().mr_session_feed_tokens(self._handle, None, 0)))

    def score(self, tokens: Sequence[int]) -> Floats:
        """Appends tokens, and returns the natural log of each one's probability after all before
        it: shape (len(tokens),), float32; NaN where there is nothing before."""
        lib, handle = library(), self._handle
        ids = c_ids(tokens)
        out = numpy_module().empty(len(ids), dtype="float32")
        data = out.ctypes.data_as(ctypes.POINTER(c_float))
        first: list[Any] = []  # known at the first attempt alone

        def score() -> int:
            status = int(lib.mr_session_score(handle, ids, len(ids), data))
            if len(ids) > 0 and status in (_capi.MR_OK, _capi.MR_ECANCELED):
                first.append(out[0])
                out[0] = first[0]
            return status

        self._append(score)
        return cast("Floats", out)

    def next(self) -> Token | None:
        """The next token; None after the last one."""
        self._take()
        try:
            if self._number is None:
                raise self._closed_error()
            if check(interruptible(self._next_call, self.cancel)) == _capi.MR_END:
                return None
            check(self._token_call())
            token = self._token
            content = text(ctypes.string_at(token.text, token.text_size))
            if not self._logprobs:
                return Token(token.id, content, FINISH[token.finish])
            alternatives = token.alternatives[: token.alternatives_count]
            return Token(
                token.id,
                content,
                FINISH[token.finish],
                token.logprob,
                tuple(TokenProb(p.id, p.logprob) for p in alternatives),
            )
        finally:
            self._in_use.release()

    def __iter__(self) -> Iterator[Token]:
        """Generates to the end."""
        while (token := self.next()) is not None:
            yield token

    def __len__(self) -> int:
        """Tokens in the context. The last token of next() joins it when it is needed there."""
        return self._length()

    def _length(self) -> int:
        out = c_size_t()
        check(library().mr_session_length(self._handle, byref(out)))
        return out.value

    def __bool__(self) -> bool:
        return True

    @property
    def tokens(self) -> list[int]:
        """The tokens in the context."""
        return self._engine._ints(
            lambda out, room, count: library().mr_session_tokens(self._handle, out, room, count),
            len(self),
        )

    def logits(self) -> Floats:
        """The model's output after the last token of the context, shape (vocabulary,), float32: a
        view of the library's memory, not to be written to. It holds until the next logits() of this
        session; copy it to keep it."""
        values, count = ctypes.POINTER(c_float)(), c_size_t()
        with self._use(), self._views_lock:  # a close() in between would free what is looked at
            check(library().mr_session_logits(self._handle, byref(values), byref(count)))
            memory = (c_float * count.value).from_address(
                cast(int, ctypes.cast(values, c_void_p).value)
            )
            self._views += 1
            weakref.finalize(memory, self._view_gone).atexit = False
        view = numpy_module().frombuffer(memory, dtype="float32")
        view.flags.writeable = False
        return cast("Floats", view)

    def _view_gone(self) -> None:
        with self._views_lock:
            self._views -= 1
            last = self._views == 0 and self._number is None
        if last:
            self._finalizer()

    def close(self) -> None:
        """Frees the session. A running call in another thread ends with ClosedError. While an array
        of logits() is in use its memory stays. May be called again."""
        with self._views_lock:
            number, self._number = self._number, None
            viewed = self._views > 0
        if viewed:
            library().mr_session_cancel(number)
        else:
            super().close()

    def top(self, count: int) -> list[TokenProb]:
        """The count most likely tokens after the last one, best first."""
        if count < 0:
            raise ValueError(f"the top {count}")
        out, n = (_capi.mr_token_prob * count)(), c_size_t()
        check(library().mr_session_top(self._handle, out, count, byref(n)))
        return [TokenProb(p.id, p.logprob) for p in out[: n.value]]

    def truncate(self, count: int) -> None:
        """Forgets all tokens from position count on."""
        if count < 0:
            raise ValueError(f"truncate to {count} tokens")
        check(library().mr_session_truncate(self._handle, count))

    def fork(self) -> Session:
        """A session with the same context and options, which shares the memory of the context."""
        lib, copy = library(), Session.__new__(Session)
        with self._use(), _opening(lib.mr_session_close) as out:
            self._call(lambda: int(lib.mr_session_fork(byref(out), self._handle)))
            copy._set_up(self._engine, cast(int, out.value), self._logprobs)
        return copy

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the session's state to a file, which is there complete or not at all. A session
        restored from it continues to the bit, on this model."""
        name = c_path(path)
        with self._use():
            self._call(lambda: int(library().mr_session_save(self._handle, name)))

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Replaces the context by what save() wrote. After a failure it is empty."""
        check(library().mr_session_restore(self._handle, c_path(path)))

    def dumps(self) -> bytes:
        """What save() writes."""
        out = bytearray()

        def write(_user: Any, data: int, size: int) -> int:
            out.extend(ctypes.string_at(data, size))
            return 0

        callback, handle = _capi.mr_write_fn(write), self._handle
        with self._use():
            self._settle()
            off_main(lambda: check(library().mr_session_save_to(handle, callback, None)))
        return bytes(out)

    def loads(self, state: bytes) -> None:
        """restore() from what dumps() returned."""
        at = 0

        def read(_user: Any, data: int, room: int) -> int:
            nonlocal at
            piece = state[at : at + room]
            ctypes.memmove(data, piece, len(piece))
            at += len(piece)
            return len(piece)

        callback, handle = _capi.mr_read_fn(read), self._handle
        with self._use():
            off_main(lambda: check(library().mr_session_restore_from(handle, callback, None)))


class Batch(_Exclusive):
    """Prompts that are generated for side by side; Engine.batch() is the short way to it. One
    thread at a time uses it, except for cancel() and close()."""

    def __init__(self, engine: Engine, *, parallel: int = 0, **sampling: Unpack[Sampling]) -> None:
        lib, options = library(), session_options(sampling)
        count = c_uint32(parallel)
        if count.value != parallel:
            raise ValueError(f"parallel is {parallel}")
        with _opening(lib.mr_batch_close) as out:
            check(lib.mr_batch_open(byref(out), engine._handle, byref(options), count))
            super().__init__(cast(int, out.value), lib.mr_batch_close)

    def submit(self, index: int, prompt: Prompt) -> bool:
        """Queues a prompt, and does not wait; False if a result must be taken first."""
        lib = library()
        if isinstance(prompt, str):
            data = prompt.encode("utf-8", "surrogatepass")
            status = lib.mr_batch_submit(self._handle, index, data, len(data))
        else:
            ids = c_ids(prompt)
            status = lib.mr_batch_submit_tokens(self._handle, index, ids, len(ids))
        return check(status) != _capi.MR_AGAIN

    def next(self) -> Result | None:
        """Waits for a result, in the order in which they come; None if no prompt is under way."""
        lib, handle = library(), self._handle
        r = _capi.versioned(_capi.mr_result)
        with self._use():
            status = check(
                interruptible(
                    lambda: int(lib.mr_batch_next(handle, byref(r))),
                    lambda: lib.mr_batch_wake(handle),
                )
            )
            if status == _capi.MR_END:
                return None
            return Result(
                r.id,
                text(ctypes.string_at(r.text, r.text_size)),
                tuple(r.tokens[: r.tokens_count]),
                FINISH[r.finish],
                r.prompt_tokens,
                make_failure(r.status, text(r.error)) if r.status < 0 else None,
            )

    def run(self, prompts: Iterable[Prompt], *, ordered: bool = True) -> Iterator[Result]:
        """Submits prompts as there is room, and yields their results; index counts the prompts."""
        waiting = iter(enumerate(prompts))
        pending = next(waiting, None)
        held: dict[int, Result] = {}
        due = 0
        while True:
            # In order, a slow prompt holds back those behind it: not more than this many.
            while pending is not None and (not ordered or pending[0] < due + HELD_MAX):
                if not self.submit(*pending):
                    break
                pending = next(waiting, None)
            result = self.next()
            if result is None:
                if pending is not None or held:
                    raise InternalError("the batch ended before its prompts")
                return
            if not ordered:
                yield result
                continue
            held[result.index] = result
            while due in held:
                yield held.pop(due)
                due += 1

    def cancel(self) -> None:
        """Ends all prompts that are under way; their results have the error Canceled."""
        library().mr_batch_cancel(self._number)


HELD_MAX = 1024
"""Results that are held back, in order, behind a slow prompt."""
