"""Ten thousand jobs, fifty thousand steps: what a page asks for and what it holds stay small."""

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
"""In the page at once, whatever the list's length: what is in sight and some spare ones."""

PIECE: Final = 17
"""Points of a wide line that are stroked at once: what longer ones cost grows faster than they do."""
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
"""Ten frames with five moves each."""
CATCHES_UP: Final = """async () => {
    const last = [...document.querySelectorAll('canvas')].at(-1)
    while (!strokes.drawn.has(last)) await new Promise(requestAnimationFrame)
}"""


class Asked:
    """The answers about metrics that a page gets."""

    def __init__(self, page: Page) -> None:
        self.answers: list[Response] = []
        page.on("response", lambda answer: self.answers.append(answer) if "/metrics?" in answer.url else None)

    def steps(self) -> list[int]:
        """How many steps each of them has."""
        return [len(json.loads(answer.body())["steps"]) for answer in self.answers]

    def query(self, name: str) -> set[str]:
        """All values that a parameter had."""
        return {parse_qs(urlsplit(answer.url).query).get(name, [""])[0] for answer in self.answers}


@pytest.fixture(scope="module")
def crowded(stack: Stack) -> Iterator[tuple[str, Crowd]]:
    """The key of a project with very much in it, and what that is."""
    database = Database(stack.database_url)
    project_id, key = new_project(database, "crowded")
    with database.transaction() as session:
        made = crowd(session, project_id)
    yield key, made
    database.dispose()


def test_ten_thousand_jobs_are_a_list_like_any_other(page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]) -> None:
    key, _ = crowded
    sign_in(page, "/ui/", key)
    rows = page.locator(".cells.job")
    table = page.get_by_role("table", name="Jobs")
    expect(rows.first).to_contain_text("run-0")
    for known in range(200, 1001, 100):
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(table).to_have_attribute("aria-rowcount", re.compile(rf"^({known + 1}|{known + 101})$"))
        assert rows.count() <= MAX_ROWS
    page.keyboard.press("/")
    page.keyboard.type(f"run-{JOBS - 1}")
    expect(rows).to_have_count(1)
    expect(page.get_by_role("status").filter(has_text="1 job")).to_be_visible()
    page.get_by_role("link", name=f"run-{JOBS - 1}").click()
    expect(page.get_by_role("heading", name=f"run-{JOBS - 1}")).to_be_visible()


def test_fifty_thousand_steps_are_thinned_out_and_looked_into(
    page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]
) -> None:
    key, made = crowded
    asked = Asked(page)
    sign_in(page, f"/ui/jobs/{made.runs[0]}", key)
    spike = page.locator("figure.chart", has_text="Gradient norm")
    spike.scroll_into_view_if_needed()
    chart = page.get_by_role("img", name=re.compile("^Gradient norm"))
    expect(chart).to_have_attribute("aria-label", re.compile(r"grad norm \d"))
    expect(page.get_by_label("To step")).to_have_value(str(STEPS))
    page.wait_for_load_state("networkidle")
    assert max(asked.steps()) <= MAX_POINTS
    of_spike = [answer for answer in asked.answers if "names=grad_norm" in answer.url]
    assert max(json.loads(of_spike[0].body())["series"]["grad_norm"]) == 99, "an extreme is never lost"

    asked.answers.clear()
    page.get_by_label("To step").fill("31500")
    page.get_by_label("To step").press("Enter")
    page.get_by_label("From step").fill("31200")
    page.get_by_label("From step").press("Enter")
    with page.expect_response(lambda answer: "step_from=31200" in answer.url) as whole:
        spike.scroll_into_view_if_needed()
    assert json.loads(whole.value.body())["steps"] == list(range(31200, 31501))
    page.get_by_role("button", name="Show the whole run").click()
    expect(page.get_by_label("To step")).to_have_value(str(STEPS))


def test_eight_long_runs_lie_over_each_other(page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]) -> None:
    key, made = crowded
    asked = Asked(page)
    sign_in(page, f"/ui/compare?ids={','.join(made.runs)}", key)
    expect(page.get_by_role("heading", name=f"Compare {RUNS} jobs")).to_be_visible()
    legend = page.locator("figure.chart").first.locator(".legend b")
    expect(legend).to_have_count(RUNS)
    expect(legend.last).to_have_text(re.compile(r"\d"))
    page.wait_for_load_state("networkidle")
    assert max(asked.steps()) <= MAX_POINTS
    assert asked.query("points") == {str(MAX_POINTS), str(2 * MAX_POINTS // RUNS)}
    of_reward = [json.loads(answer.body()) for answer in asked.answers if "names=reward" in answer.url]
    assert {one["job_id"] for one in of_reward} == set(made.runs)
    chart = page.locator("figure.chart").first.locator(".u-over")
    chart.hover()
    expect(page.locator("figure.chart .at").nth(1)).to_have_text(re.compile(r"step [\d,]+"))


def test_only_charts_in_sight_are_drawn_and_each_once_a_frame(
    page: Page, sign_in: SignIn, crowded: tuple[str, Crowd]
) -> None:
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
    draws = page.evaluate("[...document.querySelectorAll('canvas')].map(one => strokes.drawn.get(one) ?? 0)")
    assert 1 <= draws[0] <= 12
    assert draws[-1] <= 1  # once, if this machine has stood still meanwhile
    charts.last.scroll_into_view_if_needed()
    page.evaluate(CATCHES_UP)
    assert page.evaluate("strokes.longest") == PIECE
