"""What the server of `tests.forked` imports once: the API, the runner, the trainer and slow libraries."""

import sys

sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # as in a trainer that does not quantise

import celery.apps.worker  # noqa: E402
import celery.bin.celery  # noqa: E402
import celery.concurrency.thread  # noqa: E402
import redis  # noqa: E402

import app.main  # noqa: E402
import worker.runner  # noqa: E402
import worker.training.setup  # noqa: E402

__all__ = ["app", "celery", "redis", "worker"]
