"""The playground, over the embedded engine: streams, rows with verdicts, stops, tools, and what a model may not do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from openai import OpenAI
from playwright.sync_api import BrowserContext, Page, Request, expect

from tests.api.jobs import gft
from tests.dashboard.conftest import Trained
from tests.dashboard.test_pages import violations
from tests.processes import descendants
from tests.tiny_model import write_rows

SignIn = Callable[..., None]
Picture = Callable[[Page, str], None]


def answers(page: Page) -> list[str]:
    """Returns the texts of the answers, once all are complete."""
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return page.locator(".answer .text").all_text_contents()


def test_row_is_answered_and_graded(
    page: Page, sign_in: SignIn, picture: Picture, client: OpenAI, trained: Trained
) -> None:
    """From the page of the job to answers of base, adapter and checkpoint that equal the API's own."""
    sign_in(page, f"/ui/jobs/{trained.job}")
    page.get_by_role("link", name="Open in playground").click()
    expect(page.get_by_label("Line", exact=True)).to_have_value("1")
    page.get_by_role("button", name="Next row").click()
    expect(page).to_have_url(re.compile("row=2"))
    expect(page.locator(".row-preview")).to_contain_text("5+4=")
    page.get_by_role("button", name="Add a model").click()
    page.get_by_label("Model of column 3").select_option(trained.late)
    page.get_by_role("button", name="Ask this row").click()
    expect(page.locator(".verdict")).to_have_count(3)
    expect(page.locator(".verdict").first).to_contain_text("fails · reward 0")
    expect(page.locator(".asked")).to_contain_text("reference")
    texts = answers(page)
    for model, text in zip(("tiny", trained.model, trained.late), texts, strict=True):
        same = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "5+4="}], temperature=0, max_tokens=6
        )
        assert same.choices[0].message.content == text != ""
    for speed in page.locator(".speed").all_inner_texts():
        assert re.search(r"first token [\d.]+ m?s .* \d+ tokens?$", speed), speed
    assert violations(page) == []
    picture(page, "playground-row")
    page.reload()
    expect(page.get_by_label("Model of column 3")).to_have_value(trained.late)
    expect(page.get_by_label("Line", exact=True)).to_have_value("2")


def test_conversation_with_settings(page: Page, sign_in: SignIn, picture: Picture, trained: Trained) -> None:
    sign_in(page, f"/ui/playground?model=tiny&model={quote(trained.model)}")
    bodies: list[Any] = []

    def note(sent: Request) -> None:
        if "/chat/" in sent.url:
            bodies.append(sent.post_data_json)

    page.on("request", note)
    page.get_by_label("Max tokens").fill("5")
    page.get_by_label("Temperature").fill("1")
    page.get_by_label("Answers").fill("2")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("System prompt", exact=True).fill("Add.")
    page.get_by_label("Colour tokens").check()
    page.get_by_label("Message", exact=True).fill("1+1=")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".choice")).to_have_count(4)
    expect(page.locator(".cell .p4").first).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    first = page.locator(".answer").first.locator(".text").all_text_contents()
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".speed")).to_have_count(2)
    assert page.locator(".answer").first.locator(".text").all_text_contents() == first
    page.get_by_role("button", name="Answer 2").first.click()
    assert violations(page) == []
    picture(page, "playground-talk")
    page.get_by_label("Message", exact=True).fill("And 2+2=")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".speed")).to_have_count(4)
    sent = next(body for body in bodies[::-1] if body["model"] == "tiny")
    messages = sent["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == first[1]
    assert (sent["n"], sent["seed"], sent["max_tokens"]) == (2, 7, 5)


def test_default_limit_shrinks_to_the_context(context: BrowserContext, sign_in: SignIn) -> None:
    """The default of 512 tokens does not fit the context of 512. A limit that the user has set is not changed."""
    page = context.new_page()  # not `page`: the browser reports the refused requests on the console
    sign_in(page, "/ui/playground?model=tiny")
    page.get_by_label("Message", exact=True).fill("1+1=")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".speed")).to_contain_text("tokens")
    expect(page.locator(".answer")).to_contain_text("The answer may use what the context has left.")
    page.get_by_label("Max tokens").fill("512")
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_role("alert")).to_contain_text("maximum context length is 512 tokens")
    page.get_by_label("Max tokens").fill("5")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".speed")).to_contain_text("5 tokens")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_asked_row_keeps_its_grader(page: Page, sign_in: SignIn, trained: Trained) -> None:
    """Another row in the picker changes neither the verdicts nor how the asked row is asked again."""
    sign_in(page, f"/ui/playground?model={quote(trained.model)}&job={trained.job}&row=2")
    page.get_by_role("button", name="Ask this row").click()
    expect(page.locator(".verdict")).to_contain_text("reward")
    page.get_by_label("Row of a job as prompt").select_option("")
    expect(page.get_by_label("Line", exact=True)).to_have_count(0)
    expect(page.locator(".verdict")).to_contain_text("reward")
    with page.expect_response(re.compile("graders/run")):
        page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".verdict")).to_contain_text("reward")


def test_rows_between_blank_lines(page: Page, sign_in: SignIn, client: OpenAI, tmp_path: Path) -> None:
    """The picker reaches every row of a file, and no line beyond its last one."""
    rows = write_rows(tmp_path / "rows.jsonl", 3).read_text(encoding="utf-8").splitlines()
    (tmp_path / "spaced.jsonl").write_text("\n\n".join(rows) + "\n", encoding="utf-8")
    file = client.files.create(file=tmp_path / "spaced.jsonl", purpose="fine-tune")
    method = gft(group={"expert": 1, "teacher": 1, "self": 2})
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, validation_file=file.id, method=method)  # type: ignore[arg-type]
    client.fine_tuning.jobs.cancel(job.id)
    sign_in(page, f"/ui/playground?model=tiny&job={job.id}")
    line, forth, back = (
        page.get_by_label("Line", exact=True),
        page.get_by_label("Next row"),
        page.get_by_label("Previous"),
    )
    expect(back).to_be_disabled()
    for number in ("3", "5"):
        forth.click()
        expect(line).to_have_value(number)
    expect(forth).to_be_disabled()
    for number in ("3", "1"):
        back.click()
        expect(line).to_have_value(number)
    line.fill("9")
    line.press("Enter")
    expect(page.get_by_text("The file has 3 rows, and none from line 9 on.")).to_be_visible()
    expect(page.get_by_role("button", name="Ask this row")).to_be_disabled()
    back.click()
    expect(line).to_have_value("5")


def test_long_prompt_leaves_room_for_answers(page: Page, sign_in: SignIn) -> None:
    sign_in(page, "/ui/playground?model=tiny")
    page.get_by_label("Max tokens").fill("5")
    message = page.get_by_label("Message", exact=True)
    message.fill("1+1=\n" * 60)
    page.get_by_role("button", name="Send").click()
    expect(message).to_be_focused()
    expect(page.locator(".speed")).to_be_in_viewport()
    assert violations(page) == []


def test_stop_ends_the_requests(page: Page, sign_in: SignIn) -> None:
    sign_in(page, "/ui/playground?model=tiny")
    page.get_by_label("Max tokens").fill("400")
    page.get_by_label("Temperature").fill("1")
    page.get_by_label("Message", exact=True).fill("1+1=")
    engines = descendants("worker.serving")
    for engine in engines:  # so that the answer cannot end before it is stopped
        engine.suspend()
    try:
        page.keyboard.press("Control+Enter")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".cell")).to_contain_text("stopped")
    finally:
        for engine in engines:
            engine.resume()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".round")).to_have_count(0)


def test_tools_are_checked(page: Page, sign_in: SignIn) -> None:
    sign_in(page, "/ui/playground?model=tiny")
    page.get_by_label("Message", exact=True).fill("1+1=")
    page.get_by_text("Tools", exact=True).click()
    page.get_by_label("Tools (JSON)").fill('[{"type": "function", "function": {}}]')
    expect(page.get_by_role("alert")).to_contain_text("Tool 1 needs a `name`")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_label("Tools (JSON)").fill("")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_key_without_inference(page: Page, sign_in: SignIn, client: OpenAI, trained: Trained) -> None:
    body = {"name": "reader", "scopes": ["jobs:read", "models:read"]}
    key = client.post("/api_keys", body=body, cast_to=object)["key"]  # type: ignore[index]
    sign_in(page, f"/ui/models/{quote(trained.model, safe='')}", key)
    expect(page.get_by_role("region", name="Lineage")).to_be_visible()
    for name in ("Open in playground", "Playground"):
        expect(page.get_by_role("link", name=name)).to_have_count(0)
    page.goto(page.url.split("/ui/")[0] + "/ui/playground")
    expect(page.get_by_text("requires a key with the scope inference")).to_be_visible()
