"""Charts of a job: those of its method, and what a user can do with them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI
from playwright.sync_api import Locator, Page, expect

from app.local.stack import Stack
from tests.dashboard.conftest import Trained
from tests.tiny_model import write_pairs, write_rows
from tests.waiting import eventually

SignIn = Callable[..., None]


@pytest.fixture(scope="module")
def imitated(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Ids of a supervised and of a dpo job that have succeeded, by method."""
    scratch = tmp_path_factory.mktemp("imitated")
    settings = {"hyperparameters": {"batch_size": 4, "max_steps": 2}}
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as client:
        jobs = {}
        for method, write in (("supervised", write_rows), ("dpo", write_pairs)):
            paths = [write(scratch / f"{method}.jsonl", 8), write(scratch / f"{method}-held-out.jsonl", 4, start=40)]
            training, held_out = (client.files.create(file=path, purpose="fine-tune").id for path in paths)
            whole: Any = {"type": method, method: settings}
            job = client.fine_tuning.jobs.create(
                model="tiny", training_file=training, validation_file=held_out, method=whole
            )
            jobs[method] = job.id
        eventually(lambda: all(client.fine_tuning.jobs.retrieve(job).status == "succeeded" for job in jobs.values()))
    return jobs


def titles(page: Page) -> list[str]:
    """Return the titles of the visible charts without units."""
    expect(page.locator("figure.chart").first).to_be_visible()
    return [text.split("\n")[0] for text in page.locator("figure.chart h3").all_inner_texts()]


def chart(page: Page, title: str) -> Locator:
    return page.locator("figure.chart").filter(has=page.get_by_role("heading", name=re.compile(f"^{title}")))


def test_charts_of_each_method(page: Page, sign_in: SignIn, root: str, imitated: dict[str, str]) -> None:
    sign_in(page, f"/ui/jobs/{imitated['supervised']}")
    shown = titles(page)
    assert [title.removesuffix(" nats") for title in shown[:2]] == ["Loss", "Held-out loss"]
    page.get_by_role("heading", name="Other metrics").click()
    page.get_by_role("heading", name="Speed").click()
    expect(page.get_by_role("heading", name="Time per step")).to_be_visible()
    text = page.locator("main").inner_text().lower()
    for word in ("advantage", "rectified", "reward", "rollout"):
        assert word not in text
    page.goto(f"{root}/ui/jobs/{imitated['dpo']}")
    assert titles(page)[0] == "Reward of preferred and non-preferred answers"


def test_chart_choices_stay_in_the_browser(page: Page, sign_in: SignIn, trained: Trained) -> None:
    sign_in(page, f"/ui/jobs/{trained.job}")
    assert titles(page)[0] == "Reward by source"
    norm = chart(page, "Gradient norm")
    norm.get_by_role("button", name="Log scale").click()
    expect(norm.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")
    norm.get_by_role("button", name="Pin").click()
    pinned = page.get_by_role("region", name="Pinned charts")
    expect(pinned.get_by_role("button", name="Unpin")).to_be_focused()
    page.get_by_role("heading", name="Groups", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile("^Advantage by source"))).to_have_count(0)
    page.reload()
    assert titles(page)[0] == "Gradient norm"
    expect(page.get_by_role("heading", name=re.compile("^Gradient norm"))).to_have_count(1)
    expect(norm.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("heading", name=re.compile("^Advantage by source"))).to_have_count(0)
    pinned.get_by_role("button", name="Unpin").click()
    expect(pinned).to_have_count(0)
    assert titles(page)[0] == "Reward by source"


def drag(page: Page, title: str, right: float, down: float) -> None:
    """Drag across a chart from its upper left, by shares of its width and height."""
    area = chart(page, title).locator(".u-over")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    left, top = box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + box["width"] * right, top + box["height"] * down, steps=4)
    page.mouse.up()


def test_drag_zooms_steps_and_values(page: Page, sign_in: SignIn, trained: Trained) -> None:
    sign_in(page, f"/ui/jobs/{trained.job}")
    titles(page)
    last = page.get_by_label("To step").input_value()
    all_values = page.get_by_role("button", name="Show all values")
    drag(page, "Reward by source", 0.5, 0.02)
    expect(page.get_by_role("button", name="Show all steps")).to_be_visible()
    assert page.get_by_label("To step").input_value() != last
    expect(all_values).to_have_count(0)
    drag(page, "Gradient norm", 0.01, 0.5)
    expect(all_values).to_have_count(1)  # other charts keep their values
    expect(chart(page, "Gradient norm").get_by_role("button", name="Show all values")).to_be_visible()
    chart(page, "Gradient norm").locator(".u-over").dblclick()
    expect(all_values).to_have_count(0)
    expect(page.get_by_role("button", name="Show all steps")).to_have_count(0)
    expect(page.get_by_label("To step")).to_have_value(last)


def test_samples_and_time_taken(page: Page, sign_in: SignIn, client: OpenAI, trained: Trained) -> None:
    sign_in(page, f"/ui/jobs/{trained.job}")
    table = page.get_by_role("region", name="Answers before and after")
    expect(table.get_by_role("row")).to_have_count(1 + 4)
    page.get_by_role("button", name="Show 8 samples in full").click()
    expect(table.get_by_role("row")).to_have_count(1 + 8)
    job = client.get(f"/fine_tuning/jobs/{trained.job}", cast_to=object)
    seconds = round(job["progress"]["run_seconds"])  # type: ignore[index]
    minutes = f"{seconds // 60} min {seconds % 60:02} s" if seconds >= 60 else f"{seconds} s"
    expect(page.locator(".facts")).to_contain_text(f"took {minutes}")
