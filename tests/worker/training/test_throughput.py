"""Utilisation against numbers worked out by hand."""

import pytest
import torch

from worker.training.throughput import mfu, peak_flops


def test_mfu_by_hand() -> None:
    """1.5 B parameters, 10,000 tokens in 0.2 s: 4 x 1.5e9 x 1e4 = 6e13 FLOPs, at 3e14 a second of 1e15."""
    assert mfu(1_500_000_000, 10_000, 0.2, 1e15) == pytest.approx(0.3)
    assert mfu(1_500_000_000, 10_000, 0.2, None) is None


def test_a_cpu_has_no_data_sheet() -> None:
    assert peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 2060", None),
    ],
)
def test_gpus_are_known_by_their_names(name: str, expected: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0)) == expected
