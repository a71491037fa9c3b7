"""The guard process: kills the process groups of a supervisor that died without stopping them.

PR_SET_PDEATHSIG reaches direct children only. A grandchild in the same group would survive. `Supervisor` runs this
file as a script (`python -I -S`) and holds the write end of its stdin: lines `+PGID` and `-PGID` add and remove
groups. However the supervisor dies, kill -9 included, the kernel closes the pipe, and the guard reads end of file.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    # Ctrl-C reaches every process of the terminal, and the guard must outlive the supervisor.
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
