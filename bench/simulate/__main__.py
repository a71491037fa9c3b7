"""Simulates a cluster and writes docs/scale.md: `python -m bench.simulate [--jobs N] [--page]`.

Half an hour on two cores. `--page` only writes the page from the stored results.
"""

import argparse
import json
import logging
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from app.core.settings import Settings
from bench.simulate import contention, report
from bench.simulate.clock import virtual_database
from bench.simulate.cluster import Simulation
from bench.simulate.workload import Fleet, plan

FLEET = Fleet({1: 600, 4: 300, 8: 100})
PROJECTS = 20
LOAD = 1.2
SEED = 1
PROCESSES = (1, 4, 16)


PARTS = ("fleet", "postgres")


def main() -> None:
    """Simulate, measure, store the results and write the page."""
    parser = argparse.ArgumentParser("python -m bench.simulate", description=__doc__)
    parser.add_argument("part", nargs="*", help="fleet: in virtual time; postgres: in real time; default: both")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=1.0, help="of the workers of each kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement in real time")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from the stored results")
    options = parser.parse_args()
    parts = () if options.page else options.part or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"{unknown.pop()} is none of {', '.join(PARTS)}")
    if options.page and not report.RESULTS.exists():
        parser.error("there are no stored results: run it without --page")
    console = Console()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    results = report.read() if report.RESULTS.exists() else {}
    with tempfile.TemporaryDirectory(prefix="gt-") as directory:
        Path(directory).chmod(0o711)  # Postgres does not run as root
        if "fleet" in parts:
            results["simulation"] = simulate(Path(directory) / "virtual", options.jobs, options.share, console)
        if "postgres" in parts:
            rates = contention.measure(Path(directory) / "real", PROCESSES, options.seconds)
            results |= {
                "hardware": f"{os.cpu_count()} cores ({platform.processor() or platform.machine()})",
                "queued": contention.QUEUED,
                "running": contention.RUNNING,
                "contention": [asdict(rate) for rate in rates],
            }
    report.RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if {"simulation", "contention"} <= results.keys():
        report.write(results, report.ROOT / "docs")
        console.print("Wrote docs/scale.md")


def simulate(directory: Path, count: int, share: float, console: Console) -> dict[str, Any]:
    """Run `count` jobs on a `share` of the fleet and return what the page shows."""
    fleet = Fleet({kind: max(1, round(workers * share)) for kind, workers in FLEET.kinds.items()})
    jobs = plan(count, fleet, projects=PROJECTS, load=LOAD, seed=SEED)
    settings = Settings.model_validate({"DATABASE_URL": "postgresql://unused/unused"})
    with virtual_database(directory) as database:
        measured = Simulation(database, fleet, jobs, settings, SEED).run(console.print)
    found = report.summary(fleet, jobs, measured, SEED)
    console.print({name: value for name, value in found.items() if name != "samples"})
    return found


if __name__ == "__main__":
    main()
