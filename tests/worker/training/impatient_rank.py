"""A rank of a trainer that soon gives up waiting for other ranks: `python -m ... RUN_DIR`."""

import sys
import threading
from pathlib import Path

from worker.training import process_group, pulse
from worker.training.setup import run

if __name__ == "__main__":
    process_group.SECONDS_TO_CONNECT = 2.0  # type: ignore[misc]
    pulse.BEAT_SECONDS, pulse.SILENT_SECONDS = 0.2, 5.0  # type: ignore[misc]
    sys.exit(run(Path(sys.argv[1]), sys.stdout, threading.Event()))
