"""Generates text with Moering from Python.

    pip install dist/moering-*.whl
    python generate.py mr:tiny "package main" 7
"""

import sys

import moering


def main() -> None:
    model, prompt, seed = sys.argv[1:]
    with moering.Engine(model, context_tokens_max=512, sequences_max=1) as engine:
        for token in engine.generate(
            prompt, temperature=0.8, top_p=0.95, tokens_max=64, seed=int(seed)
        ):
            print(token.text, end="", flush=True)


main()
