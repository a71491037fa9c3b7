"""The dashboard draws the metric values of a step's event and must skip the event's other fields."""

import re
from pathlib import Path

from app.core.jobs.events import metrics_event
from app.core.spec.reports import Metrics

SOURCE = Path(__file__).parents[2] / "app/dashboard/src/metricTable.ts"


def test_event_fields_match_server() -> None:
    """`EVENT_FIELDS` lists exactly the fields of an event that has no metric values."""
    match = re.search(r"EVENT_FIELDS.*?new Set\(\[(.*?)\]\)", SOURCE.read_text(), re.DOTALL)
    assert match is not None
    event = metrics_event(Metrics(step=1, values={}), 1, "ftevent-1")
    assert set(re.findall(r'"(\w+)"', match[1])) == set(event.data or {})
