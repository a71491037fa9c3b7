"""Files that are not chat JSONL, in the dashboard: the cause, the first converted rows, and the new file."""

import json
import re
from pathlib import Path

import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect

from tests.core.files.test_formats import jsonl
from tests.dashboard.test_dashboard import Picture, SignIn
from tests.tiny_model import write_rows
from tests.waiting import eventually

NO_ANSWER = "No row has an answer to learn from."


def upload(page: Page, path: Path) -> None:
    page.get_by_role("link", name="Files").first.click()
    page.get_by_label("Choose a file").set_input_files(path)
    expect(page.get_by_role("heading", name=path.name)).to_be_visible()


def both_themes(page: Page, picture: Picture, name: str) -> None:
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        picture(page, f"{name}-{theme}")


def test_csv_is_converted(page: Page, sign_in: SignIn, picture: Picture, tmp_path: Path) -> None:
    path = tmp_path / "quiz.csv"
    path.write_bytes(b"question,answer,level\n1+1=,2,easy\n2+1=,3,easy\n")
    sign_in(page, "/ui/files")
    upload(page, path)
    expect(page.locator(".facts .pill")).to_have_class(re.compile("bad"))
    expect(page.get_by_text(NO_ANSWER)).to_have_count(0)
    expect(page.locator(".findings.bad")).to_contain_text(
        "1 errorThe file is CSV with the columns question, answer, level, not JSONL; convert it"
    )
    expect(page.get_by_role("button", name="Upload the corrected file")).to_have_count(0)
    conversion = page.get_by_role("region", name="Conversion")
    conversion.get_by_role("button", name="Convert").click()
    rows = conversion.get_by_role("article")
    expect(rows).to_have_count(2)
    expect(rows.first.locator(".turn.trained")).to_have_text("expert2")
    both_themes(page, picture, "file-csv")
    conversion.get_by_role("button", name="Use the converted rows").click()
    expect(page.get_by_role("heading", name="quiz.jsonl")).to_be_visible()
    expect(page.locator(".facts .pill")).to_have_text(re.compile("Ready"))
    expect(page.locator(".tile", has_text="with a demonstration")).to_contain_text("2")
    expect(page.get_by_role("region", name="Conversion")).to_have_count(0)


def test_unused_answers_are_amber_until_mapped(
    page: Page, sign_in: SignIn, picture: Picture, client: OpenAI, tmp_path: Path
) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_bytes(jsonl([{"prompt": f"{n}+1=", "response": str(n + 1)} for n in range(4)]))
    sign_in(page, "/ui/files")
    upload(page, path)
    pill = page.locator(".facts .pill")
    expect(pill).to_have_class(re.compile("hold"))
    expect(pill).to_contain_text("No answers")
    expect(page.get_by_text(NO_ANSWER)).to_be_visible()
    expect(page.locator(".findings")).to_contain_text("response looks like one")
    conversion = page.get_by_role("region", name="Conversion")
    expect(conversion).to_contain_text("Uses response as the answer.")
    both_themes(page, picture, "file-no-answers")

    page.get_by_role("link", name="Train on this file").click()
    expect(page.get_by_label("Training file")).to_have_value(re.compile("file-"))
    expect(page.get_by_text(NO_ANSWER)).to_be_visible()
    page.get_by_role("radio", name=re.compile("^Supervised")).check()
    training = page.get_by_label("Training file", exact=True)
    expect(training).to_have_accessible_description(re.compile("needs rows with an assistant message"))
    expect(page.locator(".form .notice.good")).to_have_count(0)
    both_themes(page, picture, "new-job-no-answers")

    page.go_back()
    conversion.get_by_role("button", name="Convert").click()
    expect(conversion.locator(".turn.trained").first).to_have_text("expert1")
    conversion.get_by_role("button", name="Use the converted rows").click()
    expect(pill).to_contain_text("Ready")
    expect(page.get_by_text(NO_ANSWER)).to_have_count(0)
    page.get_by_role("link", name="Files").first.click()
    pills = page.locator(".file .pill", has_text=re.compile("Ready|No answers"))
    expect(pills.nth(1)).to_have_class(re.compile("hold"))


def test_signal_of_rollouts_alone_has_no_green_tick(page: Page, sign_in: SignIn, client: OpenAI) -> None:
    rows = jsonl([{"prompt": f"{n}+1=", "reference_answer": str(n + 1)} for n in range(4)])
    file = client.files.create(file=("prompts.jsonl", rows), purpose="fine-tune")
    eventually(lambda: client.files.retrieve(file.id).status == "processed")
    sign_in(page, f"/ui/new?training_file={file.id}")
    expect(page.get_by_label("Suggested method")).to_contain_text("Suggested for this file: Reinforcement")
    expect(page.get_by_role("radio", name=re.compile("^GFT"))).to_be_checked()
    signal = page.locator(".notice", has_text="Training signal:")
    expect(signal).to_contain_text("⚠ Training signal: no group has answers in the file with different rewards")
    expect(signal).to_have_class(re.compile("hold"))


def test_named_columns_are_used(page: Page, sign_in: SignIn, picture: Picture, tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_bytes(b"headline,summary\nHarbour opens,It opens.\nHarbour closes,It closes.\n")
    sign_in(page, "/ui/files")
    upload(page, path)
    conversion = page.get_by_role("region", name="Conversion")
    conversion.get_by_text("Name the columns").click()
    conversion.get_by_label("Prompt", exact=True).fill("headline")
    conversion.get_by_label("Answer").fill("summary")
    expect(conversion).to_contain_text("Uses headline as the prompt and summary as the answer.")
    conversion.get_by_role("button", name="Convert").click()
    expect(conversion.locator(".turn.trained").first).to_have_text("expertIt opens.")
    both_themes(page, picture, "file-columns")
    conversion.get_by_role("button", name="Use the converted rows").click()
    expect(page.locator(".tile", has_text="with a demonstration")).to_contain_text("2")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"The harbour opens at six.\nIt closes at nine.\n", "The file is plain text"),
        (json.dumps({"prompt": {"0": "a"}, "completion": {"0": "b"}}).encode(), "The file is JSON by column"),
    ],
)
def test_file_without_conversion(page: Page, sign_in: SignIn, tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    sign_in(page, "/ui/files")
    upload(page, path)
    expect(page.locator(".findings.bad")).to_contain_text(cause)
    expect(page.get_by_role("region", name="Conversion")).to_have_count(0)


def test_equal_file_is_not_uploaded_again(page: Page, sign_in: SignIn, client: OpenAI, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "first.jsonl", 7, start=123)
    sign_in(page, "/ui/files")
    page.get_by_label("Choose a file").set_input_files(path)
    expect(page.get_by_role("heading", name="first.jsonl")).to_be_visible()
    page.get_by_role("link", name="Files", exact=True).first.click()
    page.get_by_label("Choose a file").set_input_files(path.rename(tmp_path / "second.jsonl"))
    notice = page.get_by_role("status").filter(has_text="second.jsonl is already uploaded as first.jsonl")
    expect(notice).to_be_visible()
    stored = [file.filename for file in client.files.list() if file.filename in ("first.jsonl", "second.jsonl")]
    assert stored == ["first.jsonl"]
    notice.get_by_role("link").click()
    expect(page.get_by_role("heading", name="first.jsonl")).to_be_visible()
