"""`grouptune evals compare`: the paired difference of two runs."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.ui.console import note, write_json, write_table
from app.cli.ui.formatting import number
from app.cli.ui.options import AsJson, StateDir
from app.client import Json, path_segment
from app.core.plurals import plural


def compare(
    eval_id: Annotated[str, typer.Argument(metavar="EVAL", help="Eval id: eval_...")],
    baseline: Annotated[str, typer.Argument(metavar="BASELINE", help="The run to compare with.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run.")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the same rows, in pairs.

    Shows the differences with their 95 % intervals.
    """
    ids = [path_segment(name) for name in (eval_id, run, baseline)]
    with connect(state_dir) as client:
        found = client.get("/evals/{}/runs/{}/comparison/{}".format(*ids))
    if as_json:
        write_json(found)
        return
    means = [*([found["pass_rate"]] if found["pass_rate"] else []), *found["criteria"]]
    columns = ("measure", "baseline", "run", "difference", "95 % interval", "rows")
    write_table(columns, [_cells(each) for each in means], empty="No row has a result in both runs.")
    note(verdict(found))


def verdict(found: Json) -> str:
    """Return the comparison in one sentence."""
    rate = found["pass_rate"]
    if rate is None:
        return "No row has a result in both runs."
    gained, lost = plural(found["gained"], "row"), found["lost"]
    changed = f"{gained} gained, {lost:,} lost"
    if rate["low"] <= 0 <= rate["high"]:
        return f"{plural(rate['rows'], 'row')} cannot tell which run is better ({changed})."
    return f"The run is {'better' if rate['low'] > 0 else 'worse'} than the baseline ({changed})."


def _cells(means: Json) -> tuple[str, ...]:
    is_share = means["name"] == "pass_rate"
    show = "{:.1%}".format if is_share else number
    signed = "{:+.1%}".format if is_share else "{:+.4g}".format
    interval = f"{signed(means['low'])} to {signed(means['high'])}"
    values = (show(means["baseline"]), show(means["run"]), signed(means["difference"]), interval)
    return (means["name"], *values, str(means["rows"]))
