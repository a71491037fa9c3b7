"""The numbers of a step, from groups made by hand."""

import math

import pytest
import torch

from app.core.spec.reports import Source
from worker.training.metrics import group_records, mfu, peak_flops, step_metrics
from worker.training.optimizer import UpdateResult
from worker.training.types import GroupMember, Prompt, PromptGroup

UPDATE = UpdateResult(
    loss=0.25, grad_norm=1.5, trained_tokens=20, packed_tokens=30, prefix_dedup_ratio=2.0, applied=True
)


def member(source: Source, length: int, **values: object) -> GroupMember:
    made = GroupMember(source, tuple(range(length)), f"{source} {length}", finished=True)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def groups() -> list[PromptGroup]:
    """A mixed group with one failed grade, and a flat one that cost no forward pass."""
    mixed = [
        member(Source.expert, 4, reward=1.0, advantage=1.0, mean_nll=0.5, mean_p=0.6, rectified_frac=0.5, entropy=1.0),
        member(
            Source.teacher, 2, reward=0.0, advantage=-1.0, mean_nll=1.5, mean_p=0.2, rectified_frac=1.0, entropy=2.0
        ),
        member(Source.teacher, 3, error="grader 'exact': no"),
        member(
            Source.self,
            2,
            reward=0.5,
            advantage=0.0,
            finished=False,
            sampled_logprobs=(-1.0, -2.0),
            trainer_logprobs=[-1.1, -2.4],
            adapter_version=3,
        ),
    ]
    flat = [member(Source.expert, 1, reward=0.0, advantage=0.0), member(Source.self, 6, reward=0.0, advantage=0.0)]
    prompt = Prompt(9, "2+2=", (1,), (), {})
    return [PromptGroup(prompt, mixed), PromptGroup(prompt, flat, zero_variance=True)]


def values() -> dict[str, float | None]:
    return step_metrics(groups(), UPDATE, "exact")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", 0.25),
        ("grad_norm", 1.5),
        ("entropy", 1.5),
        ("reward", 0.3),
        ("reward_std", 0.25),
        ("rewards/exact/mean", 0.3),
        ("rewards/exact/std", math.sqrt(0.2)),
        ("frac_reward_zero_std", 0.5),
        ("completions/mean_length", 4.0),
        ("completions/clipped_ratio", 0.5),
        ("sampling/sampling_logp_difference/mean", 0.25),
        ("sampling/sampling_logp_difference/max", 0.4),
        ("gft/rectified_frac", 4 / 6),
        ("gft/prefix_dedup_ratio", 2.0),
        ("gft/skipped_update", 0.0),
        ("gft/grader_errors", 1.0),
        ("gft/demo_reward_fail_frac", 0.5),
        ("gft/reward_gap", 0.25),
        ("gft/expert/reward", 0.5),
        ("gft/expert/advantage", 0.5),
        ("gft/expert/nll", 0.5),
        ("gft/expert/mean_p", 0.6),
        ("gft/expert/rectified_frac", 0.5),
        ("gft/expert/length", 2.5),
        ("gft/teacher/reward", 0.0),
        ("gft/teacher/advantage", -1.0),
        ("gft/teacher/length", 2.5),
        ("gft/self/reward", 0.25),
        ("gft/self/length", 4.0),
    ],
)
def test_values_by_hand(name: str, expected: float) -> None:
    assert values()[name] == pytest.approx(expected)


def test_source_without_forward_pass_has_no_nll() -> None:
    assert values()["gft/self/nll"] is None


def test_absent_source_has_no_series() -> None:
    only_self = [PromptGroup(one.prompt, [m for m in one.members if m.source is Source.self]) for one in groups()]
    found = step_metrics(only_self, UPDATE, "exact")
    assert not any(name.startswith(("gft/expert", "gft/teacher")) for name in found)
    assert "gft/reward_gap" not in found


def test_no_reward_series_without_a_grader() -> None:
    found = step_metrics(groups(), UPDATE, None)
    assert not {"reward", "reward_std", "frac_reward_zero_std"} & set(found)
    assert found["loss"] == 0.25


def test_ungraded_step_reports_null() -> None:
    failed = [
        PromptGroup(one.prompt, [member(m.source, 2, error="no") for m in one.members], zero_variance=True)
        for one in groups()
    ]
    found = step_metrics(failed, UpdateResult(0.0, 0.0, 0, 0, None, applied=False), "exact")
    assert found["reward"] is None
    assert found["gft/expert/reward"] is None
    assert found["gft/grader_errors"] == 6
    assert found["frac_reward_zero_std"] == 1
    assert found["gft/skipped_update"] == 1
    assert not any(value is not None and math.isnan(value) for value in found.values())


def test_records_show_every_member() -> None:
    first, second = group_records(groups())
    assert (first.idx, first.row, first.prompt, first.zero_variance) == (0, 9, "2+2=", False)
    assert (second.idx, second.zero_variance) == (1, True)
    expert, _, failed, own = first.members
    assert (expert.source, expert.text, expert.tokens, expert.reward) == (Source.expert, "expert 4", 4, 1.0)
    assert (failed.reward, failed.advantage, failed.error) == (None, None, "grader 'exact': no")
    assert (own.finished, own.adapter_version) == (False, 3)


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
