"""Whole runs: the order of reports, exit codes, and the published adapter."""

import dataclasses
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from app.core.retry import RetryPolicy
from app.core.spec.graders import EndpointGrader
from app.core.spec.job import GroupMix, MethodType
from app.core.spec.reports import (
    CheckpointSaved,
    Evaluated,
    Failed,
    Finished,
    Groups,
    Message,
    Metrics,
    Report,
    Source,
    Started,
    TrainerExit,
)
from tests.http_server import Received, Reply, http_server
from tests.worker.training.runs import (
    STEPS,
    Job,
    evaluations,
    of_kind,
    parse,
    read_until,
    results,
    steady,
    trainer_process,
)
from worker.training import checkpoints
from worker.training.types import in_request

METHODS = ("gft", "supervised")


@pytest.fixture(scope="module", params=METHODS)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, chat_directory: Path
) -> tuple[Job, list[Report]]:
    """An uninterrupted run of each method."""
    job = Job(tmp_path_factory.mktemp(request.param) / "whole", chat_directory, request.param)
    code, reports = job.run()
    assert code is TrainerExit.succeeded
    return job, reports


def test_reports_come_in_order(whole: tuple[Job, list[Report]]) -> None:
    job, reports = whole
    expected: list[tuple[type[Report], int | None]] = [
        (Message, None),  # how the held-out rows are used
        (Started, None),
        (Evaluated, 0),
        (Evaluated, 0),
        (Metrics, 0),
    ]
    for step in range(1, STEPS + 1):
        expected.append((Groups, step))
        expected += [(Evaluated, step)] if step % 3 == 0 or step == STEPS else []
        expected.append((Metrics, step))
        expected.append((CheckpointSaved, step))
    [finished] = of_kind(reports, Finished)
    expected += [(Evaluated, finished.published_step), (Finished, STEPS)]
    assert [(type(report), getattr(report, "step", None)) for report in reports] == expected
    [started] = of_kind(reports, Started)
    assert (started.total_steps, started.resumed_from_step, started.batch_size) == (STEPS, 0, 2)
    assert started.learning_rate == pytest.approx(1e-3 if job.method == "gft" else 1e-2)


def test_one_metrics_row_a_step_with_evaluations(whole: tuple[Job, list[Report]]) -> None:
    _, reports = whole
    rows = steady(reports)
    assert list(rows) == list(range(STEPS + 1))
    charted = {report.step: report.values for report in evaluations(reports)}
    assert set(charted) == {0, 3, 6, 8}
    for step, values in rows.items():
        assert {name: value for name, value in values.items() if name.startswith("eval/")} == charted.get(step, {})
    tokens = [float(row.values["num_tokens"] or 0) for row in of_kind(reports, Metrics)[1:]]
    assert tokens == sorted(tokens)
    finished = of_kind(reports, Finished)[0]
    # Answers of groups without contrast count in the loss but need no pass.
    flat = sum(m.tokens for step in of_kind(reports, Groups) for g in step.groups if g.zero_variance for m in g.members)
    assert tokens[-1] == finished.trained_tokens - flat > 0


def test_groups_hold_every_source_of_the_method(whole: tuple[Job, list[Report]]) -> None:
    job, reports = whole
    sources = [Source.expert, *[Source.teacher] * 3, *[Source.self] * 4] if job.method == "gft" else [Source.expert]
    for report in of_kind(reports, Groups):
        assert len(report.groups) == 2
        for group in report.groups:
            assert [member.source for member in group.members] == sources
            versions = {member.adapter_version for member in group.members if member.source is Source.self}
            assert versions <= {report.step - 1}
            assert all(member.advantage is not None for member in group.members)


def test_every_row_is_seen_once_an_epoch(whole: tuple[Job, list[Report]]) -> None:
    _, reports = whole
    rows = [group.row for report in of_kind(reports, Groups) for group in report.groups]
    assert sorted(rows[:8]) == sorted(rows[8:]) == list(range(1, 9))


@pytest.mark.slow
def test_stop_request_checkpoints_and_exits_75(tmp_path: Path, chat_directory: Path) -> None:
    job = Job(tmp_path / "stopped", chat_directory)
    job.write(n_epochs=50)
    with trainer_process(job) as process:
        before = read_until(process, Metrics, 3)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        after = parse(process.stdout.read())
        assert process.wait() == TrainerExit.stopped
    assert isinstance(after[-1], CheckpointSaved)
    assert after[-1].step == of_kind([*before, *after], Metrics)[-1].step < of_kind(before, Started)[0].total_steps
    assert Path(after[-1].path) == job.checkpoint(after[-1].step)
    assert (job.checkpoint(after[-1].step) / checkpoints.MANIFEST).is_file()
    assert of_kind(after, Finished) == []


@pytest.mark.slow
def test_invalid_row_exits_65_and_names_the_line(tmp_path: Path, chat_directory: Path) -> None:
    job = Job(tmp_path / "broken", chat_directory)
    job.write()
    with (job.run_dir / "training.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"messages": "none"}\n')
    with trainer_process(job) as process:
        output = process.output(240)
    assert process.returncode == 65
    [failed] = parse(output)
    assert isinstance(failed, Failed)
    assert failed.message.startswith("line 9: ")
    assert failed.param == "training_file"


@pytest.fixture
def job(tmp_path: Path, chat_directory: Path) -> Job:
    return Job(tmp_path / "run", chat_directory)


def test_invalid_held_out_row_names_its_file(job: Job, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": "none"}\n', encoding="utf-8")
    code, [failed] = job.run(validation=broken)
    assert code is TrainerExit.bad_data
    assert isinstance(failed, Failed)
    assert (failed.code, failed.param) == ("invalid_file", "validation_file")


def test_unknown_lora_target_is_bad_config(job: Job) -> None:
    code, reports = job.run(lora={"r": 4, "alpha": 8, "target_modules": ["q_proj_of_another_model"]})
    assert code is TrainerExit.bad_config
    [failed] = reports
    assert isinstance(failed, Failed)
    assert (failed.code, failed.param) == ("invalid_lora", "method.gft.hyperparameters.lora.target_modules")


@pytest.mark.parametrize(
    ("param", "shown"),
    [
        ("method.grader", "method.dft.grader"),
        ("method.hyperparameters.lora", "method.dft.hyperparameters.lora"),
        ("method.gft.teacher", "method.gft.teacher"),
        ("training_file", "training_file"),
    ],
)
def test_params_have_the_method(param: str, shown: str) -> None:
    assert in_request(param, MethodType.dft) == shown


def test_run_stops_early_without_progress(job: Job) -> None:
    code, reports = job.run(patience=1, learning_rate_multiplier=0.001)
    assert code is TrainerExit.succeeded
    *_, message, _result, finished = reports
    assert isinstance(message, Message)
    assert message.message.startswith("Stopped early at step 6: ")
    assert isinstance(finished, Finished)
    assert (finished.step, finished.published_step) == (6, 6)
    assert list(steady(reports)) == list(range(7))


def test_too_long_rows_are_reported_first(job: Job, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    fine = {"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]}
    long = {"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2" * 42}]}
    rows.write_text(
        "\n".join(json.dumps(row | {"reference_answer": "2"}) for row in (fine, long, fine)), encoding="utf-8"
    )
    code, reports = Job(job.run_dir, job.base, "supervised").run(training=rows, n_epochs=1)
    assert code is TrainerExit.succeeded
    assert isinstance(reports[0], Message)
    assert reports[0].level == "warn"
    assert reports[0].message.startswith("1 of 3 rows of the training file is not used: 1 with an answer that is")
    assert "line 2: " in reports[0].message
    assert {group.row for report in of_kind(reports, Groups) for group in report.groups} == {1, 3}


def test_data_without_usable_rows_is_rejected(job: Job, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "1+1="}]}\n', encoding="utf-8")
    code, [*_, failed] = Job(job.run_dir, job.base, "supervised").run(training=rows)
    assert code is TrainerExit.bad_data
    assert isinstance(failed, Failed)
    assert failed.code == "no_usable_rows"


def test_failing_grader_fails_the_job(job: Job, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    chat = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
    rows.write_text("\n".join([json.dumps({"messages": chat})] * 8), encoding="utf-8")
    code, reports = job.run(training=rows)
    assert code is TrainerExit.bad_data
    assert isinstance(reports[-1], Failed)
    assert reports[-1].code == "grader_errors"
    assert re.search(r"of the last \d+ grades failed \(lines \d", reports[-1].message)
    assert "item.reference_answer does not exist in this row" in reports[-1].message


@pytest.mark.parametrize(
    ("bad", "code", "rows"), [({"3"}, "grader_rows_failed", (4,)), (None, "grader_unavailable", ())]
)
def test_reward_server_that_fails(job: Job, bad: set[str] | None, code: str, rows: tuple[int, ...]) -> None:
    """On one row in each answer, or altogether: either way the job waits, and the report names that row."""

    def reply(request: Received) -> Reply:
        [one] = json.loads(request.body)["samples"]
        if bad is None or one["item"]["reference_answer"] in bad:
            return Reply(b"later", 503)
        return Reply(b'{"results": [{"reward": 0.5}]}')

    with http_server(reply) as url:
        failing = dataclasses.replace(
            job,
            trainer={"allowed_private_hosts": ("127.0.0.1",)},
            retry_policy=RetryPolicy(2, longest_wait_seconds=0.01),
        )
        group = GroupMix(expert=1, teacher=0, self_=24)
        ended, [*_, failed] = failing.run(grader=EndpointGrader(url=url), group=group)
    assert ended is TrainerExit.dependency_down
    assert isinstance(failed, Failed)
    assert (failed.code, failed.rows) == (code, rows)
    assert "answered 503: later" in failed.message


def test_damaged_checkpoint_is_rejected(whole: tuple[Job, list[Report]], tmp_path: Path) -> None:
    job, _ = whole
    for name in ("adapter_state.safetensors", "optimizer_state.safetensors", "state.json"):
        damaged = tmp_path / name
        shutil.copytree(job.checkpoint(4), damaged)
        content = bytearray((damaged / name).read_bytes())
        content[-3] ^= 1
        (damaged / name).write_bytes(content)
        code, [*_, failed] = job.sibling(f"damaged-{name}").run(resume_from=damaged)
        assert code is TrainerExit.bad_data
        assert isinstance(failed, Failed)
        assert failed.code == "damaged_checkpoint"
        assert name in failed.message


def test_published_adapter_is_the_best_one(whole: tuple[Job, list[Report]]) -> None:
    job, reports = whole
    scores = {one.step: one.values["eval/reward"] or 0.0 for one in evaluations(reports) if one.step > 0}
    best = max(scores, key=lambda step: (scores[step], step))
    [finished] = of_kind(reports, Finished)
    assert Path(finished.path) == job.run_dir / "adapter"
    assert finished.published_step == best
    assert [one.step for one in evaluations(reports) if one.best][-1] == best
    before, after = results(reports)
    assert (before.step, after.step) == (0, best)
    assert set(before.rows.lines) == set(after.rows.lines) == {*range(1, 21)} - {*after.selection_lines}
    assert len(after.selection_lines) == 10
    published = load_file(job.run_dir / "adapter" / "adapter_model.safetensors")
    last = job.checkpoint(STEPS)
    kept = load_file(last / ("adapter_state.safetensors" if best == STEPS else "best_adapter.safetensors"))
    assert {name: value.tolist() for name, value in published.items()} == {
        name.replace(".default.", "."): value.tolist() for name, value in kept.items()
    }
