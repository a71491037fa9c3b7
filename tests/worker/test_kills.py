"""SIGKILL of the real trainer at random steps, under a real runner: same adapter, every metric once."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from app.core.jobs import invariants, queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.models.tables import TrainedModel
from tests.setup_jobs import make_job, stored_file, supervised
from tests.worker.conftest import Bench
from worker.attempt_runner import TRAINER

STEPS = 150
KILLS = 3
DYING_TRAINER = (sys.executable, "-m", "tests.worker.dying_trainer")


def real(bench: Bench, tiny_models: Path) -> Bench:
    """The bench with the real trainer on a real model."""
    return replace(
        bench,
        settings=bench.settings.model_copy(
            update={"models_dir": tiny_models, "trainer_threads": 1, "lease_seconds": 60.0, "fence_seconds": 45.0}
        ),
        trainer=TRAINER,
    )


def submit(bench: Bench, scratch: Path, steps: int) -> Bench:
    """Return the bench with another job, of `steps` steps over the same rows."""
    rows = 2 * steps // 50
    with bench.database.transaction() as session:
        file = stored_file(session, bench.store, bench.project, scratch, rows)
        spec = supervised(batch_size=2, n_epochs=50, checkpoint_interval=20)
        return replace(bench, job_id=make_job(session, bench.project, spec, file).id)


def adapter(bench: Bench) -> str:
    """Return the SHA-256 of the published adapter."""
    with bench.database.transaction() as session:
        model = session.get_one(TrainedModel, bench.job().fine_tuned_model)
    with bench.store.open(f"{model.blob}/adapter_model.safetensors") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def train_through_kills(bench: Bench, kills: int, steps: int, chance: Random) -> list[int]:
    """Run the job to its end and kill its trainer `kills` times on the way; return the step reached at each kill."""
    killed = []
    for number in range(kills):
        earliest = max(bench.job().step + 1, steps * number // (kills + 1))
        last_step = chance.randint(earliest, max(earliest, steps * (number + 1) // (kills + 1)))
        replace(bench, trainer=(*DYING_TRAINER, str(last_step))).runner("").run()
        killed.append(bench.job().step)
        assert killed[-1] >= last_step
        assert bench.status() is JobStatus.queued
    bench.runner("").run()
    return killed


def assert_nothing_lost(bench: Bench, steps: int, kills: int) -> None:
    with bench.database.transaction() as session:
        assert [metric.step for metric in queries.list_metrics(session, bench.job_id)] == list(range(1, steps + 1))
        outcomes = [attempt.outcome for attempt in queries.list_attempts(session, bench.job_id)]
        assert invariants.breaches(session, bench.store.exists) == []
    assert outcomes == [AttemptOutcome.crashed] * kills + [AttemptOutcome.succeeded]


@pytest.mark.usefixtures("real_trainers")
def test_killed_trainer_ends_in_the_same_adapter(bench: Bench, tiny_models: Path, tmp_path: Path) -> None:
    bench.run("train:1")
    reference = submit(real(bench, tiny_models), tmp_path, STEPS)
    reference.runner("").run()
    assert reference.status() is JobStatus.succeeded, reference.job().error
    interrupted = submit(reference, tmp_path, STEPS)
    train_through_kills(interrupted, KILLS, STEPS, Random(1))  # noqa: S311 - the same steps in every run
    assert interrupted.status() is JobStatus.succeeded, interrupted.job().error
    assert_nothing_lost(interrupted, STEPS, KILLS)
    assert adapter(interrupted) == adapter(reference)
