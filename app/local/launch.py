"""Launches a program that dies with its parent: drops privileges, sets PR_SET_PDEATHSIG, then calls exec.

`process.Child` runs this file as a script. `subprocess`' `preexec_fn` could do the same, but it is unsafe in a process
with threads, such as the supervisor. The script runs with `python -I -S`, so it imports nothing from the package.
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
    """Replace this process by `argv`; a `uid` or `gid` of -1 keeps the current user or group."""
    # The groups first: after setresuid this process may no longer change them. Real, effective and saved ids all
    # change, so that the program cannot become root again.
    if gid >= 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
    if uid >= 0:
        os.setresuid(uid, uid, uid)
    # After the change of user, because that clears the death signal. exec keeps it.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # the parent died before prctl, so the kernel will send no signal
        os._exit(EXIT_PARENT_GONE)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts background jobs with SIGINT ignored
    os.umask(PRIVATE_UMASK)
    os.execv(argv[0], argv)  # noqa: S606 - deliberately without a shell


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
