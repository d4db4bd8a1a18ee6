"""The examples of the documentation run, and say what the package says."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
import unittest

import moering

EXAMPLES = pathlib.Path(__file__).resolve().parents[3] / "docs" / "examples" / "python"
README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
PROMPT = "package main\n\nimport ("


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def whole(prompt, **options):
    with moering.Engine("mr:tiny") as engine:
        return "".join(t.text for t in engine.generate(prompt, **options))


class Examples(unittest.TestCase):
    def test_readme(self):
        code = README.read_text().split("```python\n")[1].split("```")[0]
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
        )
        self.assertEqual(done.stdout, whole("package main", tokens_max=64))

    def test_pipeline(self):
        generator = load("pipeline").TextGeneration("mr:tiny", context_tokens_max=128)
        want = PROMPT + whole(PROMPT, tokens_max=12)
        self.assertEqual(generator(PROMPT, max_new_tokens=12), [{"generated_text": want}])
        self.assertEqual(
            generator([PROMPT, PROMPT], max_new_tokens=12), [[{"generated_text": want}]] * 2
        )
        chat = generator([{"role": "user", "content": "hi"}], max_new_tokens=4)
        self.assertEqual(chat[0]["generated_text"][1]["role"], "assistant")
        generator.engine.close()

    def test_langchain(self):
        try:
            import langchain_core  # noqa: F401
        except ImportError:
            self.skipTest("langchain-core is not installed")
        llm = load("langchain_llm").Moering(model="mr:tiny", sampling={"tokens_max": 12})
        want = whole(PROMPT, tokens_max=12)
        self.assertEqual(llm.invoke(PROMPT), want)
        self.assertEqual("".join(llm.stream(PROMPT)), want)
        self.assertEqual(llm.batch([PROMPT, PROMPT]), [want, want])
        stop = want[5:9]
        self.assertEqual(llm.invoke(PROMPT, stop=[stop]), want[: want.index(stop)])


if __name__ == "__main__":
    unittest.main()
