"""The real trainer, which kills itself at a random moment after it has reported a step.

Run as `python -m tests.worker.dying_trainer STEP RUN_DIR`. Its death does not depend on how fast a test sees the
report.
"""

import json
import os
import random
import signal
import sys
import threading
import time

LONGEST_SECONDS = 0.05
"""A few steps of the tiny model."""


def pass_on(reports: int, out: int, last_step: int) -> None:
    """Copy the reports line by line; die a random while after the metrics of `last_step`."""
    with os.fdopen(reports, "rb") as lines:
        for line in lines:
            os.write(out, line)
            report = json.loads(line)
            if report["kind"] == "metrics" and report["step"] == last_step:
                threading.Thread(target=die_soon, daemon=True).start()


def die_soon() -> None:
    time.sleep(random.uniform(0, LONGEST_SECONDS))  # noqa: S311 - any moment of a step
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    out, (reports, writer) = os.dup(1), os.pipe()
    os.dup2(writer, 1)
    threading.Thread(target=pass_on, args=(reports, out, int(sys.argv.pop(1))), daemon=True).start()
    from worker.training.__main__ import main

    sys.exit(main())
