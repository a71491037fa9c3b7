"""Every outcome of an attempt, with real subprocesses."""

import csv
import hashlib
from pathlib import Path

import pytest

from app.core.accounts.audit import Actor
from app.core.files.tables import File
from app.core.files.uploads import get_file
from app.core.jobs import lifecycle, queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import Job
from app.core.models import permissions
from app.core.models.tables import TrainedModel
from app.core.settings import Settings
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.job import TrainerSpec
from tests.setup_jobs import make_job, make_project
from tests.waiting import eventually
from tests.worker.conftest import Bench, Outage


def messages(bench: Bench) -> list[str]:
    with bench.database.transaction() as session:
        events, _ = queries.list_events(session, bench.job_id, after=None, limit=100)
    assert [event.seq for event in events] == list(range(len(events), 0, -1))
    return [event.message for event in events][::-1]


def outcomes(bench: Bench) -> list[str | None]:
    with bench.database.transaction() as session:
        return [attempt.outcome for attempt in queries.list_attempts(session, bench.job_id)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_job_publishes_its_adapter(bench: Bench) -> None:
    job = bench.run("train:5")
    assert (job.status, job.error) == (JobStatus.succeeded, None)
    assert (job.step, job.total_steps, job.trained_tokens) == (5, 5, 5)
    assert job.fine_tuned_model is not None
    with bench.database.transaction() as session:
        model = session.get_one(TrainedModel, job.fine_tuned_model)
        assert bench.store.exists(f"{model.blob}/adapter_config.json")
        metrics = queries.list_metrics(session, job.id)
        assert [metric.step for metric in metrics] == [1, 2, 3, 4, 5]
        assert metrics[0].values == {"loss": 1.0, "reward": None}
        assert [row.step for row in queries.latest_checkpoints(session, job.id)] == [4, 2]
    assert outcomes(bench) == [AttemptOutcome.succeeded]
    texts = messages(bench)
    assert texts[3] == "Fine-tuning job started"
    assert "Step 3/5: training loss=0.3333" in texts
    assert texts[-2:] == [
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert sorted(path.name for path in bench.run_dir().iterdir()) == ["spec.json", "trainer.log"]


def test_metrics_become_a_result_file(bench: Bench) -> None:
    job = bench.run("train:3")
    (file_id,) = job.result_files
    with bench.database.transaction() as session:
        file = get_file(session, bench.project, file_id)
    assert (file.filename, file.purpose, file.status) == ("step_metrics.csv", "fine-tune-results", "processed")
    with bench.store.open(file.blob) as stream:
        content = stream.read()
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [float(row["train_loss"]) for row in rows] == [1, 1 / 2, 1 / 3]
    assert {row["train_mean_reward"] for row in rows} == {""}


@pytest.mark.parametrize(("behaviour", "has_adapter"), [("train:4", False), ("train_with_adapters:4", True)])
def test_checkpoint_models_record_has_adapter(bench: Bench, behaviour: str, has_adapter: bool) -> None:
    job = bench.run(behaviour)
    with bench.database.transaction() as session:
        for step in (2, 4):
            model = session.get_one(TrainedModel, f"{job.fine_tuned_model}:ckpt-step-{step}")
            assert model.has_adapter is has_adapter
            assert bench.store.exists(f"{model.blob}/state.json")


def test_revoked_model_fails_the_job(bench: Bench) -> None:
    with bench.database.transaction() as session:
        owner = make_project(session, "owner")
        owner_job = make_job(session, owner)
        lifecycle.cancel(session, Actor(owner), owner_job.id)
        name = "ft:tiny:owner::12345678"
        session.add(TrainedModel(id=name, project_id=owner, job_id=owner_job.id, base_model="tiny", blob="b"))
        session.flush()
        (permission,) = permissions.grant(session, owner, name, [bench.project])
        job = session.get_one(Job, bench.job_id)
        job.spec = job.spec | {"model": name}
    bench.store.write("b/adapter_config.json", [b"{}"])
    bench.store.write("b/SHA256SUMS", [f"{hashlib.sha256(b'{}').hexdigest()}  adapter_config.json\n".encode()])
    assert bench.run("exit:1").status == "queued"  # a crash, after a start that the permission still allowed
    with bench.database.transaction() as session:
        permissions.revoke(session, owner, name, permission.id)
    failed = bench.run("train:2")
    assert failed.error is not None
    assert (failed.status, failed.error["code"], failed.error["param"]) == ("failed", "model_not_found", "model")


def test_failed_job_has_no_result_file(bench: Bench) -> None:
    assert bench.run("fail:65").result_files == []


def test_leftovers_of_a_killed_runner_are_removed(bench: Bench) -> None:
    old_run_dir = bench.run_dir(0)
    (old_run_dir / "resume" / "step-1").mkdir(parents=True)
    (old_run_dir / "training_file.jsonl").write_text("{}")
    (old_run_dir / "trainer.log").write_text("kept")
    assert bench.run("train:1").status == JobStatus.succeeded
    assert [path.name for path in old_run_dir.iterdir()] == ["trainer.log"]


def test_crashed_job_resumes_from_checkpoint(bench: Bench) -> None:
    job = bench.run("crash:6")
    assert (job.status, job.crashes) == (JobStatus.queued, 1)
    assert any("killed by SIGSEGV" in message for message in messages(bench))
    assert bench.run("train:8").status == JobStatus.succeeded
    with bench.database.transaction() as session:
        assert [metric.step for metric in queries.list_metrics(session, bench.job_id)] == list(range(1, 9))
        assert [attempt.resumed_from_step for attempt in queries.list_attempts(session, bench.job_id)] == [
            0,
            4,
        ]
        blobs = {row.blob for row in queries.latest_checkpoints(session, bench.job_id)}
    stored = bench.store.list(f"jobs/{bench.job_id}")
    assert {key.rpartition("/")[0] for key in stored if "/checkpoints/" in key} == blobs


def test_damaged_checkpoint_is_skipped(bench: Bench) -> None:
    bench.run("crash:6")
    with bench.database.transaction() as session:
        newest = queries.latest_checkpoints(session, bench.job_id)[0]
    bench.store.path(f"{newest.blob}/state.json").write_text("9")
    assert bench.run("train:8").status == JobStatus.succeeded
    with bench.database.transaction() as session:
        assert queries.list_attempts(session, bench.job_id)[1].resumed_from_step == 2
    assert any("checkpoint at step 4 is damaged" in message for message in messages(bench))


def test_poison_job_fails_with_its_log_tail(bench: Bench) -> None:
    for _ in range(3):
        job = bench.run("crash:1")
    assert job.status == JobStatus.failed
    assert job.error is not None
    assert job.error["code"] == "crashed_repeatedly"
    assert "about to crash" in job.error["message"]


@pytest.mark.parametrize("code", [64, 65, 66, 71])
def test_permanent_failure_is_not_retried(bench: Bench, code: int) -> None:
    job = bench.run(f"fail:{code}")
    assert job.status == JobStatus.failed
    assert job.error == {"code": "no_memory", "message": "Use a smaller batch_size.", "param": "batch_size"}
    assert outcomes(bench) == [AttemptOutcome.failed]


def test_error_quotes_the_trainers_last_output(bench: Bench) -> None:
    job = bench.run("exit:65")
    assert job.error is not None
    assert job.error["code"] == "bad_data"
    assert "last words" in job.error["message"]


def test_rows_that_a_dependency_fails_on_reach_the_job(bench: Bench) -> None:
    job = bench.run("fail_on_row:17")
    assert (job.status, job.crashes, job.failing_rows) == (JobStatus.queued, 0, {"17": 1})


def test_dependency_outage_requeues_the_job(bench: Bench) -> None:
    job = bench.run("exit:69")
    assert (job.status, job.crashes) == (JobStatus.queued, 0)


def test_rollout_key_is_not_written_to_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPTUNE_ROLLOUT_URL", "http://vllm:8100/v1, http://vllm:8101")
    monkeypatch.setenv("GROUPTUNE_ROLLOUT_API_KEY", "s3cr3t")
    assert Settings().rollout_url == ("http://vllm:8100", "http://vllm:8101")
    bench.settings = bench.settings.model_copy(update={"rollout_url": Settings().rollout_url})
    assert bench.run("train:1").status == JobStatus.succeeded
    written = (bench.run_dir() / "spec.json").read_text()
    spec = TrainerSpec.model_validate_json(written)
    assert (spec.rollout_urls, spec.attempt) == (("http://vllm:8100", "http://vllm:8101"), 1)
    assert "s3cr3t" not in written


def test_next_attempt_knows_the_grades(bench: Bench) -> None:
    assert bench.run("grade").status == JobStatus.queued
    assert bench.run("grade").status == JobStatus.succeeded
    spec = TrainerSpec.model_validate_json((bench.run_dir(2) / "spec.json").read_text())
    assert spec.demonstrations == GradedDemonstrations(total=9, passed=2, failed=1, errors=1)
    assert spec.rejected_lines == (4, 7)


def test_success_without_adapter_is_a_crash(bench: Bench) -> None:
    assert bench.run("exit:0").crashes == 1


def test_cancel_kills_all_trainer_processes(bench: Bench) -> None:
    thread = bench.start("hang")
    pids = [int(pid) for pid in (bench.run_dir().parent / "pids").read_text().split()]
    with bench.database.transaction() as session:
        lifecycle.cancel(session, Actor(bench.project), bench.job_id)
    thread.join(60)
    assert bench.status() is JobStatus.cancelled
    assert not [pid for pid in pids if is_alive(pid)]
    assert outcomes(bench) == [AttemptOutcome.cancelled]


def test_paused_job_resumes_from_checkpoint(bench: Bench) -> None:
    thread = bench.start("until_stopped")
    with bench.database.transaction() as session:
        lifecycle.pause(session, Actor(bench.project), bench.job_id)
    thread.join(60)
    assert bench.status() is JobStatus.paused
    reached = bench.job().step
    with bench.database.transaction() as session:
        assert queries.latest_checkpoints(session, bench.job_id)[0].step == reached
        lifecycle.resume(session, Actor(bench.project), bench.job_id)
    assert bench.run(f"train:{reached + 3}").status == JobStatus.succeeded
    with bench.database.transaction() as session:
        assert queries.list_attempts(session, bench.job_id)[1].resumed_from_step == reached
    assert outcomes(bench) == [AttemptOutcome.paused, AttemptOutcome.succeeded]


def test_pause_kills_an_unresponsive_trainer(bench: Bench) -> None:
    thread = bench.start("hang")
    with bench.database.transaction() as session:
        lifecycle.pause(session, Actor(bench.project), bench.job_id)
    thread.join(60)
    assert bench.status() is JobStatus.paused


def test_drain_requeues_the_job_without_a_crash(bench: Bench) -> None:
    thread = bench.start("until_stopped")
    bench.drain.begin()
    thread.join(60)
    job = bench.job()
    assert (job.status, job.crashes) == (JobStatus.queued, 0)
    assert outcomes(bench) == [AttemptOutcome.drained]
    with bench.database.transaction() as session:
        assert queries.latest_checkpoints(session, bench.job_id)[0].step == job.step


def test_early_drain_requeues_the_job(bench: Bench) -> None:
    bench.drain.begin()
    assert bench.run("hang").status == JobStatus.queued
    assert outcomes(bench) == [AttemptOutcome.drained]


def test_unknown_base_model_fails_the_job(bench: Bench) -> None:
    (bench.settings.models_dir / "tiny" / "config.json").unlink()
    job = bench.run("train:1")
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_missing_or_changed_file_fails_the_job(bench: Bench, damage: str) -> None:
    with bench.database.transaction() as session:
        blob = bench.store.path(session.get_one(File, bench.job().training_file).blob)
    if damage == "missing":
        blob.unlink()
    else:
        blob.write_text("{}")
    job = bench.run("train:1")
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("invalid_file", "training_file")


def test_failed_checkpoint_write_keeps_the_job(bench: Bench) -> None:
    # A file in place of the directory: this fails for root as well, unlike a read-only directory.
    blocked = bench.store.path(f"jobs/{bench.job_id}/a1/checkpoints")
    blocked.parent.mkdir(parents=True)
    blocked.touch()
    assert bench.run("train:4").status == JobStatus.succeeded
    assert any("step 2 could not be stored" in message for message in messages(bench))
    with bench.database.transaction() as session:
        assert queries.latest_checkpoints(session, bench.job_id) == []


def test_unstartable_trainer_counts_as_a_crash(bench: Bench) -> None:
    runner = bench.runner("train:1")
    runner._trainer_command = ("/nonexistent/trainer",)
    runner.run()
    assert (bench.status(), bench.job().crashes) == (JobStatus.queued, 1)


def test_database_outage_loses_no_metrics(bench: Bench, outage: Outage) -> None:
    thread = bench.start("until_stopped")
    outage(1.5)
    eventually(lambda: bench.job().step > 40)
    bench.drain.begin()
    thread.join(60)
    job = bench.job()
    assert (job.status, job.crashes) == (JobStatus.queued, 0)
    with bench.database.transaction() as session:
        assert [metric.step for metric in queries.list_metrics(session, job.id)] == list(range(1, job.step + 1))
    texts = messages(bench)
    assert len(texts) == len(set(texts))
