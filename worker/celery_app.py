"""The Celery application: `celery -A worker.celery_app worker -Q train -P threads -c 1`.

A message says that there may be work, never which work, so a lost or duplicated message is harmless. Hence early
acknowledgement, no result backend and no prefetching.
"""

from typing import Any, Final

from app.core import extras

extras.require_or_exit("worker", "A worker")

import structlog
from celery import Celery, signals
from celery.app.amqp import AMQP
from kombu.connection import Connection

from app.core import logging, prometheus, settings
from app.core.broker import EVAL_TASK, EXPORT_TASK, LINT_TASK, PULL_TASK, TRAIN_TASK, VALIDATE_TASK, WEBHOOK_TASK
from app.core.db import Database
from app.core.workers.presence import DEFAULT_QUEUE, TRAIN_QUEUE
from worker.presence import Presence
from worker.process_control import Drain
from worker.schema import wait_for_schema

log = structlog.get_logger(__name__)

BROKER_RETRY_SECONDS: Final = 5.0
"""Longest interval between attempts to reach a lost broker; kombu's default interval grows to 30 s."""

DRAIN: Final = Drain()
"""Begins when this worker process receives a shutdown request."""


class _Connection(Connection):
    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        options = {"interval_max": BROKER_RETRY_SECONDS, **options}
        return super().ensure_connection(*args, **options)  # type: ignore[no-untyped-call]


class _Amqp(AMQP):  # type: ignore[misc] # celery is untyped
    Connection = _Connection


def create(configuration: settings.Settings) -> Celery:
    """Return a Celery application for the broker of `configuration`."""
    application = Celery("grouptune", broker=configuration.redis_url, include=["worker.tasks"], amqp=_Amqp)
    application.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_connect_timeout": 5},
        result_backend=None,
        task_acks_late=False,
        task_default_queue=DEFAULT_QUEUE,
        task_ignore_result=True,
        task_routes={TRAIN_TASK: {"queue": TRAIN_QUEUE}},
        task_serializer="json",
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
    )
    return application


logging.configure()
CONFIGURATION: Final = settings.load()
app = create(CONFIGURATION)
PRESENCE: Final = Presence(CONFIGURATION)


@signals.setup_logging.connect
def _keep_logging(**_: Any) -> None:
    """Keep Celery from adding log handlers: it adds none when this signal has a receiver."""


@signals.worker_init.connect
def _await_schema(**_: Any) -> None:
    if CONFIGURATION.database_url is not None:
        database = Database(CONFIGURATION.database_url, pool_size=1)
        wait_for_schema(database)
        database.dispose()


@signals.worker_ready.connect
def _notify_leftovers(**_: Any) -> None:
    """Look for work that was queued while no worker ran: its messages may be lost."""
    app.send_task(TRAIN_TASK, queue=TRAIN_QUEUE)
    app.send_task(VALIDATE_TASK, queue=DEFAULT_QUEUE)
    app.send_task(LINT_TASK, queue=DEFAULT_QUEUE)
    app.send_task(EXPORT_TASK, queue=DEFAULT_QUEUE)
    app.send_task(EVAL_TASK, queue=DEFAULT_QUEUE)
    app.send_task(PULL_TASK, queue=DEFAULT_QUEUE)
    app.send_task(WEBHOOK_TASK, queue=DEFAULT_QUEUE)


@signals.worker_ready.connect
def _appear(sender: Any, **_: Any) -> None:
    PRESENCE.start(sorted(sender.app.amqp.queues.consume_from), sender.pool.limit)


@signals.worker_ready.connect
def _serve_metrics(**_: Any) -> None:
    if not CONFIGURATION.worker_metrics_port:
        return
    try:
        port = prometheus.serve_worker(CONFIGURATION.worker_metrics_host, CONFIGURATION.worker_metrics_port)
    except OSError as error:
        log.warning("metrics.not_served", error=str(error))
    else:
        log.info("metrics.served", host=CONFIGURATION.worker_metrics_host, port=port)


@signals.worker_shutting_down.connect
def _drain(how: str = "", **_: Any) -> None:
    log.info("worker.draining", how=how)
    DRAIN.begin()
    PRESENCE.drain()


@signals.worker_shutdown.connect
def _disappear(**_: Any) -> None:
    PRESENCE.stop()
