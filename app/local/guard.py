"""Kills the process groups of a supervisor that died without stopping them.

PR_SET_PDEATHSIG reaches direct children only; a grandchild in the same group (Celery's embedded beat is one)
would live on. Run as a script by `Supervisor` with `python -I -S`; stdin is the lifeline: `+PGID` and `-PGID`
lines, end of file means that the supervisor is gone.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
