"""Runs the matrix and writes docs/evidence.md: `python -m bench.evidence [quick|full] [--scenarios A,B]`.

Stopped at any time, it continues with the run that it was at. `--page` only writes the page.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.cli.models.commands import pull
from app.core.errors import GrouptuneError
from app.core.settings import load
from bench.evidence import page
from bench.evidence.api import running_service
from bench.evidence.matrix import FULL, QUICK, Size, next_run
from bench.evidence.methods import METHODS
from bench.evidence.results import RESULTS, ROOT, Results, about
from bench.evidence.runs import perform
from bench.evidence.scenarios import SCENARIOS

DEFAULT_MODEL = "smollm2-135m-instruct"


def main() -> None:
    """Run what is missing, one run at a time."""
    parser = argparse.ArgumentParser("python -m bench.evidence", description=__doc__)
    parser.add_argument("size", nargs="?", choices=("quick", "full"), default="quick")
    for name, known in (("scenarios", SCENARIOS), ("methods", METHODS)):
        listed = f"of {', '.join(known)}, separated by commas; default: those of the size"
        parser.add_argument(f"--{name}", type=partial(_names, tuple(known)), help=listed)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--state-dir", type=Path, default=load().state_dir / "evidence", help="default: %(default)s")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from the stored results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    size = QUICK if options.size == "quick" else FULL
    size = replace(size, scenarios=options.scenarios or size.scenarios, methods=options.methods or size.methods)
    try:
        results = Results.read(options.results)
        if not options.page:
            results.check_model(options.model)
            run_missing(size, results, options.state_dir, options.model)
    except KeyboardInterrupt:
        sys.exit("Stopped. Start it again to continue.")
    except GrouptuneError as error:
        sys.exit(f"{error}")
    if options.results == RESULTS and results.runs:
        page.write(results, ROOT / "docs")
        report("Wrote docs/evidence.md")


def run_missing(size: Size, results: Results, state_dir: Path, model: str) -> None:
    """Perform and store every run of the matrix that has no result."""
    if next_run(size, results) is None:
        return
    pull(model, load().models_dir, report)
    with running_service(state_dir, model, report) as service:
        described = about(model, service.parameters, load().trainer_threads or os.cpu_count() or 1)
        while run := next_run(size, results):
            report(run.name)
            result = perform(run, service)
            results.add(result, described)
            report(f"  {summary(result)}")


def summary(result: dict[str, object]) -> str:
    """Return the result of a run in a line."""
    if "failed" in result:
        return f"failed: {result['failed']}"
    test = str(result["test"])
    accuracy = test.count("1") / len(test)
    return f"accuracy {accuracy:.3f}, forward KL {result['forward_kl']}, {result['seconds']} s"


def report(message: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), message, flush=True)


def _names(known: tuple[str, ...], text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(known)}")
    return names


if __name__ == "__main__":
    main()
