"""Ray Data on a local cluster of two actors, one of which is killed in mid-run: no row is lost,
none comes twice, and each has its answer. MOERING_RAY_ROWS=10000 is the full run.

    pip install "ray[data]"
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import tempfile
import unittest

try:
    import ray
    import ray.data
except ImportError:
    ray = None

import moering
from moering.ray import Generate

HERE = pathlib.Path(__file__).resolve().parent
ROWS = int(os.environ.get("MOERING_RAY_ROWS", "200"))
STEMS = ["func ", "type ", "var ", "package ", "// A ", "import ", "if err", "for i"]
OPTIONS = {"context_tokens_max": 64, "sequences_max": 8, "threads": 1, "host_bytes_max": 80 << 20}
SAMPLING = {"tokens_max": 4, "temperature": 0.8, "seed": 3}


def prompt(i):
    return STEMS[i % len(STEMS)] + "abcdefgh"[i // len(STEMS) % 8]


class Mortal(Generate):
    """Dies once, all actors together, after a few batches."""

    def __init__(self, path, *, grave, **options):
        super().__init__(path, **options)
        self._grave, self._calls = grave, 0

    def __call__(self, batch):
        self._calls += 1
        if self._calls == 3:
            try:
                os.close(os.open(self._grave, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@unittest.skipIf(ray is None, "ray is not installed")
class Actors(unittest.TestCase):
    def test_a_killed_actor_loses_no_row(self):
        with moering.Engine("mr:tiny", **OPTIONS) as engine:
            distinct = [prompt(i) for i in range(64)]
            want = {
                p: r.text for p, r in zip(distinct, engine.batch(distinct, **SAMPLING))
            }
        # Workers find this module, and the package, where this process does.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20
        )
        try:
            with tempfile.TemporaryDirectory() as directory:
                grave = str(pathlib.Path(directory) / "grave")
                rows = ray.data.from_items(
                    [{"id": i, "prompt": prompt(i)} for i in range(ROWS)],
                    override_num_blocks=max(8, ROWS // 500),
                ).map_batches(
                    Mortal,
                    fn_constructor_args=("mr:tiny",),
                    fn_constructor_kwargs={"grave": grave, "sampling": SAMPLING, **OPTIONS},
                    batch_size=max(10, ROWS // 100),
                    compute=ray.data.ActorPoolStrategy(size=2),
                )
                got = rows.take_all()
                self.assertTrue(os.path.exists(grave), "no actor was killed")
        finally:
            ray.shutdown()
        self.assertEqual(sorted(row["id"] for row in got), list(range(ROWS)))
        for row in got:
            self.assertEqual((row["error"], row["text"]), ("", want[row["prompt"]]))


if __name__ == "__main__":
    unittest.main()
