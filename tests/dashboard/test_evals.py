"""The pages of evals: empty, an eval with its runs, a run with its rows, and the comparison of two runs."""

import re
from typing import Any

from openai import OpenAI
from playwright.sync_api import Page, expect

from app.local.stack import Stack
from tests.dashboard.test_dashboard import Picture, SignIn
from tests.dashboard.test_pages import PHONE, WIDE, settle, violations
from tests.evals import CLOSE, EXACT, MESSAGES, answered, content, create_eval, sums
from tests.waiting import eventually

UNGRADED = {"type": "python", "name": "half", "source": "def grade(sample, item):\n    return 1 / int(item['answer'])"}


def new_key(stack: Stack) -> str:
    """Return a key of a project without evals."""
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as admin:
        project: Any = admin.post("/projects", body={"name": "evals"}, cast_to=object)
        body = {"name": "evals", "project_id": project["id"]}
        key: Any = admin.post("/api_keys", body=body, cast_to=object)
    return str(key["key"])


def captured(page: Page, picture: Picture, name: str) -> list[Any]:
    """Take the page in both themes and on a phone; return what is wrong with it."""
    settle(page)
    findings: list[Any] = [*violations(page)]
    picture(page, f"{name}-light")
    page.get_by_role("button", name="Use dark colours").click()
    findings += violations(page, "color-contrast")
    picture(page, f"{name}-dark")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    if page.evaluate("document.documentElement.scrollWidth - innerWidth") > 0:
        findings.append((name, "wider than a phone"))
    picture(page, f"{name}-dark-narrow")
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.get_by_role("button", name="Use light colours").click()
    return findings


def test_eval_is_followed_and_compared(page: Page, root: str, stack: Stack, sign_in: SignIn, picture: Picture) -> None:
    key = new_key(stack)
    page.emulate_media(color_scheme="light")
    sign_in(page, "/ui/evals", key)
    expect(page.get_by_role("heading", name="No evals yet")).to_be_visible()
    findings = captured(page, picture, "evals-none")
    with OpenAI(base_url=stack.base_url, api_key=key) as client:
        created = create_eval(client, EXACT, CLOSE, name="Sums of two numbers")
        page.goto(f"{root}/ui/evals/{created.id}")
        expect(page.get_by_text("No runs yet.")).to_be_visible()
        source: Any = {"type": "completions", "model": "tiny", "source": content(sums(6)), "input_messages": MESSAGES}
        source |= {"sampling_params": {"max_completion_tokens": 4, "temperature": 0}}
        client.evals.runs.create(created.id, data_source=source, name="tiny")
        stored: Any = {"type": "jsonl", "source": content(answered(["0", "2", "4", "6", "8", "12"]))}
        client.evals.runs.create(created.id, data_source=stored, name="stored")
        other = create_eval(client, EXACT, UNGRADED, name="Cannot grade 0")
        errored = client.evals.runs.create(other.id, data_source=stored)
        eventually(lambda: client.evals.runs.retrieve(errored.id, eval_id=other.id).status == "completed")

    page.goto(f"{root}/ui/evals")
    expect(page.get_by_role("row")).to_have_count(3)
    findings += captured(page, picture, "evals")
    page.get_by_role("link", name="Sums of two numbers").click()
    runs = page.get_by_role("region", name="Runs")
    expect(runs.get_by_text("Completed")).to_have_count(2)
    findings += captured(page, picture, "eval")
    compare = page.get_by_role("button", name="Compare two runs")
    expect(compare).to_be_disabled()
    for name in ("tiny", "stored"):
        page.get_by_role("checkbox", name=f"Choose {name}").check()
    compare.click()
    expect(page.get_by_role("heading", name="stored against tiny")).to_be_visible()
    table = page.get_by_role("region", name="Comparison")
    expect(table.get_by_role("row", name=re.compile("Pass rate"))).to_contain_text("83.3 %")
    expect(page.get_by_role("article", name="Row 2, baseline")).to_be_visible()
    findings += captured(page, picture, "eval-comparison")

    page.goto(f"{root}/ui/evals/{other.id}/runs/{errored.id}")
    facts = page.get_by_role("region", name="Results by criterion")
    expect(facts.get_by_role("row", name=re.compile("half"))).to_contain_text("1")
    page.get_by_role("button", name="Errored").click()
    expect(page.get_by_role("article")).to_have_count(1)
    expect(page.get_by_text(re.compile("ZeroDivisionError"))).to_be_visible()
    findings += captured(page, picture, "eval-run")
    assert not findings, "\n".join(map(str, findings))
