"""Requests and DOM stay small with 10,000 jobs and a run of 50,000 steps."""

import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Response, expect

from app.core.db import Database
from app.local.stack import Stack
from tests.api.server import new_project
from tests.dashboard.crowd import JOBS, RUNS, STEPS, Crowd, crowd
from tests.dashboard.test_dashboard import SignIn

MAX_POINTS: Final = 1000
MAX_ROWS: Final = 60
"""Most rows in the DOM for a list of any length: the visible ones and some around them."""

PIECE: Final = 17
"""Points per stroke of a wide line: the cost of a stroke grows faster than its length."""
WATCH: Final = """() => {
    const drawn = new Map(), pen = CanvasRenderingContext2D.prototype
    const { clearRect, beginPath, lineTo, stroke } = pen
    let points = 0
    window.strokes = { drawn, longest: 0 }
    pen.clearRect = function (...all) {
        drawn.set(this.canvas, 1 + (drawn.get(this.canvas) ?? 0))
        clearRect.apply(this, all)
    }
    pen.beginPath = function () { points = 0; beginPath.call(this) }
    pen.lineTo = function (...all) { points += 1; lineTo.apply(this, all) }
    pen.stroke = function (...all) {
        if (this.lineWidth > 1) strokes.longest = Math.max(strokes.longest, points)
        stroke.apply(this, all)
    }
}"""
DRAG: Final = """async slider => {
    for (let frame = 0; frame < 10; frame += 1) {
        for (let move = 1; move <= 5; move += 1) {
            slider.value = 0.5 + frame / 25 + move / 500
            slider.dispatchEvent(new Event('input', { bubbles: true }))
            await new Promise(done => queueMicrotask(done))
        }
        await new Promise(requestAnimationFrame)
    }
    await new Promise(requestAnimationFrame)
}"""
"""Moves the slider in ten frames, five times each."""
CATCHES_UP: Final = """async () => {
    const last = [...document.querySelectorAll('canvas')].at(-1)
    while (!strokes.drawn.has(last)) await new Promise(requestAnimationFrame)
}"""


class MetricResponses:
    """Records the responses to a page's requests for metrics."""

    def __init__(self, page: Page) -> None:
        self.answers: list[Response] = []
        page.on("response", lambda answer: self.answers.append(answer) if "/metrics?" in answer.url else None)

    def steps(self) -> list[int]:
        """Returns the number of steps in each response."""
        return [len(json.loads(answer.body())["steps"]) for answer in self.answers]

    def query(self, name: str) -> set[str]:
        """Returns all values of a query parameter."""
        return {parse_qs(urlsplit(answer.url).query).get(name, [""])[0] for answer in self.answers}


@pytest.fixture(scope="module")
def crowded(stack: Stack) -> Iterator[tuple[str, Crowd]]:
    """The key of a project with many jobs and steps, and the ids of its runs."""
    database = Database(stack.database_url)
    project_id, key = new_project(database, "crowded")
    with database.transaction() as session:
        made = crowd(session, project_id)
    yield key, made
    database.dispose()


def test_list_of_10000_jobs(page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]) -> None:
    key, _ = crowded
    sign_in(page, "/ui/", key)
    rows = page.locator(".cells.job")
    table = page.get_by_role("table", name="Jobs")
    expect(rows.first).to_contain_text("run-0")
    for loaded in range(200, 1001, 100):
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(table).to_have_attribute("aria-rowcount", re.compile(rf"^({loaded + 1}|{loaded + 101})$"))
        assert rows.count() <= MAX_ROWS
    page.keyboard.press("/")
    page.keyboard.type(f"run-{JOBS - 1}")
    expect(rows).to_have_count(1)
    expect(page.get_by_role("status").filter(has_text="1 job")).to_be_visible()
    page.get_by_role("link", name=f"run-{JOBS - 1}").click()
    expect(page.get_by_role("heading", name=f"run-{JOBS - 1}")).to_be_visible()


def test_zoom_into_50000_steps(page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]) -> None:
    key, made = crowded
    metrics = MetricResponses(page)
    sign_in(page, f"/ui/jobs/{made.runs[0]}", key)
    spike = page.locator("figure.chart", has_text="Gradient norm")
    spike.scroll_into_view_if_needed()
    chart = page.get_by_role("img", name=re.compile("^Gradient norm"))
    expect(chart).to_have_attribute("aria-label", re.compile(r"grad norm \d"))
    expect(page.get_by_label("To step")).to_have_value(str(STEPS))
    page.wait_for_load_state("networkidle")
    assert max(metrics.steps()) <= MAX_POINTS
    of_spike = [answer for answer in metrics.answers if "names=grad_norm" in answer.url]
    assert max(json.loads(of_spike[0].body())["series"]["grad_norm"]) == 99, "sampling keeps extremes"

    metrics.answers.clear()
    page.get_by_label("To step").fill("31500")
    page.get_by_label("To step").press("Enter")
    page.get_by_label("From step").fill("31200")
    with page.expect_response(lambda answer: "step_from=31200" in answer.url) as whole:
        page.get_by_label("From step").press("Enter")
        spike.scroll_into_view_if_needed()
    assert json.loads(whole.value.body())["steps"] == list(range(31200, 31501))
    page.get_by_role("button", name="Show all steps").click()
    expect(page.get_by_label("To step")).to_have_value(str(STEPS))


def test_compare_eight_long_runs(page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]) -> None:
    key, made = crowded
    metrics = MetricResponses(page)
    sign_in(page, f"/ui/compare?ids={','.join(made.runs)}", key)
    expect(page.get_by_role("heading", name=f"Compare {RUNS} jobs")).to_be_visible()
    legend = page.locator("figure.chart").first.locator(".legend b")
    expect(legend).to_have_count(RUNS)
    expect(legend.last).to_have_text(re.compile(r"\d"))
    page.wait_for_load_state("networkidle")
    assert max(metrics.steps()) <= MAX_POINTS
    assert metrics.query("points") == {str(MAX_POINTS), str(2 * MAX_POINTS // RUNS)}
    of_loss = [json.loads(answer.body()) for answer in metrics.answers if "names=loss" in answer.url]
    assert {series["job_id"] for series in of_loss} == set(made.runs)
    chart = page.locator("figure.chart").first.locator(".u-over")
    chart.hover()
    expect(page.locator("figure.chart .at").nth(1)).to_have_text(re.compile(r"step [\d,]+"))


def test_visible_charts_draw_once_a_frame(page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]) -> None:
    key, made = crowded
    page.set_viewport_size({"width": 600, "height": 500})
    sign_in(page, f"/ui/compare?ids={','.join(made.runs)}", key)
    charts = page.locator("figure.chart")
    page.wait_for_load_state("networkidle")
    charts.first.scroll_into_view_if_needed()
    expect(charts.first.locator(".legend b").last).to_have_text(re.compile(r"\d"))
    charts.last.scroll_into_view_if_needed()
    expect(charts.last.locator(".legend b").last).to_have_text(re.compile(r"\d"))
    charts.first.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    page.evaluate(WATCH)
    page.get_by_label("Smoothing").evaluate(DRAG)
    draws = page.evaluate("[...document.querySelectorAll('canvas')].map(canvas => strokes.drawn.get(canvas) ?? 0)")
    assert 1 <= draws[0] <= 12
    assert draws[-1] <= 1  # once, if the machine was stalled
    charts.last.scroll_into_view_if_needed()
    page.evaluate(CATCHES_UP)
    assert page.evaluate("strokes.longest") == PIECE
