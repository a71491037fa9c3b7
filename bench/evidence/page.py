"""Writes docs/evidence.md and its plots from the stored results. The page has no text that is not here."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.evidence import conclusions, plots
from bench.evidence.cells import Cell, against, cell, cells
from bench.evidence.intervals import Estimate, verdict
from bench.evidence.matrix import FULL, QUICK, REFERENCE, SEEDS, STEPS, failure, next_run, sweep
from bench.evidence.methods import BASE, BATCH, METHODS, TEMPERATURE
from bench.evidence.plots import Point
from bench.evidence.results import Results
from bench.evidence.runs import OLD_ROWS, PROMPTS
from bench.evidence.scenarios import SCENARIOS, TEST_ROWS, VALIDATION_ROWS

BASELINE: Final = "sft"
NOT_RUN: Final = "not run yet"
ACCURACY_PLOT: Final = "evidence-accuracy.svg"
DRIFT_PLOT: Final = "evidence-drift.svg"
OLD_PLOT: Final = "evidence-old-task.svg"
COLUMNS: Final = (
    *("method", "rows", "seeds", "accuracy (95 %)", "against SFT, points (95 %)", "verdict"),
    *("forward KL", "old task", "operations, 1e12"),
)
BUDGETS: Final = {"prompts": "equal prompts", "flops": "equal operations"}

INTRODUCTION: Final = """# Evidence: which method helps, and when

`make evidence` trains a small model with each method, through this service's own API, and writes this page from
`bench/results/evidence.json`. Every number and every verdict below is computed from that file. A missing run is
shown as *not run yet*. [The method](method.md) explains the methods.
"""

MEANING: Final = """\
**better** and **worse** mean that the 95 % interval of the difference excludes 0. **level** means that it
contains 0: the runs show no difference, which does not prove that none exists. With this many comparisons, a
few in a hundred exclude 0 by chance.
"""

PROTOCOL: Final = """## How it is measured
- **Model**: {model}, {parameters:,} parameters, on {hardware} ({threads} for the trainer). {versions}.
- **Equal prompts**: each run takes {steps} optimiser steps of {batch} prompts from the same {prompts} training
  rows. A method that keeps fewer rows repeats them. A chain divides the steps evenly among its jobs. All jobs
  have the same adapter, cosine schedule and sampling (temperature {temperature:g}); the adapter after the last
  step is published.
- **Equal operations**: the same methods with as many steps as cost what `{reference}` costs at equal prompts.
- **Operations** are `N (4 trained + 2 generated + 2 scored)` for N parameters and tokens with their prompts: a
  frozen base needs 4 N for a trained token, and 2 N for one that is sampled, or scored by a reference. Stored
  answers of rejection sampling, `dpo` and offline GRPO count. Attention scores, the adapter, graders and
  evaluations do not.
- **Learning rates**: each method has its own. Rates are tried with seed {first_seed}; the best on {validation}
  validation rows is run with seeds {other_seeds}. Each stage of a chain but the last takes the rate of its own
  method.
- **Test**: {test} rows that choose nothing, the same for every method and seed, answered greedily and
  graded as in an [eval](evals.md). Seeds draw the training rows, their errors, and everything random in training.
- **Intervals** are over seeds and rows together (two-way clustering), so three seeds give wide ones.
  Differences are paired by seed and row.
- **Drift**: forward KL to the base model on held-out rows, in nats a token (`eval/forward_kl`), and an old
  task: {old} questions about capitals, which no scenario trains.
"""

LIMITS: Final = """## What this does not show
- One small model on one kind of short task. Larger models and longer answers may order the methods differently.
- Sources weighted by their reliability, and annealing from the supervised to the group loss, are not options of
  the service, so they are not here.
- LUFFY and CHORD are not methods of the service.
- Offline GRPO on stored groups is a `gft` job without rollouts at tau 0: its groups never change, and nothing
  corrects for the distance between the policy that wrote them and the policy that trains.
- Rates at the end of the tried range are marked: a better one may lie beyond it.
"""


def write(results: Results, directory: Path) -> None:
    """Write the page and its plots into the directory of the documentation."""
    for name, content in files(results).items():
        (directory / name).write_text(content, encoding="utf-8")


def files(results: Results) -> dict[str, str]:
    """Return the page and its plots by name."""
    present = [name for name in SCENARIOS if cell(results, name, BASE.name) or _known(results, name)]
    panels = [(_capital(SCENARIOS[name].title), _known(results, name)) for name in present]
    return {
        "evidence.md": page(results, present),
        ACCURACY_PLOT: plots.accuracy_plot(panels),
        DRIFT_PLOT: plots.scatter(
            [
                (title, [Point(one.method.label, one.drift.mean, one.accuracy.mean) for one in known])
                for title, known in panels
            ],
            "forward KL to the base model",
            "accuracy",
        ),
        OLD_PLOT: plots.scatter(
            [
                (title, [Point(one.method.label, one.old.mean, one.accuracy.mean) for one in known])
                for title, known in panels
            ],
            "share of the old task that is still right",
            "accuracy",
        ),
    }


def page(results: Results, present: Sequence[str]) -> str:
    """Return the text of docs/evidence.md."""
    missing = [name for name in SCENARIOS if name not in present]
    parts = [INTRODUCTION, *_summary(results, present), _protocol(results), _methods(), "## Results", MEANING]
    parts += [f"![Accuracy of each method with its 95 % interval]({ACCURACY_PLOT})\n"]
    for name in present:
        parts += _scenario(results, name)
    if missing:
        listed = "\n".join(f"- {SCENARIOS[name].title}" for name in missing)
        parts.append(f"### Scenarios that have not been run yet\n{listed}\n")
    parts += _drift(results, present)
    parts += _sweeps(results, present)
    parts.append(LIMITS)
    return "\n".join(parts)


def _point(one: Cell, across: Estimate) -> Point:
    return Point(one.method.label, across.mean, one.accuracy.mean)


def _known(results: Results, scenario: str) -> list[Cell]:
    return [found for found in cells(results, scenario).values() if found is not None]


def _summary(results: Results, present: Sequence[str]) -> Iterator[str]:
    yield f"## In short\n{_progress(results)}\n"
    if not any(conclusions.accuracy_sentences(cells(results, name)) for name in present):
        yield "No two methods have been compared with two seeds yet.\n"
    for name in present:
        sentences = conclusions.accuracy_sentences(cells(results, name))
        best = conclusions.best(cells(results, name))
        found = ([best] if best else []) + sentences
        if found:
            yield f"**{_capital(SCENARIOS[name].title)}**\n\n" + "\n".join(f"- {_capital(one)}" for one in found) + "\n"


def _progress(results: Results) -> str:
    runs = len(results.runs)
    if next_run(FULL, results) is None:
        return f"All {runs} runs of the full matrix are complete."
    state = "complete" if next_run(QUICK, results) is None else "not complete yet"
    return (
        f"{runs} runs are stored. The quick matrix is {state}; the full matrix ({len(SCENARIOS)} scenarios, "
        f"{len(METHODS)} methods, {len(SEEDS)} seeds, {FULL.rates} learning rates) is not complete yet. "
        "Read a verdict with its number of seeds."
    )


def _protocol(results: Results) -> str:
    about = results.about
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    threads = f"{about['threads']} thread{'' if about['threads'] == 1 else 's'}"
    return PROTOCOL.format(
        model=about["model"],
        parameters=about["parameters"],
        hardware=about["hardware"],
        threads=threads,
        versions=versions,
        steps=STEPS,
        batch=BATCH,
        prompts=PROMPTS,
        temperature=TEMPERATURE,
        reference=REFERENCE,
        first_seed=SEEDS[0],
        other_seeds=" and ".join(map(str, SEEDS[1:])),
        validation=VALIDATION_ROWS,
        test=TEST_ROWS,
        old=OLD_ROWS,
    )


def _methods() -> str:
    lines = [f"| {method.label} | {method.description} |" for method in METHODS.values()]
    return "## The methods\n| method | jobs |\n|---|---|\n" + "\n".join(lines) + "\n"


def _scenario(results: Results, name: str) -> Iterator[str]:
    base = cell(results, name, BASE.name)
    before = f" Before training: {_percent(base.accuracy)}." if base else ""
    yield f"### {_capital(SCENARIOS[name].title)}\n`{name}`.{before}\n"
    for budget, words in BUDGETS.items():
        found = cells(results, name, budget)
        if any(found.values()):
            failed = {method: failure(results, name, method, budget) for method in found}
            yield f"At {words}:\n\n" + _table(found, failed)
        else:
            yield f"At {words}: {NOT_RUN}.\n"


def _table(found: dict[str, Cell | None], failed: dict[str, str | None]) -> str:
    baseline = found.get(BASELINE)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, one in found.items():
        if one is None:
            state = NOT_RUN if failed[name] is None else f"failed: {failed[name]}"
            lines.append(f"| {METHODS[name].label} | {state} |{' |' * (len(COLUMNS) - 2)}")
            continue
        difference = None if baseline is None or one is baseline else against(one, baseline)
        compared = ("", "") if difference is None else (conclusions.points(difference), verdict(difference) or "")
        cells_ = (
            one.method.label,
            f"{one.kept_rows:.0f}",
            str(len(one.runs)),
            _percent(one.accuracy),
            *compared,
            f"{one.drift.mean:.2f}",
            f"{one.old.mean:.0%}",
            f"{one.flops / 1e12:.1f}",
        )
        lines.append(f"| {' | '.join(cells_)} |")
    return "\n".join(lines) + "\n"


def _drift(results: Results, present: Sequence[str]) -> Iterator[str]:
    yield (
        "## Drift at matched accuracy\nUpwards is better. In the first plot, further left is closer to the base model; "
        "in the second, further\nright keeps more of the old task.\n"
    )
    yield f"![Accuracy against forward KL]({DRIFT_PLOT})\n\n![Accuracy against the old task]({OLD_PLOT})\n"
    sentences = {name: conclusions.drift_sentences(cells(results, name)) for name in present}
    if not any(sentences.values()):
        yield "No two methods with several seeds each are level in accuracy yet.\n"
        return
    yield "Methods whose accuracies are level:\n"
    for name, found in sentences.items():
        if found:
            yield f"**{_capital(SCENARIOS[name].title)}**\n\n" + "\n".join(f"- {_capital(one)}" for one in found) + "\n"


def _sweeps(results: Results, present: Sequence[str]) -> Iterator[str]:
    yield "## Learning rates\nAccuracy on validation rows with the first seed; the chosen rate is bold.\n"
    for scenario in present:
        lines = []
        for name, one in cells(results, scenario).items():
            tried = sweep(results, scenario, name)
            if one is None or not tried:
                continue
            shown = ", ".join(
                f"**{rate:g}: {tried[rate]:.0%}**" if rate == one.rates[-1] else f"{rate:g}: {tried[rate]:.0%}"
                for rate in sorted(tried)
            )
            at_end = "yes" if one.rates[-1] in (min(tried), max(tried)) else "no"
            lines.append(f"| {one.method.label} | {shown} | {at_end} |")
        if lines:
            head = "| method | rates of the last stage | at the end of the range |\n|---|---|---|\n"
            yield f"{_capital(SCENARIOS[scenario].title)}:\n\n{head}" + "\n".join(lines) + "\n"


def _percent(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:.1%}"
    return f"{found.mean:.1%} ({max(0.0, found.low):.1%} to {min(1.0, found.high):.1%})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
