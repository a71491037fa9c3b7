"""`python -m worker.trackers`: the process of one tracker.

Standard input is JSON lines: a `TrackerRunSpec`, then `TrackerLine`s. The process ends with its input. When it fails it
writes one line with the reason to standard output; all other output goes to standard error.
"""

import os
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Final

from worker.trackers.protocol import TrackerLine, TrackerRunSpec

LINGER_SECONDS: Final = 60.0
"""Limit for sending the remaining values after the input has ended: the runner may be dead."""


def main() -> int:
    """Run the tracker; return the exit code."""
    failures = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like a failure
    try:
        _log_run(TrackerRunSpec.model_validate_json(sys.stdin.readline()))
    # A boundary: a failing tracker library is reported to the runner and stops this tracker only.
    except Exception as error:
        failures.write(" ".join(f"{type(error).__name__}: {error}".split())[:500] + "\n")
        failures.flush()
        raise
    return 0


def _log_run(spec: TrackerRunSpec) -> None:
    run = import_module(f"worker.trackers.{spec.settings['type']}_run").begin(spec)
    outcome = "interrupted"
    for line in _lines():
        if line.outcome is not None:
            outcome = line.outcome
            break
        run.log(line.step, line.values)
    watchdog = threading.Timer(LINGER_SECONDS, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    run.end(outcome)


def _lines() -> Iterator[TrackerLine]:
    for text in sys.stdin:
        yield TrackerLine.model_validate_json(text)


if __name__ == "__main__":
    sys.exit(main())
