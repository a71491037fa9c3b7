"""A supervisor as a separate program that tests can kill: STATE_DIR [engines] [stubborn].

Prints `ready` when all its children run, then waits.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from app.local.placement import make_state_dir
from app.local.postgres import EmbeddedPostgres
from app.local.process import ChildSpec
from app.local.supervisor import Supervisor
from app.local.valkey import EmbeddedValkey

# The grandchild shares the group and has no death signal.
PARENT_OF_ONE = """
import subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
print("grandchild", grandchild.pid, flush=True)
try:
    grandchild.wait()
except BaseException:
    grandchild.terminate()
"""
# Ignores every stop signal except SIGKILL.
STUBBORN = """
import signal
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
print("ignoring", flush=True)
while True:
    signal.pause()
"""


def python_child(state: Path, name: str, script: str, **options: float) -> ChildSpec:
    """Build the spec of a child that runs a few lines of Python."""
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-S", "-c", script),
        env=os.environ.copy(),
        log_path=state / "logs" / f"{name}.log",
        stop_grace_seconds=options.get("stop_grace_seconds", 10.0),
    )


def main() -> None:
    state = Path(sys.argv[1])
    make_state_dir(state)
    with suppress(KeyboardInterrupt), Supervisor(state) as supervisor:
        if "engines" in sys.argv[2:]:
            postgres = EmbeddedPostgres(state)
            supervisor.start(postgres.spec())
            postgres.wait_ready(supervisor.wait)
            valkey = EmbeddedValkey(state)
            supervisor.start(valkey.spec())
            valkey.wait_ready(supervisor.wait)
        supervisor.start(python_child(state, "family", PARENT_OF_ONE))
        if "stubborn" in sys.argv[2:]:
            supervisor.start(python_child(state, "stubborn", STUBBORN, stop_grace_seconds=600.0))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        supervisor.wait()


if __name__ == "__main__":
    main()
