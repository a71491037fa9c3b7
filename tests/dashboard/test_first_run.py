"""The first minutes of a new project in a real Chromium."""

import re
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect

from app.core.db import Database
from app.core.settings import Settings
from app.local.stack import Stack
from tests.api.jobs import broken_at_17
from tests.api.server import new_project, serve
from tests.dashboard.test_dashboard import Picture, SignIn
from tests.tiny_model import write_rows

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def new_key(stack: Stack, request: pytest.FixtureRequest) -> str:
    """The key of a project without jobs and files."""
    database = Database(stack.database_url)
    try:
        return new_project(database, request.node.name)[1]
    finally:
        database.dispose()


@pytest.mark.usefixtures("no_job_starts")
def test_sample_job_in_one_click(page: Page, sign_in: SignIn, picture: Picture, stack: Stack, new_key: str) -> None:
    sign_in(page, "/ui/", new_key)
    expect(page.get_by_role("button", name="Try with sample data")).to_be_visible()
    links = [link.get_attribute("href") or "" for link in page.locator("main a[href^='/docs/']").all()]
    assert "/docs/first-job.html" in links
    pages = [f"{link.removeprefix('/').removesuffix('.html')}.md" for link in links if link != "/docs/"]
    assert [name for name in pages if not (ROOT / name).exists()] == []
    picture(page, "welcome")
    with OpenAI(base_url=stack.base_url, api_key=new_key) as client:
        for _ in range(2):
            page.get_by_role("button", name="Try with sample data").click()
            expect(page).to_have_url(re.compile("/ui/jobs/ftjob-"))
            expect(page.get_by_role("heading", name="sample")).to_be_visible()
            job = client.fine_tuning.jobs.retrieve(page.url.rpartition("/")[2])
            client.fine_tuning.jobs.cancel(job.id)
            expect(page.locator(".facts .pill").first).to_contain_text("Cancelled", timeout=120_000)
            client.delete(f"/fine_tuning/jobs/{job.id}", cast_to=object)
            page.goto(stack.base_url.removesuffix("v1") + "ui/")
        files = {client.files.content(file.id).read() for file in client.files.list(purpose="fine-tune")}
        # The second job uses the files of the first one.
        assert files == {path.read_bytes() for path in EXAMPLES.glob("arithmetic.*.jsonl")}
        assert len(client.files.list(purpose="fine-tune").data) == 2


def test_server_without_base_models(page: Page, stack: Stack, new_key: str, picture: Picture, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    own = {"DATABASE_URL": stack.database_url, "state_dir": tmp_path / "state", "models_dir": models}
    with serve(Settings.model_validate(own)) as root:
        headers = {"authorization": f"Bearer {new_key}"}
        link = httpx.post(f"{root}/v1/dashboard/links", headers=headers, timeout=60).raise_for_status().json()
        page.goto(f"{root}/ui/#code={link['code']}")
        expect(page.get_by_text("grouptune models pull smollm2-135m-instruct")).to_be_visible()
        expect(page.get_by_role("button", name="Try with sample data")).to_have_count(0)
        picture(page, "welcome-no-model")
        pulled = models / "smollm2-135m-instruct"
        pulled.mkdir()
        (pulled / "config.json").write_text("{}")
        page.get_by_role("button", name="Check again").click()
        expect(page.get_by_role("button", name="Try with sample data")).to_be_visible()
        page.goto("about:blank")  # a page with an open stream would delay the server's end


def test_upload_in_the_form(page: Page, sign_in: SignIn, new_key: str, tmp_path: Path) -> None:
    sign_in(page, "/ui/new", new_key)
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(broken_at_17())
    training = page.get_by_label("Training file", exact=True)
    page.get_by_label("Upload a file for training").set_input_files(broken)
    expect(page.get_by_text("broken.jsonl has errors.")).to_be_visible()
    expect(training).to_have_value("")
    page.get_by_label("Upload a file for training").set_input_files(write_rows(tmp_path / "train.jsonl", 16))
    expect(training.locator("option:checked")).to_contain_text("train.jsonl")
    expect(page.get_by_text("broken.jsonl has errors.")).to_have_count(0)
    page.get_by_label("Upload a file for validation").set_input_files(write_rows(tmp_path / "held.jsonl", 8, start=40))
    held_out = page.get_by_label("Held-out file", exact=True)
    expect(held_out.locator("option:checked")).to_contain_text("held.jsonl")
    expect(training.locator("option:checked")).to_contain_text("train.jsonl")
    expect(page.get_by_role("button", name="Create job")).to_be_enabled()


def test_copies_of_a_file_are_marked(page: Page, sign_in: SignIn, stack: Stack, new_key: str, tmp_path: Path) -> None:
    """Copies that a client of the API uploads; the form of a new job offers their content once."""
    rows = write_rows(tmp_path / "train.jsonl", 8)
    with OpenAI(base_url=stack.base_url, api_key=new_key) as client:
        for name in ("train.jsonl", "train.jsonl", "again.jsonl"):
            client.files.create(file=(name, rows.read_bytes()), purpose="fine-tune")
    sign_in(page, "/ui/files", new_key)
    names = page.locator(".cells.file > div:first-child")
    expect(names).to_have_text(
        ["again.jsonl same content as train.jsonl", "train.jsonl same content as an earlier upload", "train.jsonl"]
    )
    expect(page.get_by_text("Ready")).to_have_count(3)
    page.goto(page.url.removesuffix("files") + "new")
    expect(page.get_by_label("Training file", exact=True).locator("option")).to_have_count(1)
