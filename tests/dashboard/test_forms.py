"""Forms: settings that follow the file, and errors at their fields."""

import json
import re
from pathlib import Path

import pytest
from openai import OpenAI
from playwright.sync_api import BrowserContext, Page, expect

from tests.dashboard.test_dashboard import Picture, SignIn, upload
from tests.dashboard.test_pages import violations
from tests.tiny_model import write_rows
from tests.waiting import eventually


@pytest.fixture
def sums(client: OpenAI, tmp_path: Path) -> str:
    """Id of a validated file of additions."""
    return upload(client, tmp_path / "rows.jsonl", 16)


def test_form_fits_the_file(page: Page, sign_in: SignIn, picture: Picture, client: OpenAI, tmp_path: Path) -> None:
    """The grader follows the chosen file, until the user chooses another one.

    The method is only suggested, unless the file has nothing but pairs of answers.
    """
    moods = [json.dumps({"prompt": "?", "completion": mood, "label": mood}) for mood in ("good", "bad") * 6]
    plain = json.dumps({"prompt": "Tell me a story.", "completion": "Once upon a time there was a fox."})
    sides = {f"{side}_output": [{"role": "assistant", "content": side}] for side in ("preferred", "non_preferred")}
    pair = json.dumps({"input": {"messages": [{"role": "user", "content": "Which side?"}]}, **sides})
    sums_path = write_rows(tmp_path / "sums.jsonl", 8)
    contents = ("\n".join(moods).encode(), plain.encode(), sums_path.read_bytes(), pair.encode())
    labels, story, numbers, pairs = (
        client.files.create(file=(f"{index}.jsonl", content), purpose="fine-tune").id
        for index, content in enumerate(contents)
    )
    eventually(
        lambda: all(client.files.retrieve(file).status == "processed" for file in (labels, story, numbers, pairs)),
        60.0,
    )
    sign_in(page, f"/ui/new?training_file={labels}")
    training = page.get_by_label("Training file", exact=True)
    kind = page.get_by_label("Grader type")
    pay = page.get_by_role("region", name="Grades of the answers in the file")
    expect(kind).to_have_value("string_check")
    expect(page.get_by_text("✓ Suggested for this file.")).to_be_visible()
    expect(page.get_by_text("one of 2 labels (bad, good)")).to_be_visible()
    expect(pay).to_contain_text("12 of 12 demonstrations pass")
    page.get_by_label("Reference", exact=True).fill("good")
    expect(pay).to_contain_text("6 of 12 demonstrations pass")
    expect(pay.get_by_role("list", name="Distribution of the rewards").get_by_role("listitem")).to_have_count(2)
    pay.get_by_text("Lowest rewards").click()
    expect(pay.get_by_role("row").nth(1)).to_contain_text("bad")
    picture(page, "new-job-suggested")
    page.get_by_role("button", name="Use the suggested grader").click()
    page.reload()
    training.select_option(pairs)
    expect(page.get_by_role("radio", name=re.compile("^DPO"))).to_be_checked()
    expect(page.get_by_text("✓ Valid. 1 row")).to_be_visible()
    training.select_option(numbers)
    expect(page.get_by_role("radio", name=re.compile("^GFT"))).to_be_checked()
    expect(kind).to_have_value("math")
    expect(page.get_by_role("link", name="graders in the documentation")).to_have_attribute(
        "href", "/docs/graders.html"
    )
    page.get_by_role("radio", name=re.compile("^Reinforcement")).check()
    training.select_option(story)
    expect(kind).to_have_value("text_similarity")
    expect(page.get_by_role("region", name="Suggested method")).to_contain_text(
        "Supervised. The rows have demonstrations"
    )
    expect(page.get_by_role("radio", name=re.compile("^Reinforcement"))).to_be_checked()


def test_method_is_suggested_with_its_reason(
    page: Page, sign_in: SignIn, picture: Picture, client: OpenAI, tmp_path: Path
) -> None:
    """One click takes a suggestion, or leaves out the demonstrations that fail; nothing is chosen before."""
    rows = [{"prompt": f"{n}+1=", "completion": str(n + 1 + (n % 5 == 0)), "answer": n + 1} for n in range(30)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = client.files.create(file=path, purpose="fine-tune").id
    eventually(lambda: client.files.retrieve(file).status == "processed")
    sign_in(page, f"/ui/new?training_file={file}")
    suggested = page.get_by_role("region", name="Suggested method")
    expect(suggested).to_contain_text("20% of the graded demonstrations fail the grader")
    expect(page.get_by_role("radio", name=re.compile("^GFT"))).to_be_checked()
    only_passing = page.get_by_role("checkbox", name="Train only the demonstrations that pass the grader")
    page.get_by_role("button", name="Train without them").click()
    expect(only_passing).to_be_checked()
    only_passing.uncheck()
    picture(page, "new-job-method")
    page.get_by_role("button", name="Use Supervised with graded demonstrations").click()
    expect(page.get_by_role("radio", name=re.compile("^Supervised"))).to_be_checked()
    expect(only_passing).to_be_checked()
    expect(suggested).to_contain_text("✓ Suggested for this file")
    request = page.get_by_role("region", name="Request", exact=True).locator("pre").first
    expect(request).to_contain_text('"demonstrations": "graded"')
    expect(page.get_by_text("✓ Valid. 24 rows")).to_be_visible()
    expect(page.get_by_role("region", name="Estimate")).to_contain_text(re.compile("80.% of the demonstrations pass"))
    assert violations(page) == []
    picture(page, "new-job-graded")
    page.get_by_role("button", name="Use dark colours").click()
    assert violations(page, "color-contrast") == []
    picture(page, "new-job-graded-dark")


def test_errors_stand_at_their_fields(page: Page, sign_in: SignIn, picture: Picture, sums: str) -> None:
    sign_in(page, f"/ui/new?training_file={sums}")
    name = page.get_by_label("Name (suffix)")
    name.fill("sft one")
    expect(name).to_have_accessible_description(re.compile("Must use 1 to 64 letters, digits"))
    page.get_by_text("Advanced settings").click()
    temperature = page.get_by_label("Temperature", exact=True)
    temperature.fill("3")
    expect(temperature).to_have_accessible_description(re.compile(r"Enter a number: more than 0 and at most 2\."))
    page.get_by_label("Alpha", exact=True).fill("64")
    page.get_by_label("Metadata").fill("team=search")
    request = page.get_by_role("region", name="Request", exact=True).locator("pre").first
    expect(request).to_contain_text('"alpha": 64')
    expect(request).to_contain_text('"team": "search"')
    assert "sft one" in (request.text_content() or "")
    assert violations(page) == []
    picture(page, "new-job-errors")
    page.set_viewport_size({"width": 390, "height": 844})
    picture(page, "new-job-errors-narrow")
    page.set_viewport_size({"width": 1360, "height": 900})
    page.get_by_text("Advanced settings").click()
    expect(page.get_by_text("✕ 2 settings to fix")).to_be_visible()
    page.get_by_role("button", name="Create job").click()
    expect(temperature).to_be_focused()
    temperature.fill("")
    expect(page.get_by_text("✕ 1 setting to fix")).to_be_visible()
    page.get_by_role("button", name="Create job").click()
    expect(name).to_be_focused()
    page.get_by_text("Expert view").click()
    page.get_by_label("Grader (JSON)").fill(json.dumps({"type": "regex", "name": "any", "pattern": "["}))
    pattern = page.get_by_label("Pattern", exact=True)
    expect(pattern).to_have_value("[")
    expect(pattern).to_have_accessible_description(re.compile("Is not a regular expression"))
    pattern.fill("[0-9]")
    expect(page.get_by_label("Grader (JSON)")).to_have_value(re.compile(r'"pattern": "\[0-9\]"'))

    for number, template in enumerate(("Several graders combined", "Judge that scores from 0 to 1")):
        page.get_by_label("Grader template").select_option(label=template)
        assert violations(page) == []
        picture(page, f"new-job-grader-{number}")
    expect(page.get_by_role("button", name="Test on about 8 answers")).to_be_visible()
    page.get_by_role("button", name="Use dark colours").click()
    assert violations(page, "color-contrast") == []
    picture(page, "new-job-grader-dark")


def test_errors_in_dialogs(context: BrowserContext, root: str, sign_in: SignIn, picture: Picture) -> None:
    """The page logs the refused requests, which the fixture `page` does not allow."""
    page = context.new_page()
    sign_in(page, "/ui/webhooks")
    page.get_by_role("button", name="New webhook").click()
    page.get_by_label("Name", exact=True).fill("x")
    page.get_by_label("URL").fill("chat")
    page.get_by_role("button", name="Create webhook").click()
    expect(page.get_by_label("URL")).to_be_focused()
    expect(page.get_by_label("URL")).to_have_accessible_description(re.compile("https://"))
    picture(page, "webhook-error")
    page.goto(f"{root}/ui/keys")
    page.get_by_role("button", name="New key").click()
    name = page.get_by_label("Name", exact=True)
    name.evaluate("field => field.removeAttribute('maxlength')")  # the server has the same limit
    name.fill("x" * 65)
    page.get_by_role("button", name="Create key").click()
    expect(name).to_be_focused()
    expect(name).to_have_accessible_description(re.compile("64 characters"))
    name.fill("x" * 64)
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("dialog")).to_contain_text("shown only once")
