"""Compares the validation of data files with common alternatives: `grouptune bench validation [--json FILE]`.

Each contender reads the same file in a separate process, on one core; processor time and peak memory are compared.
`checks` is the usual script for fine-tuning files: it parses every line with json.loads, then checks roles and
contents. `datasets` is Hugging Face's JSON loader (`pip install 'grouptune[bench]'`): it infers a schema and reports
neither line numbers nor duplicates. `rendered` is the check before a job: every row is rendered with the chat template
of a base model, and tokenised if it could be too long (`--model DIRECTORY`; skipped without it).
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from app.core.chat import row_check, tokenizer
from app.core.chat.encoding import RowRules
from app.core.files.validation import validate_rows
from app.core.spec.rows import read_rows
from bench.train import machine

ROOT: Final = Path(__file__).resolve().parents[1]
MUST_ROWS_PER_SECOND: Final = 50_000
MUST_RENDERED_PER_SECOND: Final = 5_000
MUST_MIB: Final = 200
PACKAGES: Final = ("pydantic", "datasets", "pyarrow")


@dataclass(frozen=True)
class ValidationCase:
    """One file: its number of rows, and the approximate number of words of each question and answer."""

    name: str
    rows: int
    question_words: int
    answer_words: int


CASES: Final = (ValidationCase("simple rows", 300_000, 6, 6), ValidationCase("a gigabyte", 400_000, 150, 300))


def write(case: ValidationCase, path: Path) -> None:
    """Write chat rows with one field for the grader; the same rows in every run."""
    rng = random.Random(0)  # noqa: S311 - test data
    words = [f"word{number % 1000}" for number in range(20_000)]

    def text(count: int) -> str:
        start = rng.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    with path.open("w", encoding="utf-8") as out:
        for number in range(case.rows):
            question = {"role": "user", "content": f"{number}: {text(case.question_words)}"}
            answer = {"role": "assistant", "content": text(case.answer_words)}
            out.write(json.dumps({"messages": [question, answer], "reference_answer": str(number)}) + "\n")


def ours(path: Path) -> int:
    """Run the full validation: strict JSON, every field, duplicates, the index of prompts, the report."""
    report = validate_rows(path).report
    if not report.valid or report.duplicate_rows:
        sys.exit(f"unexpected: {report.summary()}")
    return report.rows


def checks(path: Path) -> int:
    """Run the usual script: load everything into memory, then count the problems."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    problems: Counter[str] = Counter()
    for row in rows:
        messages = row.get("messages") if isinstance(row, dict) else None
        if not messages:
            problems["no messages"] += 1
            continue
        for message in messages:
            problems["keys"] += "role" not in message or "content" not in message
            problems["role"] += message.get("role") not in ("system", "user", "assistant", "tool")
            problems["content"] += not isinstance(message.get("content"), str) or not message["content"]
        problems["no answer"] += not any(message.get("role") == "assistant" for message in messages)
    return len(rows) - max(problems.values(), default=0)


def loader(path: Path) -> int:
    """Load the file with Hugging Face's loader, into a temporary cache."""
    datasets = import_module("datasets")  # optional
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        return int(datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache).num_rows)


def rendered(path: Path) -> int:
    """Count the rows that a supervised job on the model of `--model` can use."""
    counts = row_check.count_rows(read_rows(path), tokenizer.load(Path(os.environ[MODEL])), RowRules("all", 2_048))
    if counts.lost:
        sys.exit(f"unexpected: {counts.summary('file')}")
    return counts.used


CONTENDERS: Final[dict[str, Callable[[Path], int]]] = {
    "ours": ours,
    "rendered": rendered,
    "checks": checks,
    "datasets": loader,
}
MODEL: Final = "GROUPTUNE_BENCH_MODEL"
"""Environment variable with the directory of the base model."""


def measure(contender: str, path: Path) -> None:
    """Run one contender in this process, pinned to one core; print its time and memory as JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with redirect_stdout(sys.stderr), redirect_stderr(sys.stderr):
        if contender == "datasets":
            import_module("datasets")  # imports are not measured
        began, cpu = time.perf_counter(), time.process_time()
        rows = CONTENDERS[contender](path)
        result = {"rows": rows, "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result | {"peak_mib": peak}))


def run_contender(contender: str, path: Path) -> dict[str, Any]:
    """Run `measure` in a separate process and return its result."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.validation", "--measure", contender, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{contender} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(case: ValidationCase, directory: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the best round of each contender as soon as it is measured."""
    path = directory / "rows.jsonl"
    write(case, path)
    size = path.stat().st_size
    print(f"\n{case.name}: {case.rows:,} rows, {size / 1e6:,.0f} MB", flush=True)
    for name in CONTENDERS:
        if name == "datasets" and find_spec("datasets") is None:
            print("  datasets is not installed: pip install 'grouptune[bench]'")
            continue
        if name == "rendered" and (MODEL not in os.environ or case.name != "simple rows"):
            continue
        best = min((run_contender(name, path) for _ in range(rounds)), key=lambda result: result["cpu_seconds"])
        rate = best["rows"] / best["cpu_seconds"]
        verdict = ""
        if name == "ours":
            fast = case.name != "simple rows" or rate >= MUST_ROWS_PER_SECOND
            verdict = "ok" if fast and best["peak_mib"] < MUST_MIB else "MISSED"
        if name == "rendered":
            verdict = "ok" if rate >= MUST_RENDERED_PER_SECOND else "MISSED"
        print(
            f"  {name:9s} {rate:10,.0f} rows/s {size / best['cpu_seconds'] / 1e6:8,.0f} MB/s "
            f"{best['peak_mib']:8,.0f} MiB  {verdict}",
            flush=True,
        )
        yield {"case": asdict(case), "bytes": size, "contender": name, "rows_per_second": rate} | best
    path.unlink()


def main() -> None:
    """Print the table; with `--json` also write every number to a file."""
    parser = argparse.ArgumentParser(
        "grouptune bench validation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to FILE")
    parser.add_argument("--rounds", type=int, default=2, help="runs per contender (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only cases whose name contains TEXT")
    parser.add_argument(
        "--model", type=Path, metavar="DIRECTORY", help="base model whose chat template renders the rows"
    )
    parser.add_argument("--measure", nargs=2, metavar=("CONTENDER", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return
    if options.model:
        os.environ[MODEL] = str(options.model)
    print(f"one core of {machine(PACKAGES)}; rates per second of processor time")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="grouptune-bench-") as name:
        for case in CASES:
            if options.only in case.name:
                results += compare(case, Path(name), options.rounds)
    if options.json:
        report = {"machine": machine(PACKAGES), "rounds": options.rounds, "results": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
