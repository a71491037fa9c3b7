"""Whole dpo jobs: every step against TRL's DPOTrainer, the reference, held-out pairs, and the published adapter."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from app.core.chat.encoding import RowRules, encode
from app.core.spec.reports import (
    Evaluated,
    Failed,
    Finished,
    GroupRecord,
    Groups,
    Message,
    Metrics,
    Report,
    TrainerExit,
)
from app.core.spec.rows import read_rows
from tests import tiny_model
from tests.worker.training import plain, trl_dpo
from tests.worker.training.runs import STEPS, Job, evaluations, of_kind, results
from worker.training.tokenize import load_tokenizer
from worker.training.types import Prompt

BETA: Final = 0.4
OPTIONS: Final[dict[str, Any]] = {"beta": BETA, "learning_rate_multiplier": 300.0}
RULES: Final = RowRules("last", 64)


@dataclass(frozen=True)
class Trained:
    """A finished dpo run."""

    job: Job
    reports: list[Report]
    start: Path | None
    """The adapter that it started from."""

    @property
    def groups(self) -> dict[int, tuple[GroupRecord, ...]]:
        return {one.step: one.groups for one in of_kind(self.reports, Groups)}

    @property
    def values(self) -> dict[int, dict[str, float | None]]:
        return {one.step: one.values for one in of_kind(self.reports, Metrics)}

    def rows(self, name: str) -> dict[int, Prompt]:
        """The pairs of a file by line, encoded with the model's template."""
        tokenizer = load_tokenizer(self.job.base)
        return {
            line: Prompt(line, "", (1,), (), {}, pair=encode(row, tokenizer, RULES).preference)
            for line, row in read_rows(self.job.run_dir / name)
        }

    def trl(self, output: Path) -> Any:
        """TRL's trainer, which starts where the run started."""
        base = plain.plain_base(self.job.base)
        model: Any
        if self.start is None:
            model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        else:
            model = PeftModel.from_pretrained(base, str(self.start), is_trainable=True)
        return trl_dpo.open_trainer(model, self.job.base, output, BETA)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build(tmp_path_factory.mktemp("dpo") / "tiny", spread=0.3)


@pytest.fixture(scope="module", params=["new adapter", "warm start"])
def trained(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("runs")
    start = None
    if request.param == "warm start":
        supervised = Job(directory / "supervised", base, "supervised")
        [finished] = of_kind(supervised.run()[1], Finished)
        start = Path(finished.path)
    job = Job(directory / "dpo", base, "dpo")
    code, reports = job.run(stopped=True, adapter_path=start, **OPTIONS)
    assert code is TrainerExit.stopped
    code, resumed = job.run(resume_from=job.checkpoint(0), adapter_path=start, **OPTIONS)
    assert code is TrainerExit.succeeded
    return Trained(job, [*reports, *resumed], start)


@pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own
def test_every_step_equals_trl(trained: Trained, tmp_path: Path) -> None:
    """Loss, gradient before clipping, and metrics of each step, in a run that stopped and resumed before its first."""
    trainer = trained.trl(tmp_path)
    rows = trained.rows("training.jsonl")
    losses = []
    for step in range(1, STEPS + 1):
        trl_dpo.set_adapter(trainer, load_file(trained.job.checkpoint(step - 1) / "adapter_state.safetensors"))
        trainer._metrics["train"].clear()
        pairs = [rows[group.row] for group in trained.groups[step]]
        loss = trainer.compute_loss(trainer.model, trl_dpo.batch(trainer, pairs))
        values, expected = trained.values[step], trainer._metrics["train"]
        assert values["loss"] == pytest.approx(float(loss.detach()), abs=1e-5), step
        norm = math.sqrt(sum(float(value.square().sum()) for value in trl_dpo.gradients(trainer, loss).values()))
        assert values["grad_norm"] == pytest.approx(norm, rel=1e-5), step
        names = ["rewards/chosen", "rewards/rejected", "rewards/margins"]
        # In the first step both models agree: which answer has the higher reward is rounding.
        names += ["rewards/accuracies"] if step > 1 else []
        for name in names:
            assert values[name] == pytest.approx(expected[name][0], abs=1e-4), (step, name)
        for name in ("logps/chosen", "logps/rejected", "entropy"):
            assert values[name] is not None
        assert values["logps/chosen"] == pytest.approx(expected["logps/chosen"][0], rel=1e-5)
        losses.append(values["loss"] or 0.0)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.6  # it has learnt


@pytest.mark.filterwarnings("ignore")
def test_held_out_values_equal_trl(trained: Trained, tmp_path: Path) -> None:
    trainer = trained.trl(tmp_path)
    before, *_, last = evaluations(trained.reports)
    rows = trained.rows("validation.jsonl")
    *_, result = results(trained.reports)
    pairs = [rows[line] for line in result.selection_lines]
    assert before.values["eval/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert before.values["eval/rewards/margins"] == pytest.approx(0, abs=1e-5)
    trl_dpo.set_adapter(trainer, load_file(trained.job.checkpoint(STEPS) / "adapter_state.safetensors"))
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trl_dpo.batch(trainer, pairs))
    assert last.step == STEPS
    assert last.values["eval/loss"] == pytest.approx(float(loss), abs=1e-5)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert last.values[f"eval/{name}"] == pytest.approx(trainer._metrics["train"][name][-1], abs=1e-4), name
    assert last.values["eval/rewards/accuracies"] == 1
    assert last.values["eval/forward_kl"] is not None


def test_lowest_held_out_loss_is_published(trained: Trained) -> None:
    scores = {one.step: one.values["eval/loss"] or 0.0 for one in evaluations(trained.reports) if one.step}
    [finished] = of_kind(trained.reports, Finished)
    assert finished.published_step == min(scores, key=lambda step: (scores[step], -step))
    assert "held-out loss" in finished.reason


def test_reference_is_computed_once(trained: Trained) -> None:
    """The resumed attempt reads it from its checkpoint."""
    messages = [one.message for one in of_kind(trained.reports, Message) if "Reference" in one.message]
    assert len(messages) == 1
    assert "of 28 pairs" in messages[0]


def test_resume_needs_the_reference(trained: Trained, tmp_path: Path) -> None:
    again = trained.job.sibling(f"without-{trained.start is None}")
    bare = tmp_path / "step-00000003"
    bare.mkdir()
    for path in trained.job.checkpoint(3).iterdir():
        if path.name != "reference.safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    code, reports = again.run(resume_from=bare, adapter_path=trained.start, **OPTIONS)
    assert code is TrainerExit.bad_data
    [failed] = of_kind(reports, Failed)
    assert failed.code == "damaged_checkpoint"
    assert "reference.safetensors" in failed.message


def test_groups_show_both_answers(trained: Trained) -> None:
    for group in (group for groups in trained.groups.values() for group in groups):
        better, worse = group.members
        assert (better.source, worse.source) == ("preferred", "non_preferred")
        assert worse.text.startswith("it is ")
        assert better.finished
        assert worse.finished
        assert better.advantage == pytest.approx(-(worse.advantage or 0.0))
        assert 0 < (better.advantage or 0.0) < BETA


def test_rows_without_a_pair_are_counted(base: Path, tmp_path: Path) -> None:
    """Rows of another kind in a file of pairs are not used, and the job says so."""
    rows = tmp_path / "rows.jsonl"
    tiny_model.write_pairs(rows, 4)
    with rows.open("a", encoding="utf-8") as out:
        chat = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
        out.write(json.dumps({"messages": chat}) + "\n")
        out.write(json.dumps({"prompt": "1+1=", "chosen": "2", "rejected": "3" * 80}) + "\n")
    code, reports = Job(tmp_path / "run", base, "dpo").run(training=rows, n_epochs=1)
    assert code is TrainerExit.succeeded
    [lost] = [one.message for one in of_kind(reports, Message) if "rows of the training file" in one.message]
    assert lost.startswith("2 of 6 rows of the training file are not used")
    seen = {group.row for one in of_kind(reports, Groups) for group in one.groups}
    assert seen == {1, 2, 3, 4}


def test_pairs_train_nothing_else(base: Path, tmp_path: Path) -> None:
    rows = tiny_model.write_pairs(tmp_path / "rows.jsonl", 4)
    code, reports = Job(tmp_path / "run", base, "supervised").run(training=rows, validation=rows)
    assert code is TrainerExit.bad_data
    assert [one.code for one in of_kind(reports, Failed)] == ["no_usable_rows"]


def test_grader_scores_held_out_answers(base: Path, tmp_path: Path) -> None:
    """A grader grades sampled answers to held-out rows, with or without pairs, and chooses the adapter."""
    held_out = tiny_model.write_rows(tmp_path / "held-out.jsonl", 3)
    grader = {"type": "string_check", "input": "{{sample.output_text}}", "operation": "like", "reference": "1"}
    code, reports = Job(tmp_path / "run", base, "dpo").run(validation=held_out, grader=grader | {"name": "one"})
    assert code is TrainerExit.succeeded
    last = of_kind(reports, Evaluated)[-1]
    assert last.values["eval/reward"] is not None
    assert last.values["eval/loss"] is None
    assert "eval/rewards/margins" not in last.values
