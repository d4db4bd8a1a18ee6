"""Moering as a LangChain model.

    pip install langchain-core dist/moering-*.whl
    python langchain_llm.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks.manager import CallbackManagerForLLMRun
from langchain_core.language_models.llms import LLM
from langchain_core.outputs import GenerationChunk
from pydantic import PrivateAttr

import moering


class Moering(LLM):
    """A language model for chains. Fields are the model's path, options of moering.Engine, and how
    tokens are chosen."""

    model: str
    engine_options: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    _engine: moering.Engine = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._engine = moering.Engine(self.model, **self.engine_options)

    @property
    def _llm_type(self) -> str:
        return "moering"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, **self.sampling}

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        options = {**self.sampling, **kwargs}
        if stop:
            options["stop"] = stop
        for token in self._engine.generate(prompt, **options):
            if run_manager is not None:
                run_manager.on_llm_new_token(token.text)
            yield GenerationChunk(text=token.text)

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        return "".join(c.text for c in self._stream(prompt, stop, run_manager, **kwargs))


def main() -> None:
    llm = Moering(model="mr:tiny", sampling={"tokens_max": 32, "temperature": 0.8, "seed": 7})
    for text in llm.stream("package main\n\nimport ("):
        print(text, end="", flush=True)
    print(llm.batch(["func main() {", "type Reader interface {"]))


if __name__ == "__main__":
    main()
