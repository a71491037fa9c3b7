"""Writes docs/scale.md and its plots from bench/results/scale.json. The page has no text that is not here."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from bench.simulate import states, workload
from bench.svg import MARGIN, WIDTH, document, text, ticks

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "bench" / "results" / "scale.json"
LOAD_PLOT: Final = "scale-load.svg"
WAIT_PLOT: Final = "scale-waits.svg"

INTRODUCTION: Final = """# Capacity

`python -m bench.simulate` runs the scheduler's own SQL over a simulated fleet and writes this page. Postgres is real,
and every claim, lease, preemption and end of a job is the product's code; its `now()` is the simulation's clock. What
is replaced: the broker (a free worker claims when a job is created or a slot is freed), training (it only takes its
time), and heartbeats (a lease ends when it would have ended after the last heartbeat of a dead worker).
"""

SIMULATED: Final = """## What is simulated
- **Fleet**: {workers:,} workers ({fleet}), {gpus:,} GPUs. A worker trains one job at a time.
- **Jobs**: {jobs:,} of {projects} projects. Half belong to one project, which creates them all at once; the others
  arrive over time, faster than the fleet can train them. Sizes (GPUs x workers; an assumption): {sizes}. Training time
  is log-normal with a median of {median:.0f} min (an assumption). {urgent:.0%} have a higher priority and preempt
  others.
- **Failures**: each worker fails {failures:.4f} times a day, the rate of the unexpected interruptions of
  [Llama 3's pre-training](https://arxiv.org/abs/2407.21783) (419 in 54 days on 2,048 machines), and is back after an
  hour on average. Jobs have a checkpoint every {checkpoint:.0f} min and need {load:.0f} s to load.

## Results
All jobs ended after {hours:,} simulated hours: {succeeded:,} succeeded and {failed:,} failed, through {deaths:,}
failures of workers and {preemptions:,} preemptions.
"""

UTILISATION: Final = """
While more jobs wait than there are workers, {held:.1%} of the GPUs that are up belong to workers with a job, and
{used:.1%} train. The difference is small jobs on large workers: a worker trains one job at a time, whatever its size.
Give each size of job its own workers, or start several workers on a machine, each with its own
`CUDA_VISIBLE_DEVICES`.
"""

FAIRNESS: Final = """A free worker takes a job of the project with the fewest running jobs, so the project that
filled the queue waits, and the others hardly do. Their jobs for the largest workers wait for one of few.
"""

LIMITS: Final = """## Where Postgres becomes the limit
The same statements in real time, from several processes at once that do nothing else, with {queued:,} queued and
{running:,} running jobs; Postgres and the processes share {hardware}.
"""

LIMIT: Final = """
A worker that trains polls and sends heartbeats. Both together use all of this Postgres at about {workers:,} workers,
before their reports are counted; `python -m bench.service` measures those.
"""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def summary(
    fleet: workload.Fleet, jobs: Sequence[workload.PlannedJob], measured: states.Measured, seed: int
) -> dict[str, Any]:
    """Return what the page shows, to be stored as JSON."""
    by_number = {job.number: job for job in jobs}
    waits: dict[str, list[float]] = {}
    for number, wait in measured.waits.items():
        job = by_number[number]
        size = f"{job.gpus} x {job.nodes}"
        owner = "of the project with the long queue" if job.project == 0 else "of the others"
        kind = "of a higher priority" if job.priority else f"{size} {owner}"
        waits.setdefault(kind, []).append(wait)
    gpu_hours = {name: round(getattr(measured, name) / 3600, 1) for name in ("useful", "repeated", "starting", "lost")}
    return {
        "seed": seed,
        "jobs": len(jobs),
        "projects": 1 + max(job.project for job in jobs),
        "workers": {str(kind): count for kind, count in fleet.kinds.items()},
        "failures_per_day": fleet.failures_per_day,
        "hours": round(measured.hours, 1),
        "succeeded": measured.succeeded,
        "failed": measured.failed,
        "failures": measured.failures,
        "preemptions": measured.preemptions,
        "gpu_hours": gpu_hours,
        "claims": len(measured.claim_ms),
        "claim_ms": _spread(measured.claim_ms),
        "empty_claim_ms": _spread(measured.empty_claim_ms),
        "sweep_ms": _spread(measured.sweep_ms),
        "waits": {
            kind: {"jobs": len(found), "p50": round(percentile(found, 0.5)), "p95": round(percentile(found, 0.95))}
            for kind, found in sorted(waits.items())
        },
        "samples": [
            [sample.hours, sample.queued, sample.used_gpus, sample.held_gpus, sample.up_gpus]
            for sample in measured.samples
        ],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {f"p{round(100 * share)}": round(percentile(values, share), 2) for share in (0.5, 0.95, 0.99)}


def write(results: dict[str, Any], directory: Path) -> None:
    """Write the page and its plots into the directory of the documentation."""
    for name, content in files(results).items():
        (directory / name).write_text(content, encoding="utf-8")


def read() -> dict[str, Any]:
    """Return the stored results."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def files(results: dict[str, Any]) -> dict[str, str]:
    """Return the page and its plots by name."""
    found = results["simulation"]
    return {
        "scale.md": _page(results),
        LOAD_PLOT: _load_plot(found["samples"]),
        WAIT_PLOT: _wait_plot(_by_size(found["waits"])),
    }


def _page(results: dict[str, Any]) -> str:
    found = results["simulation"]
    kinds = found["workers"]
    fleet = ", ".join(f"{count:,} with {gpus} GPU{'s' * (gpus != '1')}" for gpus, count in kinds.items())
    gpus = sum(int(kind) * count for kind, count in kinds.items())
    hours = found["gpu_hours"]
    spent = sum(hours.values())
    share = {name: f"{value / spent:.2%}" for name, value in hours.items()}
    saturated = [sample for sample in found["samples"] if sample[1] > sum(kinds.values())]
    used, held = (fmean(sample[place] / sample[4] for sample in saturated) if saturated else 0 for place in (2, 3))
    lines = [
        INTRODUCTION,
        SIMULATED.format(
            workers=sum(kinds.values()),
            fleet=fleet,
            gpus=gpus,
            jobs=found["jobs"],
            projects=found["projects"],
            sizes=", ".join(f"{part:.1%} {gpus} x {nodes}" for (gpus, nodes), part in workload.JOB_SIZES.items()),
            median=workload.MEDIAN_SECONDS / 60,
            urgent=workload.URGENT_SHARE,
            failures=found["failures_per_day"],
            checkpoint=states.CHECKPOINT_SECONDS / 60,
            load=states.LOAD_SECONDS,
            hours=found["hours"],
            succeeded=found["succeeded"],
            failed=found["failed"],
            deaths=found["failures"],
            preemptions=found["preemptions"],
        ),
        f"![Queued jobs and GPUs in use over time]({LOAD_PLOT})",
        "",
        "| GPU time | hours | share |",
        "|---|---|---|",
        *(
            f"| {label} | {hours[name]:,} | {share[name]} |"
            for name, label in (
                ("useful", "training that counts"),
                ("repeated", "repeated after a failure, since the last checkpoint"),
                ("lost", "between a worker's death and the end of its lease"),
                ("starting", "loading models"),
            )
        ),
        UTILISATION.format(held=held, used=used),
        "### Waits",
        f"![Waits of jobs by their size]({WAIT_PLOT})",
        "",
        "| jobs: GPUs x workers | number | wait, median | wait, p95 |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {one['jobs']:,} | {_duration(one['p50'])} | {_duration(one['p95'])} |"
            for kind, one in _by_size(found["waits"]).items()
        ),
        "",
        FAIRNESS,
        "### The scheduler's time",
        f"{found['claims']:,} claims, each with its commit, alone on the database of the simulation:",
        "",
        "| | p50 | p95 | p99 |",
        "|---|---|---|---|",
        *(
            f"| {label} | {one['p50']} ms | {one['p95']} ms | {one['p99']} ms |"
            for label, one in (
                ("claim", found["claim_ms"]),
                ("claim that finds nothing", found["empty_claim_ms"]),
                ("sweep: expired leases and preemption", found["sweep_ms"]),
            )
        ),
        "",
        *_limits(results),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _limits(results: dict[str, Any]) -> list[str]:
    rates = results["contention"]
    lines = [
        LIMITS.format(**{name: results[name] for name in ("queued", "running", "hardware")}),
        "| statement | processes | per second | p50 | p95 | a busy worker's rate | workers |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in rates:
        own = "" if rate["per_worker"] is None else f"{rate['per_worker']:g}/s"
        workers = "" if rate["per_worker"] is None else f"{int(rate['per_second'] / rate['per_worker']):,}"
        times = f"{rate['p50_ms']} ms | {rate['p95_ms']} ms"
        lines.append(
            f"| {rate['what']} | {rate['processes']} | {rate['per_second']:,.0f} | {times} | {own} | {workers} |"
        )
    best = {rate["what"]: max(one["per_second"] for one in rates if one["what"] == rate["what"]) for rate in rates}
    alone = [rate for rate in rates if rate["per_worker"] and rate["processes"] == 1]
    cost = sum(rate["per_worker"] / best[rate["what"]] for rate in alone)
    lines.append(LIMIT.format(workers=int(1 / cost)))
    return lines


def _by_size(waits: dict[str, Any]) -> dict[str, Any]:
    """Return the waits of small jobs before those of large ones."""
    return dict(sorted(waits.items(), key=lambda wait: [int(number) for number in re.findall(r"\d+", wait[0])] or [99]))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _load_plot(samples: Sequence[Sequence[float]]) -> str:
    lines = {2: "", 3: "6 4", 4: "2 3"}
    panels = {"Queued jobs": (1,), "GPUs: in use (line), of workers with a job (dashes), up (dots)": tuple(lines)}
    parts: list[str] = []
    left, right, height, top = MARGIN + 56, WIDTH - MARGIN, 150, MARGIN
    hours = ticks(max(sample[0] for sample in samples), 8)
    for title, places in panels.items():
        parts.append(text(MARGIN, top + 14, title, "title"))
        top += 30
        values = ticks(max(sample[place] for sample in samples for place in places))
        for value in values:
            y = round(top + height - height * value / values[-1], 1)
            parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
            parts.append(text(left - 6, y + 4, f"{value:,.0f}", "small", "end"))
        for hour in hours:
            x = round(left + (right - left) * hour / hours[-1], 1)
            parts.append(text(x, top + height + 16, f"{hour:g} h", "small", "middle"))
        for place in places:
            points = " ".join(
                f"{left + (right - left) * sample[0] / hours[-1]:.1f},"
                f"{top + height - height * sample[place] / values[-1]:.1f}"
                for sample in samples
            )
            dashes = f' stroke-dasharray="{pattern}"' if (pattern := lines.get(place)) else ""
            parts.append(f'<polyline class="bar" fill="none"{dashes} points="{points}"/>')
        top += height + 40
    return document(top - 12, "Queued jobs and GPUs in use over the simulated time", parts)


def _wait_plot(waits: dict[str, dict[str, float]]) -> str:
    parts: list[str] = [
        text(MARGIN, MARGIN + 14, "Median (dot) and 95th percentile (end of the line), in hours", "title")
    ]
    left, right, top = MARGIN + 290, WIDTH - 3 * MARGIN, MARGIN + 34
    hours = ticks(max(one["p95"] for one in waits.values()) / 3600, 8)
    bottom = top + 24 * len(waits)
    for hour in hours:
        x = round(left + (right - left) * hour / hours[-1], 1)
        parts.append(f'<line class="grid" x1="{x}" y1="{top}" x2="{x}" y2="{bottom}"/>')
        parts.append(text(x, bottom + 14, f"{hour:g}", "small", "middle"))
    for place, (kind, one) in enumerate(waits.items()):
        y = top + 24 * place + 12
        middle, far = (round(left + (right - left) * one[name] / 3600 / hours[-1], 1) for name in ("p50", "p95"))
        parts.append(text(MARGIN, y + 4, kind))
        parts.append(f'<line class="bar" x1="{middle}" y1="{y}" x2="{far}" y2="{y}"/>')
        parts.append(f'<circle class="dot" cx="{middle}" cy="{y}" r="4"/>')
    return document(bottom + 28, "Waits from creation to the first claim, by GPUs and workers of the job", parts)
