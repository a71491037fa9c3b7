"""Resumed runs: bit for bit at any step after a stop or a kill, and warm starts from a trained adapter."""

import json
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from app.core.inference.probe import MAX_TOKENS, Probe
from app.core.spec.graders import PythonGrader
from app.core.spec.job import Evaluation, Lora
from app.core.spec.reports import CheckpointSaved, Evaluated, Finished, Groups, Metrics, Report, Started, TrainerExit
from tests.worker.training import plain
from tests.worker.training.runs import (
    STEPS,
    Job,
    evaluations,
    of_kind,
    read_until,
    results,
    sha256,
    steady,
    trainer_process,
)
from worker.training import checkpoints, groups, trainer
from worker.training.batching import DataOrder
from worker.training.rollouts import sampler

KINDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "gft": ("gft", {}),
    "supervised": ("supervised", {}),
    "dpo": ("dpo", {"lora": Lora(r=4, alpha=8, dropout=0.3), "lr_schedule": "cosine"}),
    "all that is random": (
        "gft",
        {
            "lora": Lora(r=4, alpha=8, dropout=0.3),
            "lr_schedule": "cosine",
            "evaluation": Evaluation(pass_samples=3, patience=50),
        },
    ),
}


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run."""

    job: Job
    options: Mapping[str, Any]
    reports: list[Report]


@pytest.fixture(scope="module", params=list(KINDS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, chat_directory: Path) -> Whole:
    method, options = KINDS[request.param]
    job = Job(tmp_path_factory.mktemp(method) / "whole", chat_directory, method)
    code, reports = job.run(**options)
    assert code is TrainerExit.succeeded
    return Whole(job, options, reports)


def test_checkpoint_holds_the_adapter_for_peft(whole: Whole) -> None:
    directory = whole.job.checkpoint(STEPS)
    state, exported = (load_file(directory / f"adapter_{name}.safetensors") for name in ("state", "model"))
    assert exported.keys() == {name.replace(".default.weight", ".weight") for name in state}
    assert all(torch.equal(exported[name.replace(".default", "")], value) for name, value in state.items())
    assert json.loads((directory / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_published_adapter_has_a_probe(whole: Whole) -> None:
    probe = Probe.model_validate_json((whole.job.run_dir / "adapter" / "probe.json").read_bytes())
    assert len(probe.ids) <= MAX_TOKENS
    base = plain.plain_base(whole.job.base)
    model: Any = PeftModel.from_pretrained(base, str(whole.job.run_dir / "adapter"))
    assert logprobs(model, probe) == pytest.approx(probe.logprobs, abs=1e-4)
    with model.disable_adapter():
        assert logprobs(model, probe) == pytest.approx(probe.base_logprobs, abs=1e-4)
    assert probe.logprobs != pytest.approx(probe.base_logprobs, abs=1e-4)


def logprobs(model: Any, probe: Probe) -> list[float]:
    """Log p of the probe's completion in a model of transformers or PEFT."""
    with torch.no_grad():
        logits_T_V = model(input_ids=torch.tensor([probe.ids])).logits[0, len(probe.prompt_ids) - 1 : -1]
    tokens_T = torch.tensor(probe.completion_ids)
    found: list[float] = logits_T_V.float().log_softmax(-1).gather(-1, tokens_T[:, None]).squeeze(-1).tolist()
    return found


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_resume_at_any_step_is_bit_for_bit(whole: Whole, step: int) -> None:
    again = whole.job.sibling(f"from-{step}")
    code, resumed = again.run(resume_from=whole.job.checkpoint(step), **whole.options)
    assert code is TrainerExit.succeeded
    assert of_kind(resumed, Started)[0].resumed_from_step == step
    assert again.published == whole.job.published
    assert [again.adapter_after(later) for later in range(step + 1, STEPS + 1)] == [
        whole.job.adapter_after(later) for later in range(step + 1, STEPS + 1)
    ]
    expected = steady(whole.reports)
    assert steady(resumed) == {number: expected[number] for number in range(step + 1, STEPS + 1)}
    assert of_kind(resumed, Groups) == [one for one in of_kind(whole.reports, Groups) if one.step > step]
    assert evaluations(resumed) == [one for one in evaluations(whole.reports) if one.step > step]
    assert results(resumed) == results(whole.reports)[1:]


def test_every_step_changes_the_adapter(whole: Whole) -> None:
    """If these were equal, the test above would prove nothing."""
    assert len({whole.job.adapter_after(step) for step in range(1, STEPS + 1)}) == STEPS


def test_negative_control_other_seed(whole: Whole) -> None:
    reseeded = whole.job.sibling("reseeded", seed=8)
    assert reseeded.run(resume_from=whole.job.checkpoint(4), **whole.options)[0] is TrainerExit.succeeded
    assert reseeded.adapter_after(5) != whole.job.adapter_after(5)


@pytest.mark.parametrize("whole", ["all that is random"], indirect=True)
@pytest.mark.parametrize("stream", ["data order", "rollouts", "dropout"])
def test_negative_control_restarted_generators(stream: str, whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trainer with stateful generators would do if it did not store their state: repeat step 1's numbers at step
    5."""
    epoch = STEPS // 2

    def restarted(seed: int, kind: int, step: int, *rest: int) -> torch.Generator:
        return sampler.generator(seed, kind, step - epoch, *rest)

    right = DataOrder.step
    if stream == "data order":
        monkeypatch.setattr(DataOrder, "step", lambda order, step: right(order, step - epoch))
    else:
        monkeypatch.setattr(groups if stream == "rollouts" else trainer, "generator", restarted)
    forgetful = whole.job.sibling(f"restarted-{stream}")
    assert forgetful.run(resume_from=whole.job.checkpoint(epoch), **whole.options)[0] is TrainerExit.succeeded
    assert forgetful.adapter_after(epoch + 1) != whole.job.adapter_after(epoch + 1)


def test_negative_control_lost_moments(whole: Whole) -> None:
    forgetful = whole.job.sibling("forgetful")
    bare = forgetful.run_dir.with_name("bare")
    shutil.copytree(whole.job.checkpoint(4), bare)
    save_file({}, bare / "optimizer_state.safetensors")
    manifest = json.loads((bare / checkpoints.MANIFEST).read_text())
    manifest["optimizer_state.safetensors"] = sha256(bare / "optimizer_state.safetensors")
    (bare / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    assert forgetful.run(resume_from=bare, **whole.options)[0] is TrainerExit.succeeded
    assert forgetful.adapter_after(5) != whole.job.adapter_after(5)


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit(whole: Whole) -> None:
    victim = whole.job.sibling("killed")
    victim.write(**whole.options)
    with trainer_process(victim) as process:
        before = read_until(process, Metrics, 5)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    saved = of_kind(before, CheckpointSaved)[-1]
    assert saved.step == 4  # step 5 may have a checkpoint on disk, but it was not reported
    code, after = victim.run(resume_from=Path(saved.path), **whole.options)
    assert code is TrainerExit.succeeded
    assert victim.published == whole.job.published
    assert victim.adapter_after(STEPS) == whole.job.adapter_after(STEPS)
    kept = [row for row in of_kind(before, Metrics) if row.step <= saved.step]  # as the runner's journal does
    assert steady([*kept, *after]) == steady(whole.reports)


def test_warm_start_has_the_published_weights(tmp_path: Path, chat_directory: Path) -> None:
    adapter: Path | None = None
    before: Evaluated | None = None
    # A reward that differs between the random rollouts of an untrained model.
    varied = PythonGrader(source="def grade(sample, item):\n  return sum(map(ord, sample['output_text'])) % 7 / 7")
    for method in ("supervised", "gft", "reinforcement"):
        job = Job(tmp_path / method, chat_directory, method)
        code, reports = job.run(stopped=True, adapter_path=adapter, grader=varied)
        assert code is TrainerExit.stopped
        if adapter is not None and before is not None:
            former = load_file(adapter / "adapter_model.safetensors")
            start = load_file(job.checkpoint(0) / "adapter_state.safetensors")
            assert {name.replace(".default.", "."): value.tolist() for name, value in start.items()} == {
                name: value.tolist() for name, value in former.items()
            }
            # The divergence is measured from the adapter that this job starts from.
            values = before.values | {"eval/forward_kl": 0.0}
            assert results(reports) == [before.model_copy(update={"step": 0, "values": values})]
            with_moments = load_file(job.checkpoint(0) / "optimizer_state.safetensors")
            assert with_moments == {}  # the optimiser starts afresh
        code, reports = job.run(resume_from=job.checkpoint(0), adapter_path=adapter, grader=varied)
        assert code is TrainerExit.succeeded
        [finished] = of_kind(reports, Finished)
        adapter = Path(finished.path)
        [*_, before] = results(reports)
        assert before.step == finished.published_step
