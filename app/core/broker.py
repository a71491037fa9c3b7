"""Notifies workers through Celery. A message says that there may be work, never which work."""

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
EXPORT_TASK = "exports.make_next"
EVAL_TASK = "evals.run_next"
PULL_TASK = "models.pull_next"
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


class _Notifier:
    """Sends messages of one kind, from one thread at a time.

    Each attempt to reach a broker that is down takes seconds. One thread therefore sends the messages of all callers;
    the other callers return at once instead of piling up in front of the socket.
    """

    def __init__(self, url: str, task: str, queue: str) -> None:
        self._url, self._task, self._queue = url, task, queue
        self._lock = threading.Lock()
        self._pending = 0
        self._is_sending = False

    def notify(self) -> None:
        """Send one message, or leave it to the thread that is already sending."""
        with self._lock:
            self._pending += 1
            if self._is_sending:
                return
            self._is_sending = True
        try:
            while self._take_pending():
                if not self._send():
                    # The broker is down. Try once more for all pending messages together, not once for each.
                    with self._lock:
                        self._pending = min(self._pending, 1)
        except BaseException:
            with self._lock:
                self._is_sending = False  # otherwise no caller would ever send again
            raise

    def _take_pending(self) -> bool:
        """Claim one pending message. Without one, stop sending, under the same lock so that no message is missed."""
        with self._lock:
            self._is_sending = self._pending > 0
            self._pending -= self._is_sending
            return self._is_sending

    def _send(self) -> bool:
        """Return whether the broker took the message. A lost message is no error: the sweeper sends it again."""
        try:
            _app(self._url).send_task(self._task, queue=self._queue, retry=False)
        except OperationalError as error:
            log.warning("broker.unreachable", task=self._task, error=str(error))
            return False
        return True


@lru_cache(maxsize=16)
def _notifier(url: str, task: str, queue: str) -> _Notifier:
    return _Notifier(url, task, queue)


def notify_training(url: str) -> None:
    """Notify training workers that a job may be eligible."""
    _notifier(url, TRAIN_TASK, "train").notify()


def notify_validation(url: str) -> None:
    """Notify workers that an uploaded file needs validation."""
    _notifier(url, VALIDATE_TASK, "default").notify()


def notify_linting(url: str) -> None:
    """Notify workers that a job's training file needs linting."""
    _notifier(url, LINT_TASK, "default").notify()


def notify_exports(url: str) -> None:
    """Notify workers that an export of a model is due."""
    _notifier(url, EXPORT_TASK, "default").notify()


def notify_evals(url: str) -> None:
    """Notify workers that a run of an eval is due."""
    _notifier(url, EVAL_TASK, "default").notify()


def notify_pulls(url: str) -> None:
    """Notify workers that a base model is to be downloaded."""
    _notifier(url, PULL_TASK, "default").notify()


def notify_webhooks(url: str) -> None:
    """Notify workers that a webhook delivery may be due."""
    _notifier(url, WEBHOOK_TASK, "default").notify()


class BrokerUnavailable(GrouptuneError):
    """The broker cannot be reached."""

    code = "broker_unavailable"


def check(url: str) -> None:
    """Raise `BrokerUnavailable`, with the reason, unless the broker answers."""
    with _app(url).connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        except (OperationalError, *connection.connection_errors) as error:
            raise BrokerUnavailable(f"The broker cannot be reached: {error}") from error
