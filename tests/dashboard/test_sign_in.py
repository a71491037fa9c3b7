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


def test_other_tabs_follow_a_new_session(context: BrowserContext, root: str, stack: Stack, client: OpenAI) -> None:
    """A tab that shows one project must not send requests of another one."""
    old, new = context.new_page(), context.new_page()
    old.goto(make_link(stack, root))
    expect(old.get_by_title("Your key's project")).to_have_text("default")
    project = client.post("/projects", body={"name": "second-tab"}, cast_to=object)["id"]  # type: ignore[index]
    body = {"name": "second tab", "project_id": project, "scopes": ["jobs:read", "jobs:write", "models:read"]}
    key = client.post("/api_keys", body=body, cast_to=object)["key"]  # type: ignore[index]
    new.goto(make_link(stack, root, key))
    for page in (new, old):
        expect(page.get_by_title("Your key's project")).to_have_text("second-tab")


def test_revoked_key_shows_why(context: BrowserContext, root: str, stack: Stack, client: OpenAI) -> None:
    page = context.new_page()  # the refused request is an error in the console
    created = client.post("/api_keys", body={"name": "short", "scopes": ["jobs:read", "models:read"]}, cast_to=object)
    page.goto(make_link(stack, root, created["key"]))  # type: ignore[index]
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    client.delete(f"/api_keys/{created['id']}", cast_to=object)  # type: ignore[index]
    # A request for the list of jobs may be refused first: then the link is gone.
    page.evaluate("document.querySelector('a[href$=\"/ui/models\"]')?.click()")
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("was revoked")
