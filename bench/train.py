"""The engine beside TRL on one machine: `python -m bench.train [--json FILE]`, after `pip install trl`.

Training steps: the same prompts, completions, base model, dtype, LoRA shape and threads; TRL's generation is replaced
by these fixed completions. Rollouts: the same prompts and lengths, sampled. Each contender runs in a process of its
own, so that its peak memory is its own; they take turns, and medians are compared. Before anything is timed, the
engine's log-probabilities and gradients are checked against a plain forward pass in fp32.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.core.settings import load
from bench.cases import CASES, Case

ROOT = Path(__file__).resolve().parents[1]


def start(module: str, *words: str, threads: int) -> Any:
    """What a module of this package prints last, read as JSON; ends everything when it fails."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", f"bench.{module}", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All contenders of a case, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in case.contenders}
    for _ in range(options.rounds):
        for name in case.contenders:
            module = "ours" if name == "ours" else "peer_trl"
            words = (name, json.dumps(asdict(case)), str(options.model_dir), str(options.steps))
            runs[name].append(start(module, *words, threads=options.threads))
    seconds = {name: statistics.median(s for one in many for s in one["seconds"]) for name, many in runs.items()}
    memory = {name: min(one["step_kib"] for one in many) / 1024 for name, many in runs.items()}
    return {"case": asdict(case), "seconds": seconds, "step_mib": memory, "runs": runs}


def show(result: dict[str, Any]) -> None:
    """One block of the table."""
    case, seconds, memory = result["case"], result["seconds"], result["step_mib"]
    shape = f"{case['prompts']} x {case['members']}, P {case['prompt_tokens']}, R {case['response_tokens']}"
    print(f"\n{case['name']} ({shape})")
    for name, value in seconds.items():
        ratio = value / seconds["ours"]
        verdict = "" if name == "ours" else f"  {ratio:5.2f}x ours"
        if name == "trl":
            verdict += f" (must {case['must']}: {'ok' if ratio >= case['must'] else 'MISSED'})"
        print(f"  {name:22s} {value:8.3f} s  {memory[name]:8.0f} MiB above the loaded model{verdict}")


def main() -> None:
    """Prints the table; with `--json` also writes every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pulled = load().models_dir / "smollm2-135m-instruct"
    parser.add_argument("--model-dir", type=Path, default=pulled, help="a pulled base model (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="part of a case's name")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    print(f"{options.model_dir.name}, bf16, {options.threads} threads, {platform.machine()}; {versions}")
    differences = start("ours", "check", str(options.model_dir), threads=options.threads)
    print("fp32, against a plain forward pass: " + ", ".join(f"{k} {v:.1e}" for k, v in differences.items()))
    results = []
    for case in CASES:
        if options.only in case.name:
            results.append(compare(case, options))
            show(results[-1])
    if options.json:
        options.json.write_text(json.dumps({"fp32": differences, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
