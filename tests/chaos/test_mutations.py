"""Mutation tests: each mutation breaks one guarantee in a copy of the sources, and a named test must fail."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.report import REPOSITORY

COPIED: Final = ("app", "worker", "migrations", "tests", "pyproject.toml", "docs")
FAILED: Final = 1


@dataclass(frozen=True)
class Mutation:
    """A change to one file, and the test that must fail."""

    file: str
    before: str
    after: str
    test: str


_FENCED: Final = "tests/core/jobs/test_leases.py::test_expired_lease_requeues_and_fences"
_RESUMED: Final = "tests/worker/training/test_resume.py::test_resume_at_any_step_is_bit_for_bit[gft-4]"
_SYNCED: Final = "tests/worker/training/test_checkpoints.py::test_files_are_synced_before_the_rename"
_BLOB: Final = "tests/core/storage/test_durability.py::test_blob_is_synced_before_it_is_named"

MUTATIONS: Final = {
    "a worker writes without checking the attempt": Mutation(
        "app/core/jobs/leases.py",
        "Job.id == claim.job_id, Job.attempt == claim.attempt, ",
        "Job.id == claim.job_id, ",
        _FENCED,
    ),
    "an attempt ends without checking the attempt": Mutation(
        "app/core/jobs/outcomes.py",
        ".where(Job.id == claim.job_id, Job.attempt == claim.attempt, ",
        ".where(Job.id == claim.job_id, ",
        _FENCED,
    ),
    "a stop request is dropped when the attempt ends for another reason": Mutation(
        "app/core/jobs/attempts.py",
        "target = targets.get(StopRequest(job.stop_request)) if job.stop_request else None",
        "target = None",
        "tests/core/jobs/test_leases.py::test_unknown_stop_request_is_obeyed",
    ),
    "rows that always fail are retried without end": Mutation(
        "app/core/jobs/waits.py",
        "count >= MAX_ROW_FAILURES",
        "count < 0",
        "tests/core/jobs/test_waits.py::test_rows_that_always_fail_end_the_job",
    ),
    "a resumed run does not restore random numbers": Mutation(
        "worker/training/rollouts/sampler.py",
        "np.random.SeedSequence([seed, *stream])",
        "np.random.SeedSequence(torch.randint(2**31, (4,)).tolist())",
        _RESUMED,
    ),
    "a resumed run restarts the data order": Mutation(
        "worker/training/trainer.py",
        "prompts = self.order.step(step)",
        "prompts = self.order.step(step - self.__dict__.setdefault('_first', step) + 1)",
        _RESUMED,
    ),
    "a resumed run does not restore the moments of AdamW": Mutation(
        "worker/training/checkpoints.py",
        "            if stored:\n",
        "            if stored and not stored:\n",
        _RESUMED,
    ),
    "a checkpoint is renamed before it is synced": Mutation(
        "worker/training/checkpoints.py",
        "    for path in temporary.iterdir():\n        _sync(path)\n    _sync(temporary)\n",
        "",
        _SYNCED,
    ),
    "a checkpoint is written in place": Mutation(
        "worker/training/checkpoints.py",
        'temporary = directory.with_name(f".{directory.name}.partial")',
        "temporary = directory",
        _SYNCED,
    ),
    "a blob is renamed before it is synced": Mutation(
        "app/core/storage/local.py", "            os.fsync(out.fileno())\n", "", _BLOB
    ),
    "idempotency keys are ignored": Mutation(
        "app/api/middleware/idempotency.py",
        "        if key is None and (multipart",
        "        if key is not None or (multipart",
        "tests/api/middleware/test_idempotency.py::test_a_hundred_at_once_make_one_job",
    ),
    "retries of the SDK are not recognised": Mutation(
        "app/core/accounts/idempotency.py",
        "    if attempt > 0:",
        "    if attempt > 999:",
        "tests/api/middleware/test_idempotency.py::test_retries_make_one_job",
    ),
    "events are not deduplicated": Mutation(
        "app/core/jobs/events.py",
        "AND NOT EXISTS (SELECT FROM job_events AS known WHERE known.id = e.id)",
        "",
        "tests/core/jobs/test_journal.py::test_batch_written_twice_is_stored_once",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, for the tests to modify."""
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("node_modules", "__pycache__")
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, root / name)
    return root


def run(root: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_unmodified_sources_pass(copy: Path) -> None:
    """Otherwise the failures below would prove nothing."""
    done = run(copy, *sorted({mutation.test for mutation in MUTATIONS.values()}))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_detected(copy: Path, name: str) -> None:
    mutation = MUTATIONS[name]
    path = copy / mutation.file
    source = path.read_text(encoding="utf-8")
    assert source.count(mutation.before) == 1, "the sources have changed: update the mutation"
    path.write_text(source.replace(mutation.before, mutation.after), encoding="utf-8")
    try:
        done = run(copy, mutation.test)
    finally:
        path.write_text(source, encoding="utf-8")
    assert done.returncode == FAILED, done.stdout[-3000:]
    assert f"FAILED {mutation.test}" in done.stdout
