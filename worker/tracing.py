"""This process' tracer: spans of attempts, sent before a worker ends."""

from functools import lru_cache

from celery import signals

from app.core import tracing
from app.core.tracing import Tracer


@lru_cache(maxsize=1)
def tracer() -> Tracer:
    """Loaded by the first attempt, so that nothing of it is shared over a fork."""
    loaded = tracing.load("grouptune-worker")
    if loaded.is_on:
        signals.worker_shutdown.connect(lambda **_: loaded.close(), weak=False)
    return loaded
