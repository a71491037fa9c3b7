"""Signing in with links in a real Chromium."""

import httpx
import pytest
from openai import OpenAI
from playwright.sync_api import BrowserContext, Page, expect

from app.local.stack import Stack


def make_link(stack: Stack, root: str, key: str | None = None) -> str:
    """Returns a link to the first page."""
    headers = {"authorization": f"Bearer {key or stack.api_key}"}
    answer = httpx.post(f"{stack.base_url}/dashboard/links", headers=headers, timeout=60).raise_for_status()
    return f"{root}/ui/#code={answer.json()['code']}"


def test_link_in_an_open_page(page: Page, root: str, stack: Stack, client: OpenAI) -> None:
    page.goto(f"{root}/ui/")
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto(make_link(stack, root))
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert page.url == f"{root}/ui/"
    # A link for another key, in a page that is signed in
    body = {"name": "linked reader", "scopes": ["files:read", "jobs:read", "models:read"]}
    key = client.post("/api_keys", body=body, cast_to=object)["key"]  # type: ignore[index]
    page.goto(make_link(stack, root, key))
    expect(page.get_by_title("Your key's project")).to_contain_text("read only")
    assert page.url == f"{root}/ui/"


@pytest.mark.parametrize("is_open", [True, False])
def test_used_link_keeps_the_session(context: BrowserContext, root: str, stack: Stack, is_open: bool) -> None:
    page = context.new_page()  # the refused request is an error in the console, which the fixture `page` refuses
    used = make_link(stack, root)
    page.goto(used)
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    if not is_open:
        page.goto("about:blank")
    page.goto(used)
    expect(page.get_by_role("alert")).to_contain_text("You are still signed in.")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert page.url == f"{root}/ui/"
