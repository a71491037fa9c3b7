"""`python -m worker.trackers`: one tracker's process. Standard input is lines of JSON: `Wanted`, then each `Line`.

Ends with its input. Writes one line, why, to standard output when it fails; everything else goes to standard error.
"""

import os
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Final

from worker.trackers.protocol import Line, Wanted

LINGER_SECONDS: Final = 60.0
"""How long sending the rest may take once the input has ended: the runner may be dead, and nobody waits."""


def main() -> int:
    """Returns the exit code."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print
    try:
        _carry(Wanted.model_validate_json(sys.stdin.readline()))
    # Whatever a library raises is told, and costs nothing but this tracker.
    except Exception as error:
        told.write(" ".join(f"{type(error).__name__}: {error}".split())[:500] + "\n")
        told.flush()
        raise
    return 0


def _carry(wanted: Wanted) -> None:
    run = import_module(f"worker.trackers.{wanted.settings['type']}_run").begin(wanted)
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


def _lines() -> Iterator[Line]:
    for text in sys.stdin:
        yield Line.model_validate_json(text)


if __name__ == "__main__":
    sys.exit(main())
