"""The sweep: requeues jobs with expired leases, repeats lost notifications, and preempts jobs for higher priorities."""

from typing import Final

import structlog
from celery import Celery
from kombu.exceptions import ChannelError, OperationalError

from app.core.broker import EVAL_TASK, EXPORT_TASK, LINT_TASK, PULL_TASK, TRAIN_TASK, VALIDATE_TASK, WEBHOOK_TASK
from app.core.db import Database
from app.core.evals import claims as eval_claims
from app.core.exports import claims as export_claims
from app.core.files import validation_claims
from app.core.jobs import gangs, leases, lifecycle, lint_queue, preemption, queries, row_checks
from app.core.models import pulls
from app.core.prometheus import LEASE_LOSSES
from app.core.settings import Settings
from app.core.webhooks import deliveries
from app.core.workers import presence

log = structlog.get_logger(__name__)

_QUEUES: Final = {
    TRAIN_TASK: "train",
    **dict.fromkeys((VALIDATE_TASK, LINT_TASK, EXPORT_TASK, EVAL_TASK, PULL_TASK, WEBHOOK_TASK), "default"),
}


def sweep(database: Database, app: Celery, settings: Settings) -> None:
    """Sweep once. Raises `DatabaseUnavailable`; an unreachable broker is only logged."""
    expire_leases(database)
    with database.transaction() as session:
        presence.forget_lost(session)
        gangs.forget(session)
    with database.transaction() as session:
        limits = (settings.max_running_jobs, settings.max_gpu_hours)
        if preempted := preemption.make_room(session, settings.sweep_seconds, *limits):
            log.info("sweep.jobs_preempted", jobs=preempted)
    admit(database, app)
    with database.transaction() as session:
        files_wait = validation_claims.any_waiting(session) or row_checks.any_due(session)
        exports_due = export_claims.any_due(session)
        evals_due = eval_claims.any_due(session)
        pulls_due = pulls.any_due(session)
        webhooks_due = deliveries.any_due(session)
    if files_wait:
        notify(app, VALIDATE_TASK)
    notify_linting(database, app)
    if exports_due:
        notify(app, EXPORT_TASK)
    if evals_due:
        notify(app, EVAL_TASK)
    if pulls_due:
        notify(app, PULL_TASK)
    if webhooks_due:
        notify(app, WEBHOOK_TASK)


def expire_leases(database: Database) -> int:
    """End attempts whose lease has expired; return how many. Raises `DatabaseUnavailable`."""
    with database.transaction() as session:
        expired = leases.expire(session)
    if expired:
        log.warning("sweep.leases_expired", jobs=expired)
        LEASE_LOSSES.labels("sweep").inc(expired)
    return expired


def admit(database: Database, app: Celery) -> None:
    """Queue the jobs whose files are validated by now; notify training workers if any job is queued."""
    with database.transaction() as session:
        lifecycle.admit_validated(session)
        queued = queries.any_queued(session)
    if queued:
        notify(app, TRAIN_TASK)


def notify_linting(database: Database, app: Celery) -> None:
    """Notify workers if a job's training file needs linting."""
    with database.transaction() as session:
        due = lint_queue.any_due(session)
    if due:
        notify(app, LINT_TASK)


def notify(app: Celery, task: str) -> None:
    """Send one message, unless the queue holds one: while all slots are busy, messages would pile up."""
    try:
        if _queue_length(app, _QUEUES[task]) == 0:
            app.send_task(task, queue=_QUEUES[task], retry=False)
    except OperationalError as error:
        log.warning("broker.unreachable", task=task, error=str(error))


def _queue_length(app: Celery, queue: str) -> int:
    with app.connection_for_write() as connection:
        # Raises OperationalError instead of retrying forever: the next sweep comes soon.
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        try:
            return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
        except ChannelError:
            return 0
