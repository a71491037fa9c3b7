"""`make chaos`: tests that kill real components for a given time and write their figures to docs/reliability.md."""

import json
from collections.abc import Iterator

import pytest

from tests.api.conftest import api_settings, api_url, server
from tests.chaos import report
from tests.chaos.clock import MINUTES, Clock
from tests.worker.conftest import bench, plant

__all__ = ["api_settings", "api_url", "bench", "plant", "server"]

_RESULTS: dict[int, Clock] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith("tests/chaos/"):
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.timeout(600 + 60 * MINUTES))


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Iterator[Clock]:
    """Return the clock of the row in the test's name; its figures are stored if the test passes."""
    clock = Clock(int(request.node.name.removeprefix("test_row_").partition("_")[0]))
    yield clock
    clock.stop()
    if request.node.stash.get(_PASSED, False):
        _RESULTS[clock.row] = clock


_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    if call.when == "call":
        item.stash[_PASSED] = outcome.passed  # type: ignore[attr-defined]
    return outcome


def pytest_sessionfinish() -> None:
    """Write the figures of this run. Rows that failed or did not run keep their previous figures."""
    if not _RESULTS:
        return
    previous = json.loads(report.RESULTS.read_text(encoding="utf-8")) if report.RESULTS.exists() else {"rows": {}}
    machine = report.machine()
    rows = previous["rows"] if previous.get("machine") == machine else {}
    rows |= {str(row): clock.figures for row, clock in _RESULTS.items()}
    results = {"machine": machine, "rows": {row: rows[row] for row in sorted(rows, key=int)}}
    report.RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    report.update()
