"""Random histories: blobs in use are never deleted, and all orphaned blobs are."""

import os
import time
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.exports import claims, orders
from app.core.exports.tables import Export, ExportStatus
from app.core.files import chunked_uploads
from app.core.files.tables import File, Upload, UploadStatus
from app.core.files.uploads import ReceivedFile
from app.core.jobs import checkpoints, deletion, invariants, leases, lifecycle, orphaned_blobs, outcomes
from app.core.jobs.checkpoints import StoredCheckpoint
from app.core.jobs.deletion import delete_file, delete_model
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Job
from app.core.models.tables import TrainedModel
from app.core.spec.export import ExportFormat, ExportRefusal
from app.core.spec.reports import Finished
from app.core.storage.blobs import SUMS, StoredBlob
from app.core.storage.local import LocalBlobStore
from tests.properties import examples
from tests.setup_jobs import make_file, make_job, make_project, supervised
from tests.setup_models import manifest_of

GRACE_SECONDS = 3600.0
LIFETIME = timedelta(days=1)
PICK = st.integers(0, 30)


class Retention(RuleBasedStateMachine):
    """One transaction that is never committed, and a store of its own. Every blob is old unless a rule says young."""

    def __init__(self, database: Database, root: Path) -> None:
        super().__init__()
        self.session = Session(database.engine)
        self.project = make_project(self.session)
        self.store = LocalBlobStore(root / uuid4().hex)
        self.claims: list[Claim] = []
        self.at_work: dict[str, Claim] = {}
        """Keys that a running attempt has written and will name later."""
        self.young: set[str] = set()
        self.steps = 0
        self.collected = False

    def teardown(self) -> None:
        self.session.close()

    def write(self, key: str, *, old: bool = True) -> str:
        self.collected = False
        self.store.write(key, [b"x"])
        if old:
            past = time.time() - 2 * GRACE_SECONDS
            os.utime(self.store.path(key), (past, past))
        else:
            self.young.add(key)
        return key

    def write_tree(self, prefix: str) -> str:
        for name in ("adapter_model.safetensors", SUMS):
            self.write(f"{prefix}/{name}")
        return prefix

    def own(self, pick: int) -> Claim | None:
        return self.claims[pick % len(self.claims)] if self.claims else None

    @rule(old=st.booleans(), has_row=st.booleans())
    def upload(self, old: bool, has_row: bool) -> None:
        key = f"files/{ids.file_id()}"
        if has_row:
            key = make_file(self.session, self.project).blob
        self.write(key, old=old)

    @rule()
    def upload_a_part(self) -> None:
        upload = chunked_uploads.create_upload(
            self.session, self.project, size=2, filename="f", purpose="batch", file_seconds=None, max_bytes=9
        )
        self.write(chunked_uploads.part_blob(upload.id, ids.part_id()))

    @rule(pick=PICK)
    def submit_and_claim(self, pick: int) -> None:
        models = list(self.session.scalars(select(TrainedModel.id).order_by(TrainedModel.id)))
        spec = supervised()
        if models and pick % 2:
            spec = spec.model_copy(update={"model": models[pick % len(models)]})
        file = make_file(self.session, self.project)
        self.write(file.blob)
        make_job(self.session, self.project, spec, file)
        self.session.execute(update(Job).where(Job.status == "queued").values(eligible_at=func.now()))
        claimed = leases.claim(self.session, "w", 60)
        assert claimed is not None
        self.claims.append(claimed)

    @rule(pick=PICK)
    def write_what_is_not_named_yet(self, pick: int) -> None:
        if claim := self.own(pick):
            key = f"jobs/{claim.job_id}/a{claim.attempt}/adapter/{uuid4().hex}"
            self.at_work[self.write(key)] = claim

    @rule(pick=PICK)
    def checkpoint(self, pick: int) -> None:
        if claim := self.own(pick):
            self.steps += 1
            blob = self.write_tree(f"jobs/{claim.job_id}/a{claim.attempt}/checkpoints/step-{self.steps}")
            # What this forgets is left in the store, as a crash after the commit leaves it.
            checkpoints.record(self.session, claim, StoredCheckpoint(self.steps, blob, {}, has_adapter=True))

    @rule(pick=PICK, how=st.sampled_from(["run", "succeed", "fail"]))
    def export(self, pick: int, how: str) -> None:
        models = list(self.session.scalars(select(TrainedModel.id).order_by(TrainedModel.id)))
        if not models:
            return
        self.steps += 1
        options = {"number": self.steps}  # unlike all earlier exports
        orders.order(self.session, Actor(self.project), models[pick % len(models)], ExportFormat.merged, options)
        claim = claims.claim_next(self.session, 60, LIFETIME)
        assert claim is not None
        self.write(claim.blob)
        if how == "succeed":
            claims.succeed(self.session, claim, manifest_of(claim.model), StoredBlob(1, "0" * 64), LIFETIME)
        elif how == "fail":
            claims.fail(self.session, claim, ExportRefusal(code="x", message="x"), LIFETIME)

    @rule(pick=PICK, how=st.sampled_from(["succeed", "fail", "drain", "crash"]))
    def end(self, pick: int, how: str) -> None:
        claim = self.own(pick)
        if claim is None:
            return
        self.claims.remove(claim)
        self.collected = False
        prefix = f"jobs/{claim.job_id}/a{claim.attempt}"
        if how == "succeed":
            csv = ids.file_id()
            stored = ReceivedFile(csv, self.write(f"{prefix}/{csv}"), 1, "0" * 64)
            finished = Finished(step=1, path="/x", trained_tokens=1, published_step=1, reason="the last step")
            outcomes.succeed(self.session, claim, finished, self.write_tree(f"{prefix}/published"), "tiny", stored)
        elif how == "fail":
            outcomes.fail(self.session, claim, "bad_data", "message")
        elif how == "drain":
            outcomes.drain(self.session, claim)
        else:
            outcomes.crash(self.session, claim, "reason", "")

    @rule(pick=PICK, what=st.sampled_from([File, TrainedModel, Job]))
    def delete(self, pick: int, what: type[File] | type[TrainedModel] | type[Job]) -> None:
        """Rows alone: the store was away."""
        self.collected = False
        found = list(self.session.scalars(select(what.id).order_by(what.id)))
        if not found:
            return
        chosen = found[pick % len(found)]
        savepoint = self.session.begin_nested()
        try:
            if what is Job:
                deletion.delete_job(self.session, Actor(self.project), chosen)
            else:
                change = delete_file if what is File else delete_model
                change(self.session, self.project, chosen)
            savepoint.commit()
        except InvalidRequest:
            savepoint.rollback()

    def exports_at_work(self) -> list[str]:
        """Return the keys that running exports have written."""
        at_work = select(Export.id, Export.attempts).where(Export.status == ExportStatus.running)
        return [f"exports/{row.id}/a{row.attempts}" for row in self.session.execute(at_work)]

    @rule(pick=PICK)
    def cancel_everything_that_waits(self, pick: int) -> None:
        self.collected = False
        for job in list(self.session.scalars(select(Job).where(Job.status == "queued"))):
            lifecycle.cancel(self.session, Actor(self.project), job.id)
        self.session.execute(update(Upload).values(status=UploadStatus.cancelled, is_swept=True))

    @rule()
    def collect(self) -> None:
        before = orphaned_blobs.written_before(self.session, GRACE_SECONDS)
        for keys in list(orphaned_blobs.old_blobs(self.store, before)):
            for key in orphaned_blobs.orphans_among(self.session, keys):
                self.store.delete(key)
        self.collected = True

    @invariant()
    def nothing_that_is_needed_is_gone(self) -> None:
        self.session.flush()
        assert not [
            breach for breach in invariants.breaches(self.session, self.store.exists) if "stored" in breach.invariant
        ]
        assert all(self.store.exists(key) for key, claim in self.at_work.items() if claim in self.claims)
        assert all(self.store.exists(key) for key in self.young)
        assert all(self.store.exists(key) for key in self.exports_at_work())

    @invariant()
    def nothing_else_is_left(self) -> None:
        if not self.collected:
            return
        named = set(self.session.scalars(select(File.blob)))
        trees = set(self.session.scalars(select(TrainedModel.blob)))
        for upload in self.session.scalars(select(Upload).where(Upload.status == UploadStatus.pending)):
            trees.add(f"uploads/{upload.id}")
        named |= {*self.session.scalars(select(Export.blob).where(Export.blob.is_not(None))), *self.exports_at_work()}
        trees |= {f"jobs/{claim.job_id}/a{claim.attempt}" for claim in self.claims}
        for key in [key for prefix in orphaned_blobs.PREFIXES for key in self.store.list(prefix)]:
            assert key in named | self.young or any(key.startswith(f"{tree}/") for tree in trees), key


@pytest.mark.hypothesis
@pytest.mark.slow
def test_random_histories(database: Database, tmp_path: Path) -> None:
    run_state_machine_as_test(
        lambda: Retention(database, tmp_path),  # type: ignore[arg-type] # any factory will do
        settings=settings(max_examples=examples(40), stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
