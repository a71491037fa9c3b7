"""Converts a file in a process with limits and without credentials, so that no content can take a server down.

`python -m app.core.files.conversion_process SOURCE TARGET OPTIONS` is the process; `convert_file` starts it.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from app.core.deadline import Deadline
from app.core.files.archives import Unconvertible
from app.core.files.convert import rows
from app.core.spec.subprocess_environment import SYSTEM_ENVIRONMENT

MEMORY_BYTES: Final = 1 << 30
SECONDS: Final = 300
"""Limit of CPU time and of wall-clock time."""
_ELSEWHERE: Final = "convert it on your machine: `grouptune files convert FILE`"


def convert_file(
    source: Path,
    target: Path,
    columns: Mapping[str, str],
    *,
    limit: int | None = None,
    seconds: int = SECONDS,
    deadline: Deadline | None = None,
) -> None:
    """Write the rows of `source`, at most `limit`, into the new file `target`. Raises `Unconvertible`.

    The process is killed after `seconds`, or when the deadline is brought forward.

    `columns` maps fields to columns of the file; if it is empty, columns with the usual names are found.
    """
    options = json.dumps({"columns": dict(columns), "limit": limit, "seconds": seconds})
    command = [sys.executable, "-m", "app.core.files.conversion_process", str(source), str(target), options]
    with subprocess.Popen(
        command,
        env=SYSTEM_ENVIRONMENT.select(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with (deadline or Deadline()).interrupting(process.kill):
                output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise Unconvertible(f"the conversion took longer than {seconds:,} s; {_ELSEWHERE}") from error
    if process.returncode != 0:
        raise Unconvertible(
            f"the conversion needed more than {MEMORY_BYTES >> 20:,} MiB or {seconds:,} s; {_ELSEWHERE}"
        )
    if problem := json.loads(output)["problem"]:
        raise Unconvertible(problem)


def main() -> int:
    """Convert the file and write `{"problem"}` to standard output; return the exit code."""
    source, target, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    seconds = options["seconds"]
    os.nice(10)  # the API's other requests come first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    problem = None
    try:
        with target.open("x", encoding="utf-8", errors="surrogatepass") as out:
            for row in islice(rows(source, options["columns"]), options["limit"]):
                out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    except Unconvertible as error:
        problem = str(error)
    sys.stdout.write(json.dumps({"problem": problem}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
