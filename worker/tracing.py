"""The tracer of a worker process. Spans of attempts are sent before the worker ends."""

from functools import lru_cache

from celery import signals

from app.core import tracing
from app.core.tracing import Tracer


@lru_cache(maxsize=1)
def tracer() -> Tracer:
    """Return the tracer, loaded by the first attempt so that it is not shared across a fork."""
    loaded = tracing.load("grouptune-worker")
    if loaded.is_on:
        signals.worker_shutdown.connect(lambda **_: loaded.close(), weak=False)
    return loaded
