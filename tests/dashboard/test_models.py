"""The page of a model: lineage, results, aliases, exports and code, in a real Chromium."""

import io
import re
import tarfile
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote

import pytest
from openai import NotFoundError, OpenAI
from playwright.sync_api import BrowserContext, Page, expect
from sqlalchemy import delete, func, insert

from app.core.db import Database
from app.core.models.tables import ModelPull
from app.local.stack import Stack
from tests.dashboard.conftest import Trained
from tests.dashboard.test_pages import violations

SignIn = Callable[..., None]
Picture = Callable[[Page, str], None]


def model_path(model: str) -> str:
    return f"/ui/models/{quote(model, safe='')}"


def test_model_page(page: Page, sign_in: SignIn, picture: Picture, client: OpenAI, trained: Trained) -> None:
    sign_in(page, "/ui/models")
    page.get_by_role("link", name="tiny-sums", exact=True).click()
    lineage = page.get_by_role("region", name="Lineage")
    expect(lineage.get_by_role("listitem")).to_have_count(3)
    digest = client.get(f"/models/{trained.model}", cast_to=object)["sha256"]  # type: ignore[index]
    expect(lineage.get_by_title(digest)).to_be_visible()
    expect(lineage.get_by_role("link", name="heldout.jsonl")).to_be_visible()
    expect(page.get_by_role("region", name="Evaluation")).to_contain_text("held-out accuracy")
    page.get_by_role("button", name="vLLM").click()
    expect(page.get_by_role("region", name="Use it")).to_contain_text("--max-lora-rank 16")

    page.get_by_label("Alias", exact=True).fill("prod")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".pill", has_text="prod")).to_be_visible()
    page.goto(page.url.split("/ui/")[0] + model_path(trained.early))
    expect(page.locator(".facts")).to_contain_text("Checkpoint of step 2")
    expect(page.locator(".tile", has_text="held-out accuracy")).to_be_visible()
    page.get_by_label("Alias", exact=True).fill("prod")
    page.get_by_role("button", name="Move here").click()
    page.get_by_role("button", name="Move alias").click()
    expect(page.locator(".pill", has_text="prod")).to_be_visible()
    assert client.models.retrieve("prod").id == trained.early

    expect(page.get_by_role("button", name="Delete", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Remove prod").click()
    page.get_by_role("button", name="Remove alias").click()
    expect(page.locator(".pill", has_text="prod")).to_have_count(0)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete model").click()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    with pytest.raises(NotFoundError):
        client.models.retrieve(trained.early)


def test_errors_of_aliases(context: BrowserContext, sign_in: SignIn, trained: Trained) -> None:
    page = context.new_page()  # not `page`: the browser reports the refused request on the console
    sign_in(page, model_path(trained.model))
    alias = page.get_by_label("Alias", exact=True)
    alias.fill("for/prod")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(alias).to_have_accessible_description(re.compile("letters, digits"))


def test_model_is_exported(page: Page, sign_in: SignIn, picture: Picture, trained: Trained) -> None:
    sign_in(page, model_path(trained.model))
    exports = page.get_by_role("region", name="Exports").first
    exports.get_by_role("button", name="New export").click()
    page.get_by_role("radio", name=re.compile("^Merged")).check()
    page.get_by_role("button", name="Create export").click()
    row = exports.get_by_role("row", name=re.compile("Merged"))
    expect(row).to_contain_text("✓ Checked")
    row.get_by_text(re.compile("^[0-9]+ notes?$")).click()
    expect(row.get_by_role("listitem").filter(has_text="14 layers were merged in float32")).to_be_visible()
    assert violations(page) == []
    picture(page, "model-exported")
    with page.expect_download() as download:
        row.get_by_role("link", name="Download").click()
    with tarfile.open(fileobj=io.BytesIO(download.value.path().read_bytes())) as archive:
        assert "manifest.json" in archive.getnames()
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete export").click()
    expect(row).to_have_count(0)


def test_base_model_is_downloaded(page: Page, sign_in: SignIn, picture: Picture, stack: Stack) -> None:
    sign_in(page, "/ui/models")
    table = page.get_by_role("region", name="Base models")
    row = table.get_by_role("row").filter(has_text="qwen3-0.6b")
    expect(row).to_contain_text("1.2 GB")
    expect(row).to_contain_text("apache-2.0")
    expect(row.get_by_role("button", name="Download qwen3-0.6b")).to_be_visible()
    page.get_by_label("Another model of the Hugging Face hub").fill("no-owner/no-such-model")
    page.get_by_role("button", name="Download model").click()
    failed = table.get_by_role("row").filter(has_text="no-such-model")
    expect(failed).to_contain_text("Could not fetch no-such-model")  # by a worker, which the hub refuses

    database = Database(stack.database_url)
    with database.transaction() as session:
        pull = {"name": "qwen3-0.6b", "hub_id": "Qwen/Qwen3-0.6B", "status": "running", "stage": "Downloading"}
        times = {"started_at": func.now(), "claimed_until": func.now() + timedelta(hours=1)}
        session.execute(insert(ModelPull).values(**pull, **times, done_bytes=300_000_000, total_bytes=1_200_000_000))
    page.reload()
    expect(row).to_contain_text("300 MB of 1.2 GB")
    picture(page, "base-models")
    assert violations(page) == []
    page.goto(page.url.replace("/models", "/new"))
    page.get_by_label("Base model").select_option("qwen3-0.6b")
    expect(page.get_by_text("licence apache-2.0")).to_be_visible()
    page.get_by_role("button", name="Cancel the download of qwen3-0.6b").click()
    expect(page.get_by_role("button", name="Download qwen3-0.6b")).to_be_visible()
    with database.transaction() as session:
        session.execute(delete(ModelPull))
    database.dispose()
