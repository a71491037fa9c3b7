"""Files are validated in a separate process: hostile content may end that process, but not the worker."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet as pq

from app.core.files.tables import File, FileStatus
from app.core.files.validation_report import FileReport
from app.core.jobs import leases
from app.core.storage.local import LocalBlobStore
from tests.setup_jobs import make_file
from tests.worker.conftest import Bench
from worker.file_validation import validate_one
from worker.limited_process import ProcessLimits
from worker.maintenance import expiry
from worker.workspace import Inputs, Workspace


def validated(bench: Bench, write: Callable[[Path], object], limits: ProcessLimits) -> File:
    """Validate a file with the content that `write` creates; return its row."""
    with bench.database.transaction() as session:
        file = make_file(session, bench.project, status=FileStatus.uploaded)
    assert isinstance(bench.store, LocalBlobStore)
    path = bench.store.path(file.blob)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    assert validate_one(bench.database, bench.store, limits)
    with bench.database.transaction() as session:
        return session.get_one(File, file.id)


def test_hostile_files_hit_their_limits(bench: Bench) -> None:
    def blank(path: Path) -> None:
        path.write_bytes(b"\n" * 40_000_000)

    silent = validated(bench, blank, ProcessLimits(silent_seconds=0))
    assert silent.status == FileStatus.error
    assert silent.status_details == (
        "The validation made no progress for 0 s and was stopped. Upload the rows as JSONL, or split the file."
    )
    busy = validated(bench, blank, ProcessLimits(seconds=1))
    assert busy.status == FileStatus.error
    assert busy.status_details is not None
    assert "SIGXCPU" in busy.status_details or "longer than 1 s" in busy.status_details

    def bomb(path: Path) -> None:
        """Write a Parquet file with one string, stored once and referenced a thousand times."""
        column = pa.DictionaryArray.from_arrays(pa.array([0] * 128, pa.int8()), pa.array(["x" * 1_000_000]))
        pq.write_table(pa.table({f"c{n}": column for n in range(8)}), path)

    packed = validated(bench, bomb, ProcessLimits(memory_bytes=1 << 30))
    assert packed.status == FileStatus.error
    assert packed.status_details == (
        "The validation needed more than 1.1 GB of memory and was stopped. Upload the rows as JSONL, or split the file."
    )


def test_parquet_is_converted_to_rows(bench: Bench) -> None:
    """Training reads the converted rows; they are removed together with the file."""
    table = pa.table({"prompt": ["a", "b", "a"], "completion": ["1", "2", "1"]})
    file = validated(bench, lambda path: pq.write_table(table, path), ProcessLimits())
    assert (file.status, file.status_details) == (
        FileStatus.processed,
        "3 rows: 3 with a demonstration, 1 duplicate",
    )
    assert FileReport.model_validate(file.report).warnings[0].line == 3
    blob, _ = file.rows
    assert blob != file.blob
    with bench.database.transaction() as session:
        claim = leases.claim(session, "test", 60)
    assert claim is not None
    workspace = Workspace(bench.settings.runs_dir, bench.store, claim)
    workspace.create()
    workspace.fill(Inputs("tiny", None, file, None, None, (), {}), bench.settings.models_dir / "tiny", bench.settings)
    trained_on = (workspace.path / "training_file.jsonl").read_text().splitlines()
    assert [json.loads(line)["completion"] for line in trained_on] == ["1", "2", "1"]
    with bench.database.transaction() as session:
        row = session.get_one(File, file.id)
        row.expires_at = row.created_at
    expiry.remove_expired(bench.database, bench.store)
    assert not bench.store.exists(blob)
    assert not bench.store.exists(file.blob)
