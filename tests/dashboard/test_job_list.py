"""The list of jobs is sorted, and its jobs are named, tagged and deleted."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI
from playwright.sync_api import Locator, Page, expect

from tests.api.jobs import gft
from tests.dashboard.conftest import Trained
from tests.tiny_model import write_rows
from tests.waiting import eventually

SignIn = Callable[..., None]
Picture = Callable[[Page, str], None]


@pytest.fixture
def cancelled(client: OpenAI, tmp_path: Path, no_job_starts: None) -> list[str]:
    """Ids of three cancelled jobs: `listed-b`, `listed-c` and `listed-a`."""
    file = client.files.create(file=write_rows(tmp_path / "rows.jsonl", 8), purpose="fine-tune")
    eventually(lambda: client.files.retrieve(file.id).status == "processed")
    ids = []
    for name in "bca":
        method = gft(sampling={"max_tokens": 4})
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=file.id,
            suffix=f"listed-{name}",
            method=method,  # type: ignore[arg-type]
        )
        client.fine_tuning.jobs.cancel(job.id)
        ids.append(job.id)
    eventually(lambda: all(client.fine_tuning.jobs.retrieve(job).status == "cancelled" for job in ids))
    return ids


def lefts(boxes: Locator) -> list[float]:
    return [(box.bounding_box() or {"x": -1})["x"] for box in boxes.all()]


def test_sort_select_and_delete_jobs(
    page: Page, sign_in: SignIn, picture: Picture, client: OpenAI, cancelled: list[str]
) -> None:
    sign_in(page, "/ui/?q=listed-")
    names = page.locator(".cells.job .name a")
    expect(names).to_have_text(["listed-a", "listed-c", "listed-b"])  # the newest first, also within a second
    page.get_by_label("Sort").select_option("By name")
    expect(names).to_have_text(["listed-a", "listed-b", "listed-c"])
    page.get_by_label("Sort").select_option("Oldest first")
    expect(names).to_have_text(["listed-b", "listed-c", "listed-a"])
    page.reload()
    expect(names).to_have_text(["listed-b", "listed-c", "listed-a"])

    # Each header is above its column.
    assert lefts(page.locator(".cells.head > div")) == lefts(page.locator(".cells.job").first.locator("> div"))

    page.get_by_label("Select all listed jobs").check()
    expect(page.get_by_text("3 jobs selected")).to_be_visible()
    page.get_by_label("Select listed-c").uncheck()
    picture(page, "jobs-selected")
    page.get_by_role("button", name="Delete 2 finished jobs").click()
    expect(page.get_by_text("This deletes checkpoints, metrics and groups. It cannot be undone.")).to_be_visible()
    page.get_by_role("button", name="Delete jobs").click()
    expect(names).to_have_text(["listed-c"])
    for job in (cancelled[0], cancelled[2]):
        with pytest.raises(NotFoundError):
            client.fine_tuning.jobs.retrieve(job)

    names.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete job", exact=True).click()
    expect(page).to_have_url(re.compile("/ui/$"))
    with pytest.raises(NotFoundError):
        client.fine_tuning.jobs.retrieve(cancelled[1])


@pytest.mark.usefixtures("cancelled")
def test_rows_keep_no_values_of_other_jobs(page: Page, sign_in: SignIn, trained: Trained) -> None:
    """A cancelled job takes the place of one with a reward when the list is filtered."""
    sign_in(page, "/ui/?q=tiny-sums")
    jobs = page.locator(".cells.job")
    expect(jobs.first.locator(".trend")).to_contain_text("reward")
    page.get_by_label("Search jobs by name").fill("listed-")
    expect(jobs.locator(".name a")).to_have_text(["listed-a", "listed-c", "listed-b"])
    expect(jobs.locator(".trend")).to_have_count(0)


def test_name_and_notes_of_a_finished_job(
    page: Page, sign_in: SignIn, picture: Picture, root: str, client: OpenAI, trained: Trained
) -> None:
    other: object = client.post(f"/fine_tuning/jobs/{trained.job}", cast_to=object, body={"metadata": {"team": "a"}})
    assert other
    sign_in(page, f"/ui/jobs/{trained.job}")
    page.get_by_role("button", name="Edit name and notes").click()
    page.get_by_label("Name", exact=True).fill("Sums, first try")
    page.get_by_label("Tags").fill("keep, baseline")
    page.get_by_label("Note", exact=True).fill("Better than expected.")
    picture(page, "job-notes-form")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Sums, first try")).to_be_visible()
    expect(page.locator(".notes .chip")).to_have_text(["keep", "baseline"])
    expect(page.get_by_text("Better than expected.")).to_be_visible()
    picture(page, "job-notes")
    job = client.fine_tuning.jobs.retrieve(trained.job)
    expected = {"team": "a", "name": "Sums, first try", "tags": "keep, baseline", "note": "Better than expected."}
    assert job.metadata == expected
    page.goto(f"{root}/ui/?q=baseline")
    expect(page.locator(".cells.job .name")).to_have_text("Sums, first trygft · keep · baseline")
    client.post(f"/fine_tuning/jobs/{trained.job}", cast_to=object, body={"metadata": {}})
