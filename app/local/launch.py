"""Becomes another program that dies with its parent: drop privileges, set PR_SET_PDEATHSIG, exec.

Run as a script by `process.Child`. A `preexec_fn` would do the same, but is unsafe in a process with threads,
and the supervisor has some. Knows nothing of the package: it runs with `python -I -S`.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PRIVATE_UMASK = 0o077
EXIT_PARENT_GONE = 125
EXIT_CANNOT_START = 126


def become(argv: list[str], *, parent_pid: int, death_signal: int, uid: int, gid: int) -> None:
    """Replaces this process by `argv`; `uid` or `gid` of -1 keeps the current identity."""
    if gid >= 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
    if uid >= 0:
        os.setresuid(uid, uid, uid)
    # After the identity change, because that clears the death signal.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before prctl, so no signal will come
        os._exit(EXIT_PARENT_GONE)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background shell hands it down ignored
    os.umask(PRIVATE_UMASK)
    os.execv(argv[0], argv)  # noqa: S606 - no shell is the point


def main() -> None:
    parent_pid, death_signal, uid, gid = (int(word) for word in sys.argv[1:5])
    argv = sys.argv[5:]
    try:
        become(argv, parent_pid=parent_pid, death_signal=death_signal, uid=uid, gid=gid)
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]}: {error}\n")
        sys.exit(EXIT_CANNOT_START)


if __name__ == "__main__":
    main()
