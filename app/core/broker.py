"""Rings the workers through Celery. A message says "there is work", never what the work is."""

from functools import lru_cache

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from app.core.errors import GrouptuneError

log = structlog.get_logger(__name__)

TRAIN_TASK = "train.run_next"
VALIDATE_TASK = "files.validate_next"
LINT_TASK = "jobs.lint_next"
WEBHOOK_TASK = "webhooks.deliver"


@lru_cache(maxsize=4)
def _app(url: str) -> Celery:
    app = Celery("grouptune", broker=url)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 2},
        broker_connection_timeout=2,
    )
    return app


def _ring(url: str, task: str, queue: str) -> None:
    """Sends one message. A lost broker is no error: the sweeper rings again for whatever still waits."""
    try:
        _app(url).send_task(task, queue=queue, retry=False)
    except OperationalError as error:
        log.warning("broker.unreachable", task=task, error=str(error))


def ring_training(url: str) -> None:
    """Says that a job may be eligible."""
    _ring(url, TRAIN_TASK, "train")


def ring_validation(url: str) -> None:
    """Says that a file waits for its validation."""
    _ring(url, VALIDATE_TASK, "default")


def ring_linting(url: str) -> None:
    """Says that a job's training file waits for its lint."""
    _ring(url, LINT_TASK, "default")


def ring_webhooks(url: str) -> None:
    """Says that a webhook delivery may be due."""
    _ring(url, WEBHOOK_TASK, "default")


class BrokerUnavailable(GrouptuneError):
    """The broker is away."""

    code = "broker_unavailable"


def check(url: str) -> None:
    """Raises `BrokerUnavailable` that says why, unless the broker answers."""
    with _app(url).connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        except (OperationalError, *connection.connection_errors) as error:
            raise BrokerUnavailable(f"The broker cannot be reached: {error}") from error
