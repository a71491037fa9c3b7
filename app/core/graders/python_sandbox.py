"""The `python` grader and its sandbox: user code runs in killable Monty processes without files or network."""

from datetime import UTC, datetime
from typing import Any, Final

import pydantic_monty as monty

from app.core.graders.types import ErrorType, GraderFailure, Sample, Tools
from app.core.spec.graders import PythonGrader

LIMITS: Final = monty.ResourceLimits(
    max_feed_duration_secs=2.0,
    max_memory=256 * 1024**2,
    max_recursion_depth=500,
    max_suspensions=1000,
    max_total_sleep_secs=2.0,
)
KILLED_AFTER_SECONDS: Final = 6.0
MAX_PRINTED_BYTES: Final = 1024**2
_SOURCE: Final = "<python-input-0>"
"""File name that the sandbox gives to the first source it runs."""
# Clock, sleep and random numbers are fixed, so that equal answers always get equal rewards.
_OS: Final = monty.OSPolicy(
    datetime=datetime(2026, 1, 1, tzinfo=UTC), timezone="utc", sleep="zero", random_start={"seed": 0}
)


def python(grader: PythonGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return the value of its `grade`. Anything except a number is an error, never a reward of 0."""
    value = tools.python(grader.source, sample.for_code(), item)
    if not isinstance(value, int | float):
        returned = "nothing for this answer" if value is None else type(value).__name__
        message = f"grade() returned {returned}; return a number"
        raise GraderFailure(message, ErrorType.python_runtime)
    return float(value)


class PythonSandbox:
    """Runs graders in at most `max_processes` processes at once. Thread-safe."""

    def __init__(self, max_processes: int) -> None:
        self._monty = monty.Monty(max_processes=max_processes, request_timeout=KILLED_AFTER_SECONDS).__enter__()

    def grade(self, source: str, sample: dict[str, Any], item: dict[str, Any]) -> Any:
        """Run `source` and return `grade(sample, item)`. Raises GraderFailure."""
        printed = monty.CollectString(max_bytes=MAX_PRINTED_BYTES)
        try:
            with self._monty.checkout(limits=LIMITS, os_policy=_OS) as session:
                session.feed_run(source, print_callback=printed)
                inputs = {"sample": sample, "item": item}
                return session.feed_run("grade(sample, item)", inputs=inputs, print_callback=printed)
        except monty.MontyCrashedError as error:
            raise GraderFailure(f"the Python sandbox was killed: {error}", ErrorType.python_server) from error
        except monty.MontyError as error:
            raise GraderFailure(_error_text(error), ErrorType.python_runtime) from error

    def close(self) -> None:
        """End all processes."""
        self._monty.__exit__(None, None, None)


def _error_text(error: monty.MontyError) -> str:
    """Return the error with the line number in the user's source."""
    frames = error.traceback() if isinstance(error, monty.MontyRuntimeError) else []
    lines = [frame.line for frame in frames if frame.filename == _SOURCE]
    return f"{error}" + (f" (line {lines[-1]})" if lines else "")
