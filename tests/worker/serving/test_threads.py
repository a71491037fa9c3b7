"""The engine leaves the cores to other processes that use them."""

import subprocess
import sys
import time

import pytest
import torch

from worker.serving.threads import SAMPLE_SECONDS, ThreadLimit, wanted_threads


@pytest.mark.parametrize(
    ("cores", "used_by_others", "most", "expected"),
    [(2, 0.1, 2, 2), (2, 0.9, 2, 1), (2, 2.0, 2, 1), (8, 3.2, 8, 5), (8, 0.0, 4, 4), (1, 0.0, 1, 1)],
)
def test_idle_cores_are_used(cores: int, used_by_others: float, most: int, expected: int) -> None:
    assert wanted_threads(cores, used_by_others, most) == expected


def test_busy_cores_are_left() -> None:
    limit = ThreadLimit(64)
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in limit._cpus]
    try:
        limit.adapt()
        deadline = time.monotonic() + 60
        while torch.get_num_threads() > 1 and time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)  # the interval that is measured
            limit.adapt()
        assert torch.get_num_threads() == 1
    finally:
        for process in burning:
            process.kill()
            process.wait()
