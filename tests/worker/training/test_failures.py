"""Diagnosis of hardware failures."""

from pathlib import Path

import pytest

from app.core.spec.reports import Failed, TrainerExit
from tests.worker.training.runs import Job, of_kind
from worker.training.failures import is_gpu_fault
from worker.training.optimizer import Updater

ECC = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported later"


@pytest.mark.parametrize(
    ("message", "broken"),
    [
        (ECC, True),
        ("CUDA error: unknown error", True),
        ("HIP error: no CUDA-capable device is detected", True),
        ("CUDA error: device-side assert triggered", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("unknown error", False),
    ],
)
def test_only_driver_hardware_errors_count(message: str, broken: bool) -> None:
    assert is_gpu_fault(RuntimeError(message)) is broken


def test_broken_gpu_exits_79_with_driver_error(
    tmp_path: Path, chat_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError(ECC)

    monkeypatch.setattr(Updater, "update", breaks)
    code, reports = Job(tmp_path / "run", chat_directory, "supervised").run()
    assert code is TrainerExit.gpu_fault
    assert [(one.code, one.message) for one in of_kind(reports, Failed)] == [
        ("gpu_fault", "The GPU is broken: CUDA error: uncorrectable ECC error encountered")
    ]
