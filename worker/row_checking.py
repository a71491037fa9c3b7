"""Checks which rows of a file a job can use, one file at a time, each under a claim that is renewed during the work.

A subprocess with limits and without credentials renders the rows, so that no content can take the worker down.
"""

import json
from pathlib import Path
from typing import Final

import structlog

from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.jobs import row_checks
from app.core.jobs.row_checks import CheckClaim, CheckResult
from app.core.models import registry
from app.core.scratch import scratch_directory
from app.core.storage.blobs import BlobMissing, BlobStore
from worker import limited_process
from worker.claim_keeper import CLAIM_SECONDS, ClaimKeeper, TakenOver
from worker.limited_process import ProcessLimits, Stopped

log = structlog.get_logger(__name__)

DEFAULT_LIMITS: Final = ProcessLimits()


def check_one(database: Database, store: BlobStore, models_dir: Path, limits: ProcessLimits = DEFAULT_LIMITS) -> bool:
    """Make the oldest check that is due and store its result; return False if there is none.

    Raises `DatabaseUnavailable` and `StorageUnavailable`.
    """
    with database.transaction() as session:
        claimed = row_checks.claim_next(session, CLAIM_SECONDS)
    if claimed is None:
        return False

    def renew(held: CheckClaim) -> CheckClaim | None:
        with database.transaction() as session:
            return row_checks.renew(session, held, CLAIM_SECONDS)

    claim = ClaimKeeper(claimed, renew)
    try:
        result = _check(store, claim, models_dir, limits)
    except TakenOver:
        log.warning("rows.taken_over", file=claimed.file_id)
        return True
    with database.transaction() as session:
        settled = row_checks.settle(session, claim.current, result)
    log.info("rows.checked", file=claimed.file_id, model=claimed.request.model, settled=settled)
    return True


def _check(store: BlobStore, claim: ClaimKeeper[CheckClaim], models_dir: Path, limits: ProcessLimits) -> CheckResult:
    request = claim.current.request
    try:
        model = registry.resolve(request.model, models_dir)
    except InvalidRequest:
        return CheckResult(unchecked=f"the base model {request.model} is not on the worker that checks files")
    with scratch_directory("rows") as directory:
        (directory / "request.json").write_text(json.dumps(request.model_dump(mode="json")), encoding="utf-8")
        try:
            with store.as_file(claim.current.blob, claim.keep) as path:
                arguments = (str(path), str(model.directory), str(directory / "request.json"))
                process = "worker.row_checking_process"
                answer = limited_process.run(process, arguments, directory / "log", claim.keep, limits)
        except (OSError, BlobMissing) as error:
            log.warning("rows.unreadable", file=claim.current.file_id, error=str(error))
            return CheckResult(unchecked="the stored file could not be read")
        except Stopped as stopped:
            return CheckResult(unchecked=f"the rendering {stopped}")
    return CheckResult.model_validate(answer["result"])
