"""Ray Data: generation over many machines.

    import ray
    from moering.ray import Generate

    rows = ray.data.read_parquet("prompts.parquet")
    rows = rows.map_batches(
        Generate,
        fn_constructor_args=("model.gguf",),
        fn_constructor_kwargs={"sampling": {"tokens_max": 64}, "host_bytes_max": 8 << 30},
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=2),
    )

Each actor opens one engine, with a budget of its own, and keeps it. Ray starts the rows of an actor
that dies on another one; since a result depends on its prompt and the options alone, the answer is
the same there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ._engine import Engine
from ._types import Prompt, Sampling


class Generate:
    """A callable class for map_batches: adds columns to batches in Ray's default format, a dict of
    NumPy arrays. prompt names the column of texts, or of lists of token ids; sampling is as in
    engine.generate; options are the engine's. Ray's own logging is not touched.

    The columns are "text", "finish", "tokens" (how many were generated), and "error" ("" where
    there was none); prefix goes before these names.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prompt: str = "prompt",
        prefix: str = "",
        sampling: Sampling | None = None,
        **options: Any,
    ) -> None:
        self._prompt = prompt
        self._prefix = prefix
        self._sampling: Sampling = sampling or {}
        self._engine = Engine(path, **options)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        import numpy

        prompts: list[Prompt] = [
            p if isinstance(p, str) else [int(i) for i in p] for p in batch[self._prompt]
        ]
        results = list(self._engine.batch(prompts, **self._sampling))
        columns: dict[str, list[Any]] = {
            "text": [r.text for r in results],
            "finish": [r.finish for r in results],
            "tokens": [len(r.tokens) for r in results],
            "error": ["" if r.error is None else str(r.error) for r in results],
        }
        out = dict(batch)
        for name, values in columns.items():
            out[self._prefix + name] = numpy.array(values, dtype=None if values else object)
        return out
