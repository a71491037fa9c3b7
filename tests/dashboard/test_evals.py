"""Evals in the dashboard: created in its form, followed, and compared. `test_pages` checks how the pages look."""

import re
from pathlib import Path
from typing import Any

from openai import OpenAI
from playwright.sync_api import Page, expect

from app.local.stack import Stack
from tests.dashboard.test_dashboard import Picture, SignIn
from tests.dashboard.test_pages import violations
from tests.evals import CLOSE, EXACT, MESSAGES, answered, content, create_eval, jsonl, sums
from tests.waiting import eventually

UNGRADED = {"type": "python", "name": "half", "source": "def grade(sample, item):\n    return 1 / int(item['answer'])"}


def new_key(stack: Stack, project_name: str) -> str:
    """Return a key of a project without evals, which can also ask this installation as another server."""
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as admin:
        project: Any = admin.post("/projects", body={"name": project_name}, cast_to=object)
        body = {"name": "evals", "project_id": project["id"]}
        key: Any = admin.post("/api_keys", body=body, cast_to=object)
    with OpenAI(base_url=stack.base_url, api_key=key["key"]) as member:
        member.post("/teacher_keys", body={"base_url": stack.base_url, "api_key": key["key"]}, cast_to=object)
    return str(key["key"])


def test_eval_is_created_run_and_compared(
    page: Page, stack: Stack, sign_in: SignIn, picture: Picture, tmp_path: Path
) -> None:
    page.emulate_media(color_scheme="light")
    sign_in(page, "/ui/evals", new_key(stack, "created"))
    expect(page.get_by_role("heading", name="No evals yet")).to_be_visible()
    findings = violations(page)
    picture(page, "evals-none-light")
    page.get_by_role("link", name="New eval").click()
    rows = tmp_path / "sums.jsonl"
    rows.write_bytes(jsonl(sums(6)))
    page.get_by_label("Upload a file for rows").set_input_files(rows)
    message, reference = page.get_by_label("Message to the model"), page.get_by_label("Reference")
    expect(message).to_have_value("{{item.question}}")
    expect(reference).to_have_value("{{item.answer}}")
    page.get_by_role("button", name="Create and run").click()
    expect(page.get_by_text("Choose a model.")).to_be_visible()
    expect(page.get_by_label("Model 1")).to_be_focused()
    page.get_by_label("Model 1").select_option("tiny")
    page.get_by_label("Name", exact=True).first.fill("Sums of two numbers")
    page.get_by_label("Max tokens").fill("4")
    page.get_by_label("Upload a file for rows").set_input_files(rows.rename(tmp_path / "again.jsonl"))
    expect(page.get_by_text("again.jsonl is already uploaded as sums.jsonl, which is used.")).to_be_visible()
    findings += violations(page)
    page.get_by_role("button", name="Create and run").click()
    expect(page.get_by_role("heading", name="Sums of two numbers")).to_be_visible()

    page.get_by_role("link", name="New run").click()
    expect(message).to_have_value("{{item.question}}")
    expect(page.get_by_label("Max tokens")).to_have_value("4")
    page.get_by_label("Server's model").fill("tiny")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("Write the server's address.")).to_be_visible()
    page.get_by_label("Server", exact=True).fill(stack.base_url)
    page.get_by_role("button", name="Run", exact=True).click()
    runs = page.get_by_role("region", name="Runs")
    expect(runs.get_by_text("Completed")).to_have_count(2)
    for box in page.get_by_role("checkbox", name="Choose tiny").all():
        box.check()
    page.get_by_role("button", name="Compare two runs").click()
    expect(page.get_by_role("heading", name="tiny against tiny")).to_be_visible()
    same = page.get_by_role("region", name="Comparison").get_by_role("row", name=re.compile("Pass rate"))
    expect(same).to_contain_text("+0.0 (+0.0 to +0.0)")
    expect(page.get_by_text("6 rows cannot tell which run is better.")).to_be_visible()
    assert not findings, "\n".join(map(str, findings))


def test_eval_is_followed_and_compared(page: Page, root: str, stack: Stack, sign_in: SignIn) -> None:
    key = new_key(stack, "followed")
    sign_in(page, "/ui/evals", key)
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
    page.get_by_role("link", name="Sums of two numbers").click()
    runs = page.get_by_role("region", name="Runs")
    expect(runs.get_by_text("Completed")).to_have_count(2)
    compare = page.get_by_role("button", name="Compare two runs")
    expect(compare).to_be_disabled()
    for name in ("tiny", "stored"):
        page.get_by_role("checkbox", name=f"Choose {name}").check()
    compare.click()
    expect(page.get_by_role("heading", name="stored against tiny")).to_be_visible()
    table = page.get_by_role("region", name="Comparison")
    expect(table.get_by_role("row", name=re.compile("Pass rate"))).to_contain_text("83.3 %")
    expect(page.get_by_role("article", name="Row 2, baseline")).to_be_visible()

    page.goto(f"{root}/ui/evals/{other.id}/runs/{errored.id}")
    facts = page.get_by_role("region", name="Results by criterion")
    expect(facts.get_by_role("row", name=re.compile("half"))).to_contain_text("1")
    page.get_by_role("button", name="Errored").click()
    expect(page.get_by_role("article")).to_have_count(1)
    expect(page.get_by_text(re.compile("ZeroDivisionError"))).to_be_visible()
