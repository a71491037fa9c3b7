"""Lints the training files of new jobs, one at a time, each under a claim that lasts longer than a lint."""

import structlog

from app.core.db import Database
from app.core.errors import DatabaseUnavailable
from app.core.graders.run import GraderPool
from app.core.jobs import lint_queue
from app.core.jobs.events import Event
from app.core.jobs.lint_queue import LintClaim
from app.core.lint.report import LintReport
from app.core.lint.run import IN_BACKGROUND, lint_file
from app.core.storage.blobs import BlobStore, StorageUnavailable

log = structlog.get_logger(__name__)


def lint_one(database: Database, store: BlobStore) -> bool:
    """Lint the next job's training file; return False if there is none.

    Raises `DatabaseUnavailable` and `StorageUnavailable`.
    """
    with database.transaction() as session:
        claim = lint_queue.claim_next(session)
    if claim is None:
        return False
    report, event = _lint(store, claim)
    with database.transaction() as session:
        settled = lint_queue.settle(session, claim, report, event)
    log.info("job.linted", job=claim.job_id, settled=settled)
    return True


def _lint(store: BlobStore, claim: LintClaim) -> tuple[LintReport | None, Event]:
    spec = claim.spec
    grader = spec.settings.grader
    assert grader is not None  # noqa: S101 - `lint_queue.is_due`
    try:
        with store.as_file(claim.blob, lambda: None) as path, GraderPool(grader) as pool:
            report = lint_file(path, claim.counts, pool, spec.group, IN_BACKGROUND)
    except (DatabaseUnavailable, StorageUnavailable):
        raise
    except Exception as error:  # a boundary: a failed lint must not block its job
        log.exception("job.lint_failed", job=claim.job_id)
        message = f"The training file could not be linted ({type(error).__name__}: {error}); the job runs anyway"
        return None, Event(message, level="warn")
    is_worrying = report.error_count > 0 or report.signal_share_limit == 0
    offer = None if spec.grades_demonstrations else report.offer()
    message = report.summary() if offer is None else f"{report.summary()}. {offer}"
    return report, Event(message, level="warn" if is_worrying else "info", data={"lint": report.numbers()})
