"""The hardware that a worker detects and reports."""

import os
from pathlib import Path

import pytest

from app.core.settings import Settings
from app.core.spec.hardware import Hardware
from worker import hardware

DRIVER = """#!/bin/sh
[ "$1" = "--query-gpu=name,memory.total" ] || exit 2
case "$*" in
  *"-i 1"*) echo "NVIDIA H100 80GB HBM3, 81559" ;;
  *) printf 'NVIDIA H100 80GB HBM3, 81559\\nNVIDIA H100 80GB HBM3, 81000\\n' ;;
esac
"""


def test_cpu_is_reported_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    detected = hardware.detect(Settings(trainer_threads=1))
    assert (detected.accelerator, detected.accelerators, detected.accelerator_memory_bytes) == (None, 0, None)
    assert detected.device == f"{detected.processor}, 1 thread"
    assert detected.cores == len(os.sched_getaffinity(0))
    assert detected.trainer_memory_bytes == detected.memory_bytes > 2**28


def test_driver_reports_the_visible_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(DRIVER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    both = hardware.detect(Settings(trainer_processes=2))
    assert (both.accelerators, both.device) == (2, "2 x NVIDIA H100 80GB HBM3")
    assert both.trainer_memory_bytes == 81000 * 1024**2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    visible = hardware.detect(Settings())
    assert (visible.accelerators, visible.device) == (1, "NVIDIA H100 80GB HBM3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.detect(Settings()).accelerator is None
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert hardware.detect(Settings()).accelerator is None


def test_memory_respects_the_container_limit(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("268435456\n")
    assert hardware.memory_bytes((str(limit),)) == 2**28
    limit.write_text("max\n")
    assert hardware.memory_bytes((str(limit), str(tmp_path / "missing"))) > 2**28
    assert Hardware(memory_bytes=1, processor="CPU", threads=2).device == "CPU, 2 threads"
