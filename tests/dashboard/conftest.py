"""A real browser and a running installation. Errors and warnings in the browser fail the test.

`GROUPTUNE_TEST_BROWSER` names the Chromium to use. By default it is searched on PATH; without one, these tests are
skipped. `GROUPTUNE_SCREENSHOTS` names a directory for screenshots of the pages.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from openai import OpenAI
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app.api.static_pages import DIST
from app.local.stack import Stack
from tests.api.jobs import gft
from tests.processes import descendants
from tests.tiny_model import write_rows
from tests.waiting import eventually

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MS: Final = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    named = os.environ.get("GROUPTUNE_TEST_BROWSER")
    executable = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        assert named is None, f"{named} is not on PATH"
        pytest.skip("Chromium is not on PATH: apt install chromium")
    assert (DIST / "index.html").exists(), "the dashboard is not built: run make web"
    # Chromium's sandbox does not work for root, which runs the tests in containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=TIMEOUT_MS)  # a busy machine may be slow
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def root(stack: Stack) -> str:
    """Base URL of the installation."""
    return stack.base_url.removesuffix("/v1")


@pytest.fixture
def client(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as client:
        yield client


@pytest.fixture
def sign_in(root: str, stack: Stack) -> Callable[..., None]:
    """Opens a page with a one-time link like those of `grouptune dashboard`."""

    def go(page: Page, path: str = "/ui/", key: str | None = None) -> None:
        headers = {"authorization": f"Bearer {key or stack.api_key}"}
        link = httpx.post(f"{stack.base_url}/dashboard/links", headers=headers).raise_for_status().json()
        page.goto(f"{root}{path}#code={link['code']}")
        page.get_by_role("button", name="Sign out").wait_for()
        assert "code=" not in page.url

    return go


@pytest.fixture
def no_job_starts(stack: Stack) -> Iterator[None]:
    """Suspends the training worker, so that no job can end before it is cancelled."""
    workers = descendants("train@%h")
    assert workers
    for worker in workers:
        worker.suspend()
    yield
    for worker in workers:
        worker.resume()


@dataclass(frozen=True)
class Trained:
    """A job that has succeeded, its model, and the checkpoints of two steps."""

    job: str
    model: str
    early: str
    late: str


@pytest.fixture(scope="session")
def trained(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The model `tiny-sums`: four steps on sums, with eight held-out rows."""
    scratch = tmp_path_factory.mktemp("trained")
    files = [write_rows(scratch / "sums.jsonl", 16), write_rows(scratch / "heldout.jsonl", 8, start=40)]
    method = gft(
        group={"expert": 1, "teacher": 1, "self": 2},
        sampling={"max_tokens": 6},
        hyperparameters={"batch_size": 4, "max_steps": 4, "eval_interval": 2, "checkpoint_interval": 2},
    )
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as client:
        ids = [client.files.create(file=file, purpose="fine-tune").id for file in files]
        eventually(lambda: all(client.files.retrieve(file).status == "processed" for file in ids))
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=ids[0],
            validation_file=ids[1],
            suffix="tiny-sums",
            method=method,  # type: ignore[arg-type]
        )
        eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")
        model = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    return Trained(job.id, model, f"{model}:ckpt-step-2", f"{model}:ckpt-step-4")


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1360, "height": 900}, accept_downloads=True) as context:
        context.set_default_timeout(TIMEOUT_MS)
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab that fails the test on console errors, policy violations and requests to other servers."""
    page = context.new_page()
    complaints: list[Any] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(error))
    page.on("request", lambda request: complaints.append(request.url) if _is_foreign(request.url) else None)
    yield page
    assert complaints == []


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Takes a screenshot of a whole page if a directory for screenshots is set: each takes half a second."""
    directory = os.environ.get("GROUPTUNE_SCREENSHOTS")

    def take(page: Page, name: str) -> None:
        if directory:
            page.evaluate("scrollTo(0, 0)")  # else sticky elements are in the middle
            page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)

    return take
