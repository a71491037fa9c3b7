"""A trainer without a model: it speaks the trainer's protocol but trains nothing.

Run as `protocol_trainer.py BEHAVIOUR RUN_DIR`. With `from_metadata`, the behaviour is read from the job's metadata.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

STOP = threading.Event()
RELEASED: Final = "released"
"""File next to a job's run directories: trainers of the behaviour `train_held` continue."""


def report(kind: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


def start(run_dir: Path, total: int) -> int:
    spec = json.loads((run_dir / "spec.json").read_text())
    resumed = int(json.loads((Path(spec["resume_from"]) / "state.json").read_text())) if spec["resume_from"] else 0
    report(
        "started",
        total_steps=total,
        resumed_from_step=resumed,
        batch_size=4,
        n_epochs=1,
        learning_rate=1e-4,
        learning_rate_multiplier=1.0,
    )
    return resumed


def checkpoint(run_dir: Path, step: int, *, with_adapter: bool = False) -> None:
    path = run_dir / "checkpoints" / f"step-{step}"
    path.mkdir(parents=True)
    (path / "state.json").write_text(str(step))
    if with_adapter:
        (path / "adapter_config.json").write_text("{}")
        (path / "adapter_model.safetensors").write_bytes(bytes(8))
    report("checkpoint", step=step, path=str(path), metrics={"loss": 1.0})


def finish(run_dir: Path, step: int) -> None:
    (run_dir / "adapter").mkdir()
    (run_dir / "adapter" / "adapter_config.json").write_text("{}")
    report(
        "finished",
        step=step,
        path=str(run_dir / "adapter"),
        trained_tokens=step,
        published_step=step,
        reason="last",
    )


def train(run_dir: Path, total: int, crash_at: int = 0, *, with_adapters: bool = False) -> None:
    for step in range(start(run_dir, total) + 1, total + 1):
        if step == crash_at:
            sys.stderr.write("about to crash\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        report("metrics", step=step, values={"loss": 1 / step, "reward": float("nan")}, trained_tokens=step)
        if step % 2 == 0:
            checkpoint(run_dir, step, with_adapter=with_adapters)
    finish(run_dir, total)


def train_slowly(run_dir: Path, total: int, cut_at: int = 0) -> int:
    """Train like `train`, at twenty steps a second, and honour a stop request."""
    for step in range(start(run_dir, total) + 1, total + 1):
        if STOP.wait(0.05):
            checkpoint(run_dir, step - 1)
            return 75
        if step == cut_at:
            return 3
        report("metrics", step=step, values={"loss": 1 / step}, trained_tokens=step)
        if step % 4 == 0:
            checkpoint(run_dir, step)
    finish(run_dir, total)
    return 0


def train_held(run_dir: Path, total: int, at: int) -> int:
    """As `train`, but waits after step `at` until the test releases it; honours a stop request."""
    for step in range(start(run_dir, total) + 1, total + 1):
        report("metrics", step=step, values={"loss": 1 / step}, trained_tokens=step)
        if step % 4 == 0:
            checkpoint(run_dir, step)
        while step == at and not STOP.is_set() and not (run_dir.parent / RELEASED).exists():
            STOP.wait(0.05)
        if STOP.is_set():
            checkpoint(run_dir, step)
            return 75
    finish(run_dir, total)
    return 0


def lose_connection(run_dir: Path, total: int) -> int:
    """As `train_slowly`, but the first attempt ends as when the connections between the trainers are cut."""
    is_first = json.loads((run_dir / "spec.json").read_text())["attempt"] == 1
    return train_slowly(run_dir, total, cut_at=5 if is_first else 0)


def until_stopped(run_dir: Path, linger_seconds: float = 0.0) -> int:
    step = start(run_dir, 1000)
    while not STOP.wait(0.05):
        step += 1
        report("metrics", step=step, values={"loss": 1.0})
    threading.Event().wait(linger_seconds)  # the rest of a long step
    checkpoint(run_dir, step)
    return 75


def hang(run_dir: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["sleep", "600"])
    (run_dir.parent / "pids").write_text(f"{os.getpid()} {grandchild.pid}")
    start(run_dir, 10)
    while True:
        with contextlib.suppress(InterruptedError):
            signal.pause()


def main(behaviour: str, run_dir: Path) -> int:
    secrets = {"DATABASE_URL", "REDIS_URL", "PGPASSWORD"} & set(os.environ)
    if secrets or os.environ["GROUPTUNE_PARENT_PID"] != str(os.getppid()):
        return 64
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    if behaviour == "from_metadata":
        behaviour = json.loads((run_dir / "spec.json").read_text())["spec"]["metadata"]["behaviour"]
    name, _, argument = behaviour.partition(":")
    return BEHAVIOURS[name](run_dir, argument) or 0


def fail(run_dir: Path, code: str) -> int:
    start(run_dir, 10)
    report("failed", code="no_memory", message="Use a smaller batch_size.", param="batch_size")
    return int(code)


def fail_on_row(run_dir: Path, row: str) -> int:
    start(run_dir, 10)
    report("failed", code="teacher_rows_failed", message="The teacher answered 503", rows=[int(row)])
    return 69


def grade(run_dir: Path, _argument: str) -> int:
    """Report grades of demonstrations and end before they are complete; train once earlier grades are given."""
    if json.loads((run_dir / "spec.json").read_text())["demonstrations"] is not None:
        train(run_dir, 1)
        return 0
    report("demonstrations", counts={"total": 9})
    report("demonstrations", counts={"total": 9, "passed": 1, "failed": 1}, rejected=[4])
    report("demonstrations", counts={"total": 9, "passed": 2, "failed": 1, "errors": 1}, rejected=[7])
    return 1


def exit_with(_run_dir: Path, code: str) -> int:
    sys.stderr.write("last words\n")
    return int(code)


def train_after_chatter(run_dir: Path, total: str) -> None:
    sys.stdout.write("a library says hello\n")
    train(run_dir, int(total))


def say_everything(run_dir: Path, _argument: str) -> int:
    """Write all variables and files that the trainer was given, in the forms in which libraries show them."""
    start(run_dir, 10)
    for name, value in os.environ.items():
        sys.stderr.write(f"{name}={value}\n{value!r} {json.dumps({name: value})}\nAuthorization: Bearer {value}\n")
    for path in run_dir.glob("*.json*"):
        sys.stderr.write(path.read_text())
    sys.stderr.write("the end\n")
    return 65


def say_and_die(run_dir: Path, argument: str) -> None:
    """Write some lines, the last one unfinished, and die of SIGKILL."""
    start(run_dir, 10)
    sys.stderr.write("".join(f"line {number}\n" for number in range(int(argument))) + "last words")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_wait(run_dir: Path, _argument: str) -> int:
    """Write a line, and another one when stopped."""
    start(run_dir, 10)
    sys.stderr.write("\x1b[31mat work\x1b[0m\n 10%|#\r 50%|#####\r100%|##########\n")
    sys.stderr.flush()
    STOP.wait()
    sys.stderr.write("stopped\n")
    return 75


BEHAVIOURS: Final[dict[str, Callable[[Path, str], int | None]]] = {
    "train": train_after_chatter,
    "train_with_adapters": lambda run_dir, total: train(run_dir, int(total), with_adapters=True),
    "train_slowly": lambda run_dir, total: train_slowly(run_dir, int(total)),
    "lose_connection": lambda run_dir, total: lose_connection(run_dir, int(total)),
    "train_held": lambda run_dir, steps: train_held(run_dir, *map(int, steps.split(":"))),
    "crash": lambda run_dir, step: train(run_dir, 10, crash_at=int(step)),
    "until_stopped": lambda run_dir, _: until_stopped(run_dir),
    "stops_slowly": lambda run_dir, seconds: until_stopped(run_dir, float(seconds)),
    "hang": lambda run_dir, _: hang(run_dir),
    "fail": fail,
    "fail_on_row": fail_on_row,
    "exit": exit_with,
    "grade": grade,
    "say_everything": say_everything,
    "say_and_die": say_and_die,
    "say_and_wait": say_and_wait,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
