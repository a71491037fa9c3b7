"""Compares the engine with TRL on one machine: `grouptune bench train [--json FILE]`, or `python -m bench.train`.

Training steps use the same prompts, completions, base model, dtype, LoRA shape and threads; TRL trains on these fixed
completions instead of generating its own. Rollouts use the same prompts and lengths. Each contender runs in a separate
process, so that its peak memory can be measured; contenders take turns, and medians are compared. If TRL is not
installed (`pip install 'grouptune[bench]'`), the engine runs alone. Before any timing, the engine's log-probabilities
and gradients are checked against transformers' eager attention in fp32.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from app.core.settings import load
from bench.cases import CASES, Case

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MODEL = "smollm2-135m-instruct"


def run_module(module: str, *words: str, threads: int) -> Any:
    """Run a module of this package and return the last line of its output, parsed as JSON. Exits if it fails."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", f"bench.{module}", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: Case, contenders: tuple[str, ...], options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run all contenders of a case, taking turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for turn in range(options.rounds):
        for name in contenders:
            module = "ours" if name == "ours" else "peer_trl"
            words = (name, json.dumps(asdict(case)), str(options.model_dir), str(options.steps))
            with console.status(f"{case.name}: {name}, round {turn + 1} of {options.rounds}"):
                runs[name].append(run_module(module, *words, threads=options.threads))
    seconds = {name: statistics.median(s for run in results for s in run["seconds"]) for name, results in runs.items()}
    memory = {name: min(run["step_kib"] for run in results) / 1024 for name, results in runs.items()}
    return {"case": asdict(case), "seconds": seconds, "step_mib": memory, "runs": runs}


def show(result: dict[str, Any]) -> None:
    """Print one block of the table."""
    case, seconds, memory = result["case"], result["seconds"], result["step_mib"]
    shape = f"{case['prompts']} x {case['members']}, P {case['prompt_tokens']}, R {case['response_tokens']}"
    shape += f", {case['turns']} turns" * (case["turns"] > 1)
    print(f"\n{case['name']} ({shape})")
    for name, value in seconds.items():
        ratio = value / seconds["ours"]
        verdict = (
            "" if name == "ours" else f"  {ratio:5.2f}x the time, {memory[name] / memory['ours']:5.2f}x the memory"
        )
        if name == "trl":
            verdict += f" (goal {case['must']}x: {'ok' if ratio >= case['must'] else 'MISSED'})"
        print(f"  {name:22s} {value:8.3f} s  {memory[name]:8.0f} MiB above the loaded model{verdict}", flush=True)


def machine(packages: Sequence[str] = ("torch", "transformers", "peft", "trl")) -> str:
    """Return the processor's name and the versions of the compared packages."""
    versions = []
    for name in packages:
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    return f"{processor}; {', '.join(versions)}"


def main() -> None:
    """Print the table; with `--json` also write every number to a file."""
    parser = argparse.ArgumentParser(
        "grouptune bench train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = load().models_dir
    parser.add_argument("--model-dir", type=Path, default=models / DEFAULT_MODEL, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to FILE")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs per contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads per contender (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only cases whose name contains TEXT")
    options = parser.parse_args()
    if not (options.model_dir / "config.json").is_file():
        sys.exit(f"No model in {options.model_dir}. Pull it: grouptune models pull {DEFAULT_MODEL}")
    console = Console(stderr=True)
    print(f"{options.model_dir.name}, bf16, {options.threads} threads, {machine()}")
    alone = find_spec("trl") is None
    if alone:
        console.print(
            "TRL is not installed, so the engine runs alone. To compare: pip install 'grouptune[bench]'", markup=False
        )
    with console.status("Checking log-probabilities and gradients against transformers' eager attention"):
        differences = run_module("ours", "check", str(options.model_dir), threads=options.threads)
    print(
        "fp32, differences from transformers' eager attention: "
        + ", ".join(f"{k} {v:.1e}" for k, v in differences.items()),
        flush=True,
    )
    results = []
    for case in CASES:
        if options.only in case.name:
            results.append(compare(case, case.contenders[:1] if alone else case.contenders, options, console))
            show(results[-1])
    if options.json:
        report = {"machine": machine(), "threads": options.threads, "fp32": differences, "results": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
