"""Tests of job files through Python, on the built-in model."""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import moering
from moering import _capi


def requests(count, tokens=6):
    """Lines of completions; the last one is refused."""
    for i in range(count):
        body = {"prompt": f"func f{i}(", "max_tokens": -1 if i == count - 1 else 1 + i % tokens}
        yield json.dumps(
            {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body}
        )


class Job(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.input = self.folder / "in.jsonl"

    def write(self, count, tokens=6):
        self.input.write_text("".join(line + "\n" for line in requests(count, tokens)))

    def run_job(self, name="out.jsonl", **options):
        return moering.batch_file("mr:tiny", self.input, self.folder / name, **options)

    def test_answers_and_refusals(self):
        self.write(12)
        seen = []
        result = self.run_job(progress=seen.append, host_bytes_max=200_000_000, sequences_max=3)
        self.assertTrue(result.complete)
        self.assertEqual((result.requests, result.finished, result.refused), (12, 12, 1))
        answers = [json.loads(x) for x in pathlib.Path(result.output).read_text().splitlines()]
        self.assertEqual([a["custom_id"] for a in answers], [f"r{i}" for i in range(11)])
        self.assertIn('"r11"', pathlib.Path(result.errors).read_text())
        self.assertGreater(result.new_tokens, 11)
        self.assertGreater(result.elapsed_ns, 0)
        self.assertEqual(seen[-1].finished, 12)
        self.assertLessEqual(max(p.sequences for p in seen), 3)
        self.assertTrue(all(0 <= p.wait_share <= 1 and p.budget_bytes == 200_000_000 for p in seen))

    def test_options_reach_the_job(self):
        self.input.write_text("func main\ntype T\n")
        first, follow = self.run_job(), self.folder / "follow.jsonl"
        options = {"seed": 3, "greedy": True, "tokens_max": 5, "created_s": 4711, "chat": True}
        result = self.run_job("b.jsonl.gz", follow=follow, ordered=True, format="text", sync_ms=10,
                              errors=self.folder / "e", journal=self.folder / "j",
                              report=self.folder / "page.html", spill_bytes_max=1 << 20,
                              spill_dir=self.folder, model_names=["x"], **options)
        text = gzip.decompress((self.folder / "b.jsonl.gz").read_bytes()).decode()
        self.assertEqual(text, follow.read_text())
        answers = [json.loads(line)["response"]["body"] for line in text.splitlines()]
        self.assertEqual([a["created"] for a in answers], [4711, 4711])
        self.assertEqual([a["object"] for a in answers], ["chat.completion"] * 2)
        self.assertTrue(all(a["usage"]["completion_tokens"] <= 5 for a in answers))
        self.assertEqual(result.journal, str(self.folder / "j"))
        self.assertIn("<html", (self.folder / "page.html").read_text())
        self.assertNotEqual(text, pathlib.Path(first.output).read_text())
        with self.assertRaises(TypeError):
            self.run_job(no_such_option=1)
        with self.assertRaises(OverflowError):
            self.run_job(tokens_max=1 << 32)
        with self.assertRaisesRegex(moering.InvalidArgument, "was begun with"):
            self.run_job(seed=8)

    def test_what_progress_raises_ends_the_job_and_it_goes_on(self):
        self.write(12)
        want = self.run_job("want.jsonl")
        passes, resumed = 0, 0

        def stop(now):
            nonlocal passes
            passes += 1
            if passes % 8 == 0:
                raise LookupError(f"{now.finished}")

        for _ in range(100):
            try:
                result = self.run_job(progress=stop, sequences_max=2)
                break
            except LookupError as error:
                resumed = int(str(error))
        self.assertGreater(passes, 8)
        self.assertGreater(resumed, 0)
        self.assertGreaterEqual(result.resumed, resumed)
        for a, b in ((want.output, result.output), (want.errors, result.errors)):
            self.assertEqual(pathlib.Path(a).read_bytes(), pathlib.Path(b).read_bytes())

    def test_ctrl_c_says_how_to_go_on(self):
        self.write(40, tokens=60)
        want = self.run_job("want.jsonl")

        def interrupt(now):
            if now.finished > 0 and not done:
                done.append(now)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)  # the main thread takes its time too

        done = []
        with self.assertRaisesRegex(KeyboardInterrupt, r"\d+ of 40 .*out.jsonl.journal.*same call"):
            self.run_job(progress=interrupt, sequences_max=2)
        self.assertFalse((self.folder / "out.jsonl").exists())
        result = self.run_job()
        self.assertGreater(result.resumed, 0)
        self.assertEqual(pathlib.Path(want.output).read_bytes(),
                         pathlib.Path(result.output).read_bytes())

    def test_from_another_thread(self):
        self.write(3)
        results = []
        thread = threading.Thread(target=lambda: results.append(self.run_job()))
        thread.start()
        thread.join(60)
        self.assertTrue(results[0].complete)

    def test_failures_name_the_file_and_the_line(self):
        with self.assertRaises(moering.FileError) as missing:
            self.run_job()
        self.assertEqual((missing.exception.file, missing.exception.line), (str(self.input), 0))
        self.write(12)

        def cut(now):
            os.truncate(self.input, 10)

        with self.assertRaises(moering.FileError) as torn:
            self.run_job(progress=cut)
        self.assertEqual(torn.exception.file, str(self.input))
        self.assertGreater(torn.exception.line, 0)
        self.assertEqual(pickle.loads(pickle.dumps(torn.exception)).line, torn.exception.line)
        with self.assertRaises(moering.InvalidArgument):
            moering.batch_file("mr:tiny", "-", "-")
        with self.assertRaises(moering.FileError):
            moering.batch_file("/no/such/model", self.input, self.folder / "x.jsonl")

    def test_struct_sizes(self):
        lib = moering._library.library()
        job = moering._job.job_options({})
        for size in (0, 3, 4097, 0xFFFFFFFF):
            job.struct_size = size
            self.assertEqual(lib.mr_job_run(b"mr:tiny", None, job, None), _capi.MR_EINVAL)

    def test_nothing_is_written(self):
        self.write(3)
        paths = str(self.input), str(self.folder / "out.jsonl")
        script = f"import moering; moering.batch_file('mr:tiny', *{paths!r})"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))


if __name__ == "__main__":
    unittest.main()
