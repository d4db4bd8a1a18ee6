"""Job files: thousands of requests in, as many answers out, resumable."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from ctypes import byref, c_int32
from typing import TYPE_CHECKING, Any, Callable, Union

from . import _capi
from ._convert import c_path, c_string, c_strings, copied, engine_options, filled, set_number
from ._interrupt import off_main
from ._library import check, library
from ._types import BatchFileOptions, JobOptions, JobProgress, JobResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

Report = Callable[[JobProgress], object]

PATHS = ("errors", "journal", "follow", "report", "spill_dir")


def batch_file(
    path: str | os.PathLike[str],
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    progress: Union[bool, Report] = False,
    **options: Unpack[BatchFileOptions],
) -> JobResult:
    """Answers a file of requests, as the command "moering batch" does, to the same bytes.

    input is in OpenAI's batch format or has a prompt a line; a name that ends in .gz or .zst says that
    it is compressed, and so for output, which has the answers in the order of the input, and is there
    when the job is complete. Requests that are wrong raise nothing: result.refused counts them, and
    result.errors is the file that says why.

    The model, as in Engine, is opened for the job; context, sequences and KV cache follow from the
    requests where options leave them open. progress shows a bar if tqdm is installed, or is called
    before the first pass and after each; what it raises ends the job.

    Nothing finished is lost. Ctrl-C ends the job after the pass under way, saves, and raises
    KeyboardInterrupt, which says how far it is; a second one is not waited for. After that, a failure
    or a kill the same call goes on where the job was.

    A failure of the job is FileError, InvalidArgument (options, a job that is running already, a
    journal of something else), or one of opening a model; file and line say where.
    """
    lib, name = library(), c_path(path)
    job = job_options({k: v for k, v in options.items() if k in JobOptions.__annotations__})
    engine = engine_options({k: v for k, v in options.items() if k not in JobOptions.__annotations__})
    job.input, job.output = c_path(input), c_path(output)
    flag, out = c_int32(), _capi.versioned(_capi.mr_job_result)
    job.cancel = ctypes.pointer(flag)
    raised: list[BaseException] = []
    results: list[JobResult] = []

    def cancel() -> None:
        flag.value = 1

    with _reporting(progress) as report:

        def passed(_user: Any, now: Any) -> int:
            try:
                report(copied(JobProgress, now.contents))
            except BaseException as error:
                raised.append(error)
            return len(raised)

        if progress:
            job.progress = _capi.mr_job_fn(passed)

        def run() -> JobResult:
            status = lib.mr_job_run(name, byref(engine), byref(job), byref(out))
            results.append(copied(JobResult, out))  # before this thread's next call
            if raised:
                raise raised[0]
            check(status)
            return results[0]

        try:
            return off_main(run, cancel)
        except KeyboardInterrupt as interrupt:
            if not results or results[0].requests == 0 or interrupt in raised:
                raise
            raise KeyboardInterrupt(_how_to_go_on(results[0])) from None


def _how_to_go_on(r: JobResult) -> str:
    if r.complete:
        return f"the job is complete: {r.output}"
    return (
        f"{r.finished} of {r.requests} requests are finished, and kept in {r.journal}; "
        "the same call goes on from there"
    )


def job_options(options: Mapping[str, Any]) -> Any:
    def put(out: Any, name: str, value: Any) -> None:
        if name == "model_names":
            out.model_names, out.model_names_count = c_strings(value, name)
            return
        if name in PATHS:
            value = c_path(value)
        elif isinstance(value, str):
            value = c_string(value, name)
        set_number(out, name, value)

    return filled(_capi.mr_job_options, options, JobOptions.__annotations__, "a job", put)


@contextlib.contextmanager
def _reporting(progress: Union[bool, Report]) -> Iterator[Report]:
    """What is to be called between passes."""
    if callable(progress):
        yield progress
        return
    try:
        if not progress:
            raise ImportError
        from tqdm import tqdm
    except ImportError:
        yield lambda now: None
        return
    with tqdm(unit=" requests") as bar:

        def show(now: JobProgress) -> None:
            bar.total = now.requests
            bar.set_postfix(
                prefill=f"{now.prefill_tokens_per_s:.1f}/s",
                decode=f"{now.decode_tokens_per_s:.1f}/s",
                refresh=False,
            )
            bar.update(now.finished - bar.n)

        yield show
