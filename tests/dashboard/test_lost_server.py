"""Pages of a server that stops responding and comes back."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, expect

from app.local.stack import Stack
from tests.dashboard.conftest import Trained
from tests.dashboard.test_sign_in import make_link
from tests.reverse_proxy import reverse_proxy

PREFIX = "/lab"


@pytest.mark.parametrize("at", ["list", "job"])
def test_pages_recover_when_server_returns(
    context: BrowserContext, root: str, stack: Stack, trained: Trained, at: str
) -> None:
    page = context.new_page()  # refused connections are errors in the console, which the fixture `page` refuses
    lost = page.locator(".lost")
    with reverse_proxy(root, PREFIX, strip=True) as address:
        page.goto(make_link(stack, address))
        expect(page.get_by_role("link", name="tiny-sums").first).to_be_visible()
        expect(lost).to_have_count(0)
    if at == "job":
        page.get_by_role("link", name="tiny-sums").first.click()
    expect(lost).to_contain_text("The server does not respond")
    with reverse_proxy(root, PREFIX, strip=True, port=urlsplit(address).port or 0):
        expect(lost).to_have_count(0)
        if at == "job":
            expect(page.get_by_role("heading", name="tiny-sums")).to_be_visible()
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Files").click()
        expect(page).to_have_url(re.compile(f"{PREFIX}/ui/files$"))
        expect(page.get_by_role("link", name="sums.jsonl").first).to_be_visible()
        page.goto("about:blank")  # a page with an open stream would delay the proxy's end
