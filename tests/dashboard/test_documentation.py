"""The documentation and the API reference in a browser: accessible in both themes, searchable, self-contained."""

import re
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.test_dashboard import SignIn
from tests.dashboard.test_pages import PHONE, violations

PAGES: Final = ("", "first-job.html", "data.html", "errors.html", "adr/")
CREATE: Final = "#operations-Fine-tuning-create_job_v1_fine_tuning_jobs_post"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_are_accessible(page: Page, root: str, theme: Any) -> None:
    page.emulate_media(color_scheme=theme)
    findings: list[Any] = []
    for path in PAGES:
        page.goto(f"{root}/docs/{path}")
        page.locator("h1").wait_for()
        findings += [(path, *violation) for violation in violations(page)]
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    findings += [("overflow", path) for path in PAGES if _overflows(page, f"{root}/docs/{path}")]
    assert not findings, "\n".join(map(str, findings))


def _overflows(page: Page, url: str) -> bool:
    page.goto(url)
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def test_names_in_tables_are_whole_on_phones(page: Page, root: str) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(f"{root}/docs/graders.html")
    names = page.locator("td:first-child code")
    expect(names.filter(has_text="text_similarity").first).to_be_visible()
    assert [name.inner_text() for name in names.all() if name.evaluate("it => it.getClientRects().length") != 1] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_api_reference_is_accessible(page: Page, root: str, theme: Any) -> None:
    page.emulate_media(color_scheme=theme)
    page.goto(f"{root}/docs/api/")
    create = page.locator(CREATE)
    create.locator(".opblock-summary-control").click()
    expect(create).to_contain_text("training_file")
    files = page.locator(".opblock-tag-section", has=page.locator("#operations-tag-Files"))
    expect(files.locator(".opblock-summary-path").first).to_have_attribute("data-path", "/v1/files")
    assert not (found := violations(page)), "\n".join(map(str, found))


def test_search_leads_to_a_page(page: Page, root: str) -> None:
    page.goto(f"{root}/docs/")
    page.get_by_role("button", name="Search").click()
    page.locator("input:focus").wait_for()
    page.keyboard.type("retrying a request safely")
    page.get_by_text(re.compile("Idempotency.*retrying a request safely")).first.click()
    expect(page).to_have_url(re.compile(r"/docs/idempotency\.html"))


def test_one_theme_for_all(page: Page, root: str, sign_in: SignIn) -> None:
    """The choice of the dashboard holds in the documentation and in the API reference, and the other way round."""
    page.emulate_media(color_scheme="light")
    sign_in(page)
    page.get_by_role("button", name="Use dark colours").click()
    page.get_by_role("link", name="Docs", exact=True).click()
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    page.get_by_role("link", name="API reference").click()
    expect(page.locator("html")).to_have_class(re.compile("dark-mode"))
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("html")).not_to_have_class(re.compile("dark-mode"))
    page.get_by_role("link", name="Documentation").click()
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "default")


def test_old_links_lead_to_the_reference(page: Page, root: str) -> None:
    page.goto(f"{root}/docs#/Fine-tuning")
    expect(page).to_have_url(f"{root}/docs/api/#/Fine-tuning")
    expect(page.locator(CREATE)).to_be_visible()
