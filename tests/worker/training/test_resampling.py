"""Dynamic sampling, and whole reinforcement runs with every option of the loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from safetensors.torch import load_file

from app.core.spec.graders import PythonGrader
from app.core.spec.job import GroupMix, Lora, Sampling
from app.core.spec.reports import Finished, Groups, Source, TrainerExit
from tests.worker.training.runs import STEPS, Job, of_kind, steady
from worker.training.batching import DataOrder
from worker.training.resampling import replace_groups_without_contrast
from worker.training.types import Prompt, PromptGroup

VARIED: Final = PythonGrader(
    source="def grade(sample, item):\n  return float(ord(sample['output_text'][:1] or 'a') % 2)"
)
"""Some groups have contrast, and some do not."""


def prompts(*lines: int) -> list[Prompt]:
    return [Prompt(line, "", (1,), (), {}) for line in lines]


def test_replacement_by_hand() -> None:
    """Prompts 2 and 3 are flat, then 8, whose replacement 9 is flat too; 7 has contrast. No other spare is left."""
    groups = [PromptGroup(prompt, [], prompt.line != 1) for prompt in prompts(1, 2, 3)]
    asked: list[tuple[int, list[int]]] = []

    def roll_out(wanted: Sequence[Prompt], number: int) -> list[PromptGroup]:
        asked.append((number, [prompt.line for prompt in wanted]))
        return [PromptGroup(prompt, [], prompt.line > 7) for prompt in wanted]

    assert replace_groups_without_contrast(groups, 4, prompts(8, 7, 9), roll_out) == 5
    assert asked == [(1, [8, 7]), (2, [9]), (3, [9]), (4, [9])]
    assert [group.prompt.line for group in groups] == [1, 9, 7]
    assert replace_groups_without_contrast(groups[:1], 4, prompts(8), roll_out) == 0
    assert len(asked) == 4


def test_spare_prompts_are_those_of_no_group() -> None:
    order = DataOrder(prompts(*range(1, 8)), 3, 2, seed=5)
    for step in (1, 2, 3):
        used, spare = ({prompt.line for prompt in found} for found in (order.step(step), order.spare(step)))
        assert used | spare == set(range(1, 8))
        assert not used & spare
    assert order.spare(2) == DataOrder(prompts(*range(1, 8)), 3, 2, seed=5).spare(2)
    assert order.spare(1) != order.spare(4)


@pytest.fixture
def options() -> dict[str, Any]:
    return {
        "grader": VARIED,
        "group": GroupMix(expert=0, teacher=0, self_=4),
        "sampling": Sampling(max_tokens=6),
        "lora": Lora(r=4, alpha=8, dropout=0.2),
        "kl_coefficient": 0.1,
        "advantage_scaling": "none",
        "loss_normalization": "sequence",
        "mask_truncated": True,
        "updates_per_batch": 2,
        "clip_low": 0.01,
        "clip_high": 0.02,
        "importance_cap": 1.5,
        "resampling_rounds": 2,
    }


def test_every_option_resumes_bit_for_bit(options: dict[str, Any], tmp_path: Path, chat_directory: Path) -> None:
    """From a trained adapter, which stays the reference of the divergence in every attempt."""
    start = Job(tmp_path / "start", chat_directory, "supervised")
    code, reports = start.run(n_epochs=8)  # after which some rollouts end
    assert code is TrainerExit.succeeded
    options["adapter_path"] = Path(of_kind(reports, Finished)[0].path)
    options.pop("lora")  # the adapter's own
    whole = Job(tmp_path / "whole", chat_directory, "reinforcement")
    code, reports = whole.run(**options)
    assert code is TrainerExit.succeeded
    middle = STEPS // 2
    again = whole.sibling("again")
    code, resumed = again.run(resume_from=whole.checkpoint(middle), **options)
    assert code is TrainerExit.succeeded
    expected = steady(reports)
    assert steady(resumed) == {step: expected[step] for step in range(middle + 1, STEPS + 1)}
    assert of_kind(resumed, Groups) == [one for one in of_kind(reports, Groups) if one.step > middle]
    assert again.adapter_after(STEPS) == whole.adapter_after(STEPS)
    assert len({whole.adapter_after(step) for step in range(1, STEPS + 1)}) > 1

    values = [expected[step] for step in range(1, STEPS + 1)]
    assert values[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert any((row["kl"] or 0) > 0 for row in values[1:])
    assert sum(row["gft/resampled_groups"] or 0 for row in values) > 0
    assert sum(row["gft/masked_rollouts"] or 0 for row in values) > 0
    assert any((row["clip_ratio/region_mean"] or 0) > 0 for row in values)
    # The sampler of the trainer is the trainer's own policy.
    for row in values:
        if row.get("sampling/importance_sampling_ratio/mean") is not None:
            assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)
            assert row["gft/importance_truncated_frac"] == 0
    lines = {group.row for one in of_kind(reports, Groups) for group in one.groups}
    assert lines <= set(range(1, 9))


def test_dropout_drops_the_same_units_in_all_updates(
    options: dict[str, Any], tmp_path: Path, chat_directory: Path
) -> None:
    """At a learning rate of almost 0 no ratio leaves the narrowest clip, although LoRA's dropout is on."""
    quiet = {"clip_low": 1e-3, "clip_high": 1e-3, "kl_coefficient": 0.0, "mask_truncated": False, "n_epochs": 1}
    job = Job(tmp_path / "run", chat_directory, "reinforcement")
    code, reports = job.run(**options | quiet, learning_rate_multiplier=1e-6)
    assert code is TrainerExit.succeeded
    rows = list(steady(reports).values())[1:]
    assert {row["clip_ratio/region_mean"] for row in rows} == {0.0}
    assert any(load_file(job.checkpoint(STEPS // 2) / "adapter_state.safetensors"))
    assert {member.source for one in of_kind(reports, Groups) for group in one.groups for member in group.members} == {
        Source.self
    }
