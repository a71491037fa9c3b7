"""Rings the workers through Celery. A message says "there is work", never what the work is."""

from functools import lru_cache

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

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
