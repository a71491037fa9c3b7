"""Rings the workers through Celery. A message says "there is work", never what the work is."""

import threading
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


class _Bell:
    """Sends messages of one kind. While the broker is away one thread tries, for all who ring meanwhile."""

    def __init__(self, url: str, task: str, queue: str) -> None:
        self._url, self._task, self._queue = url, task, queue
        self._lock = threading.Lock()
        self._wanted = 0
        self._is_ringing = False

    def ring(self) -> None:
        """Returns at once if another thread is at it: that one rings for this one too."""
        with self._lock:
            self._wanted += 1
            if self._is_ringing:
                return
            self._is_ringing = True
        try:
            while self._next():
                if not self._send():
                    with self._lock:
                        self._wanted = min(self._wanted, 1)
        except BaseException:
            with self._lock:
                self._is_ringing = False  # whatever it was, the next one tries
            raise

    def _next(self) -> bool:
        with self._lock:
            self._is_ringing = self._wanted > 0
            self._wanted -= self._is_ringing
            return self._is_ringing

    def _send(self) -> bool:
        """A lost broker is no error: the sweeper rings again for whatever still waits."""
        try:
            _app(self._url).send_task(self._task, queue=self._queue, retry=False)
        except OperationalError as error:
            log.warning("broker.unreachable", task=self._task, error=str(error))
            return False
        return True


@lru_cache(maxsize=16)
def _bell(url: str, task: str, queue: str) -> _Bell:
    return _Bell(url, task, queue)


def _ring(url: str, task: str, queue: str) -> None:
    _bell(url, task, queue).ring()


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
