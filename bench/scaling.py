"""Measures how a job's step scales over processes: `python -m bench.scaling MODEL_DIR [--json FILE]`.

Runs whole trainer processes on the same job, one process and then two, each with one thread, by turns. Two processes
share rollouts, grading, evaluation and the update, so two cores should need half the time of one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import Evaluation, GroupMethod, JobSpec, MethodType, Sampling, TrainerSpec
from bench.train import machine

ROOT: Final = Path(__file__).parents[1]
STEPS: Final = 4
ROWS_A_STEP: Final = 8
HELD_OUT: Final = 32
PARTS: Final = {
    "rollouts": "gft/timing/rollout",
    "grading": "gft/timing/grading",
    "update": "gft/timing/update",
    "step": "step_time",
}
WHOLE: Final = "step, evaluation, checkpoint"


def trainer_spec(run_dir: Path, model_dir: Path, processes: int) -> TrainerSpec:
    """Return a GFT job over the first rows of the arithmetic example."""
    files = {"training": ("train", STEPS * ROWS_A_STEP), "validation": ("heldout", HELD_OUT)}
    for name, (part, count) in files.items():
        lines = (ROOT / "examples" / f"arithmetic.{part}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (run_dir / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    grader = StringCheckGrader(
        name="exact", input="{{sample.output_text}}", reference="{{item.reference_answer}}", operation="ilike"
    )
    settings = GroupMethod.model_validate(
        {
            "hyperparameters": {"batch_size": ROWS_A_STEP, "n_epochs": 1, "eval_interval": 1, "max_length": 256},
            "grader": grader,
            "sampling": Sampling(max_tokens=32),
            "evaluation": Evaluation(),
        }
    )
    return TrainerSpec(
        job_id="ftjob-bench",
        spec=JobSpec(model="bench", method=MethodType.gft, settings=settings, seed=1),
        base_model_dir=str(model_dir),
        training_path=str(run_dir / "training.jsonl"),
        validation_path=str(run_dir / "validation.jsonl"),
        threads=1,
        processes=processes,
    )


def run(model_dir: Path, processes: int) -> dict[str, list[float]]:
    """Train with this many processes; return the seconds of each step after the first, by part. Exits on a failure."""
    with tempfile.TemporaryDirectory(prefix="gt-") as directory:
        run_dir = Path(directory)
        spec = trainer_spec(run_dir, model_dir, processes)
        (run_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True), encoding="utf-8")
        command = [sys.executable, "-m", "worker.training", str(run_dir)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        found: dict[str, list[float]] = {name: [] for name in (*PARTS, WHOLE)}
        with (
            (run_dir / "log").open("w+", encoding="utf-8") as log,
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            ) as trainer,
        ):
            before = None
            for line in trainer.stdout or ():
                report = json.loads(line)
                if report["kind"] != "metrics":
                    continue
                now = time.monotonic()
                if before is not None:
                    found[WHOLE].append(now - before)
                    for name, metric in PARTS.items():
                        found[name].append(report["values"][metric])
                before = now
            trainer.wait()
            log.seek(0)
            if trainer.returncode != 0:
                sys.exit(f"the trainer ended with exit code {trainer.returncode}:\n{log.read()[-2000:]}")
    return found


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser("python -m bench.scaling", description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[int, dict[str, list[float]]] = {count: {name: [] for name in (*PARTS, WHOLE)} for count in (1, 2)}
    for _ in range(options.rounds):
        for count, parts in seconds.items():
            for name, values in run(options.model_dir, count).items():
                parts[name] += values
    medians: dict[str, Any] = {}
    for name in (*PARTS, WHOLE):
        one, two = (statistics.median(seconds[count][name] or [0.0]) for count in (1, 2))
        medians[name] = {"one": round(one, 3), "two": round(two, 3), "ratio": round(one / two, 2) if two else None}
        print(f"{name:30s} {one:8.2f} s with one process  {two:8.2f} s with two  {medians[name]['ratio']}x")
    if options.json:
        results = {"machine": machine(("torch", "transformers", "peft")), "medians": medians, "seconds": seconds}
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
