"""The dashboard and the API reference behind a proxy that strips a path prefix; no setting is needed."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect

from app.local.stack import Stack
from tests.dashboard.test_dashboard import make_job, upload
from tests.reverse_proxy import reverse_proxy


@pytest.fixture
def address(root: str) -> Iterator[str]:
    with reverse_proxy(root, "/team/tuning", strip=True) as address:
        yield address


def test_dashboard_below_a_prefix(page: Page, address: str, stack: Stack, client: OpenAI, tmp_path: Path) -> None:
    job = make_job(client, upload(client, tmp_path / "rows.jsonl", 16), "prefixed", max_steps=2)
    headers = {"authorization": f"Bearer {stack.api_key}"}
    link = httpx.post(f"{address}/v1/dashboard/links", headers=headers).raise_for_status().json()
    page.goto(f"{address}/ui/jobs/{job}#code={link['code']}")
    expect(page.get_by_text("Succeeded").first).to_be_visible(timeout=60_000)
    page.get_by_role("link", name="Events").click()
    expect(page.get_by_text("The job has successfully completed")).to_be_visible()
    assert page.url == f"{address}/ui/jobs/{job}/events"
    for name, path in (("Files", "files"), ("Models", "models"), ("Workers", "workers"), ("Jobs", "")):
        pages = page.get_by_role("navigation", name="Pages")
        if name == "Workers":
            pages.get_by_role("button", name="More").click()
        pages.get_by_role("link", name=name).click()
        expect(page).to_have_url(re.compile(rf"^{re.escape(address)}/ui/{path}(\?.*)?$"))
        # The menu is closed again, so its links are hidden.
        current = page.get_by_role("link", name=name, exact=True, include_hidden=True).first
        expect(current).to_have_attribute("aria-current", "page")
    page.keyboard.press("n")
    expect(page).to_have_url(f"{address}/ui/new")
    page.reload()
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    page.goto(f"{address}/ui/jobs/{job}/config")
    page.get_by_role("group", name="Format").get_by_role("button", name="curl").click()
    expect(page.get_by_text(f"curl {address}/v1/fine_tuning/jobs")).to_be_visible()


def test_api_reference_below_a_prefix(page: Page, address: str) -> None:
    page.goto(f"{address}/docs/")
    page.get_by_role("link", name="API reference").click()
    expect(page).to_have_url(f"{address}/docs/api/")
    page.get_by_text("/healthz").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".request-url").first).to_contain_text(f"{address}/healthz")
    expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
