"""What the server of `tests.forked` imports once: the API, the runner, the trainer and their slow libraries."""

import sys

sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # as in a trainer that does not quantise

import app.main  # noqa: E402
import worker.runner  # noqa: E402
import worker.training.setup  # noqa: E402

__all__ = ["app", "worker"]
