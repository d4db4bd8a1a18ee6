"""A callable in the manner of Hugging Face's text-generation pipeline.

    pip install dist/moering-*.whl
    python pipeline.py
"""

from __future__ import annotations

from typing import Any

import moering


class TextGeneration:
    """generator(prompt) gives [{"generated_text": …}], and generator([prompt, …]) a list of those;
    prompts may be texts or lists of chat messages. Several are generated for side by side."""

    def __init__(self, model: str, **engine_options: Any) -> None:
        self.engine = moering.Engine(model, **engine_options)

    def __call__(
        self,
        inputs: Any,
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        seed: int = 0,
        return_full_text: bool = True,
    ) -> list[Any]:
        alone = isinstance(inputs, str) or bool(inputs) and isinstance(inputs[0], dict)
        prompts = [inputs] if alone else list(inputs)
        options: dict[str, Any] = {"tokens_max": max_new_tokens}
        if do_sample:
            options.update(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        fed = [p if isinstance(p, str) else self.engine.chat_tokens(p) for p in prompts]
        out = []
        for prompt, result in zip(prompts, self.engine.batch(fed, **options)):
            if result.error is not None:
                raise result.error
            if isinstance(prompt, str):
                text: Any = prompt + result.text if return_full_text else result.text
            else:
                text = [*prompt, {"role": "assistant", "content": result.text}]
            out.append([{"generated_text": text}])
        return out[0] if alone else out


def main() -> None:
    generator = TextGeneration("mr:tiny")
    print(generator("package main\n\nimport (", max_new_tokens=24))
    print(generator([{"role": "user", "content": "// Max returns the larger of a and b."}]))


if __name__ == "__main__":
    main()
