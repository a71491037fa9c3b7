"""The dashboard as users see it, in a real Chromium."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect
from psutil import Process

from app.local.stack import Stack
from tests.api.jobs import GRADER, broken_at_17, gft
from tests.interpreter.sitecustomize import OWN_INTERPRETER
from tests.processes import command_line, descendants
from tests.tiny_model import write_rows
from tests.waiting import eventually

SignIn = Callable[..., None]
Picture = Callable[[Page, str], None]


def status(page: Page, text: str) -> None:
    """Waits until the job page shows this status, without a reload."""
    expect(page.locator(".facts .pill").first).to_contain_text(text, timeout=120_000)


def shown_step(page: Page) -> int:
    """Returns the last step that the charts of a job show."""
    return int(page.get_by_label("To step").input_value())


def chart_labels(page: Page) -> list[str | None]:
    """Returns the label of each chart, which names its metrics and their latest values."""
    charts = page.locator("figure.chart [role=img]")
    return [chart.get_attribute("aria-label") for chart in charts.all()]


def make_job(
    client: OpenAI, file: str, suffix: str, *, metadata: dict[str, str] | None = None, **hyperparameters: int
) -> str:
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file,
        suffix=suffix,
        metadata=metadata,
        method=gft(  # type: ignore[arg-type]
            group={"expert": 1, "teacher": 2, "self": 2},
            sampling={"max_tokens": 8},
            hyperparameters={"batch_size": 4, "checkpoint_interval": 2, **hyperparameters},
        ),
    )
    return job.id


def upload(client: OpenAI, path: Path, rows: int) -> str:
    file = client.files.create(file=write_rows(path, rows), purpose="fine-tune")
    eventually(lambda: client.files.retrieve(file.id).status == "processed")
    return file.id


@pytest.fixture(scope="module")
def succeeded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ids of two jobs that have succeeded, `short-run` and `long-run`; each has its own copy of the same file."""
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as client:
        path = tmp_path_factory.mktemp("succeeded") / "rows.jsonl"
        jobs = [
            make_job(client, upload(client, path, 16), suffix, max_steps=steps)
            for suffix, steps in (("short-run", 2), ("long-run", 4))
        ]
        eventually(lambda: all(client.fine_tuning.jobs.retrieve(job).status == "succeeded" for job in jobs))
        return jobs


@pytest.fixture
def long_file(client: OpenAI, tmp_path: Path) -> str:
    """Rows for a job that outlasts every test: 50 epochs have thousands of steps."""
    return upload(client, tmp_path / "rows.jsonl", 1000)


def test_lost_rows_are_red_in_the_form(page: Page, sign_in: SignIn, client: OpenAI) -> None:
    fine = json.dumps({"prompt": "1+1=", "completion": "2"})
    long = json.dumps({"prompt": "1+1=", "completion": "2" * 600})
    files = [
        client.files.create(file=("rows.jsonl", "\n".join(rows).encode()), purpose="fine-tune").id
        for rows in ([fine] * 12 + [long] * 4, [long] * 4)
    ]
    eventually(lambda: all(client.files.retrieve(file).status == "processed" for file in files))
    sign_in(page, f"/ui/new?training_file={files[0]}")
    page.get_by_role("radio", name=re.compile("^Supervised")).check()
    lost = page.get_by_text("✕ Training file: 12 of 16 rows are used; 4 with an answer that is too long.")
    expect(lost).to_be_visible()
    expect(page.get_by_text("⚠ Valid, with warnings.")).to_be_visible()
    expect(page.get_by_text("✓ Valid.")).to_have_count(0)
    training = page.get_by_label("Training file", exact=True)
    training.select_option(files[1])
    expect(page.get_by_text("✕ Training file: 0 of 4 rows are used")).to_be_visible()
    expect(training).to_have_accessible_description(re.compile("can use no row of the training file"))
    page.get_by_role("button", name="Create job").click()
    expect(training).to_be_focused()


def test_broken_file_to_downloaded_adapter(page: Page, sign_in: SignIn, picture: Picture, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    # Other tests upload the same rows, and the dashboard would find their file.
    broken.write_bytes(broken_at_17() + b'\n{"prompt": "own row", "completion": "2"}\n')
    sign_in(page, "/ui/files")
    page.get_by_label("Choose a file").set_input_files(broken)
    expect(page.locator(".facts")).to_contain_text("Has errors")
    line = page.get_by_label("Line 17")
    expect(line).to_have_value('{"messages": [{"role": "user", "content": "1+1="')
    line.fill('{"messages": [{"role": "user", "content": "1+1="}]')
    expect(page.locator(".findings .problem")).to_be_visible()
    line.fill('{"prompt": "1+1=", "completion": "2"}')
    expect(page.get_by_text("Valid JSON object")).to_be_visible()
    picture(page, "broken-file")
    page.get_by_role("button", name="Upload the corrected file").click()
    expect(page.locator(".facts")).to_contain_text("Ready")
    expect(page.locator(".tile", has_text="usable rows")).to_contain_text("21")

    page.get_by_role("link", name="Files").first.click()
    page.get_by_label("Choose a file").set_input_files(write_rows(tmp_path / "good.jsonl", 16, start=3))
    expect(page.locator(".facts")).to_contain_text("Ready")
    row = page.get_by_role("article", name="Row of line 1", exact=True)
    expect(row.locator(".turn")).to_have_count(1 + 1 + 3)
    expect(row.locator(".turn").nth(1).locator(".token.trained")).to_have_count(2)  # the answer, and its end
    expect(row.locator(".turn").nth(0).locator(".token.trained")).to_have_count(0)
    expect(page.get_by_role("img", name=re.compile("longest answer: median"))).to_be_visible()
    picture(page, "file-tokens")
    page.get_by_role("link", name="Train on this file").click()
    page.get_by_label("Grader template").select_option(label="Text is equal")
    page.get_by_text("Expert view").click()
    expect(page.get_by_label("Grader (JSON)")).to_have_value(re.compile("{{item.reference_answer}}"))
    page.get_by_label("Grader (JSON)").fill(json.dumps(GRADER))
    page.get_by_label("teacher", exact=True).fill("2")
    page.get_by_label("self", exact=True).fill("2")
    page.get_by_label("Max steps").fill("6")
    page.get_by_label("Name (suffix)").fill("from-the-form")
    page.get_by_text("Advanced settings").click()
    page.get_by_label("Max tokens per answer").fill("8")
    page.get_by_label("Batch size").fill("4")
    page.get_by_text("Trackers", exact=True).click()
    expect(page.get_by_text("pip install 'grouptune[trackers]'")).to_be_visible()
    expect(page.get_by_label("MLflow", exact=True)).to_have_count(0)
    page.get_by_label("TensorBoard", exact=True).check()
    request = page.get_by_role("region", name="Request", exact=True).locator("pre").first
    expect(request).to_contain_text('"type": "tensorboard"')
    page.get_by_label("TensorBoard", exact=True).uncheck()
    page.get_by_text("Teacher: answers from the file only").click()
    page.get_by_label("Teacher model").fill("large")
    page.get_by_label("Server URL").fill("file:///v1")
    expect(page.get_by_label("Server URL")).to_have_accessible_description(re.compile("Must start with https://"))
    page.get_by_label("Server URL").fill("http://127.0.0.1:9/v1")
    page.get_by_label("API key for http://127.0.0.1:9").fill("sk-teacher-1234")
    page.get_by_role("button", name="Store key").click()
    page.get_by_role("button", name="Delete the key for http://127.0.0.1:9").click()
    page.get_by_role("button", name="Delete key", exact=True).click()
    expect(page.get_by_role("button", name="Delete the key for http://127.0.0.1:9")).to_have_count(0)
    page.get_by_label("Teacher model").fill("tiny")
    page.get_by_label("Server URL").fill("")
    page.get_by_label("Token budget").fill("1000")
    expect(page.get_by_text("✓ Valid.")).to_be_visible()
    expect(page.get_by_text(re.compile(r"✓ Training file: all \d+ rows are used"))).to_be_visible()
    expect(page.get_by_role("region", name="Estimate")).to_contain_text("duration")
    expect(page.get_by_text("Training signal:")).to_be_visible()
    picture(page, "new-job")
    page.get_by_role("button", name="Create job").click()

    expect(page.get_by_role("heading", name="from-the-form")).to_be_visible()
    status(page, "Succeeded")
    expect(page.get_by_role("heading", name="Reward by source")).to_be_visible()
    expect(page.locator(".chart .legend").first).to_contain_text("expert")
    picture(page, "overview")

    page.get_by_role("link", name="Groups").click()
    expect(page.locator(".group")).to_have_count(4)
    expect(page.locator(".member")).to_have_count(20)
    expect(page.locator(".steps .now")).to_have_text("Step 6")
    page.get_by_text("Lint of the file, and regrading").click()
    expect(page.get_by_text("the answers in the file differ in reward")).to_be_visible()
    other = page.get_by_role("region", name="Regrade", exact=True)
    other.get_by_text("Expert view").click()
    other.get_by_label("Grader (JSON)").fill(json.dumps({"type": "regex", "name": "any", "pattern": "^"}))
    other.get_by_role("button", name="Regrade step 6").click()
    expect(other.locator(".tile", has_text="groups without contrast").locator("strong")).to_have_text("100 %")
    expect(other.get_by_role("region", name="Comparison of grades").get_by_role("row")).to_have_count(1 + 4 * (1 + 5))
    picture(page, "regrade")
    other.get_by_label("Grader (JSON)").blur()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".steps .now")).to_have_text("Step 5")
    page.get_by_label("Which steps").select_option("all")
    page.get_by_label("Order").select_option("advantage")
    expect(page.locator(".group h2").first).to_contain_text(re.compile(r"Step \d · line \d+"))
    page.get_by_role("button", name="This line at every step").first.click()
    expect(page.get_by_text("at every step that trained on it")).to_be_visible()
    picture(page, "groups")

    page.get_by_role("link", name="Attempts").click()
    expect(page.locator(".attempt-timeline .mark")).to_have_count(1)
    page.get_by_role("link", name="Events").click()
    expect(page.get_by_text("The job has successfully completed")).to_be_visible()
    page.get_by_role("link", name="Config").click()
    expect(page.locator("tr.changed").filter(has_text="max_steps")).to_contain_text("6")
    page.get_by_role("link", name="Checkpoints").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download adapter").click()
    assert download.value.suggested_filename.endswith(".tar")
    assert download.value.path().stat().st_size > 1000

    page.get_by_role("button", name="Clone").click()
    expect(page.get_by_text("Teacher: tiny")).to_be_visible()
    expect(request).to_contain_text('"tokens": 1000')


def trainers(job: str) -> list[Process]:
    return [process for process in descendants(job) if "worker.training" in " ".join(command_line(process))]


def test_job_crash_pause_resume_cancel(
    page: Page, sign_in: SignIn, picture: Picture, client: OpenAI, long_file: str
) -> None:
    slow_start = {OWN_INTERPRETER: "yes"}  # the test sees the trainer load the model
    job = make_job(client, long_file, "to-be-cancelled", metadata=slow_start, n_epochs=50, batch_size=1)
    sign_in(page, f"/ui/jobs/{job}")
    expect(page.locator(".progress").first).to_contain_text(re.compile(r"[1-9]\d* / 50000"), timeout=120_000)
    page.get_by_role("link", name="Attempts").click()
    expect(page.locator(".attempt-timeline .mark")).to_have_count(1)
    (trainer,) = trainers(job)
    trainer.kill()
    eventually(lambda: any(other.pid != trainer.pid for other in trainers(job)))
    (second,) = (other for other in trainers(job) if other.pid != trainer.pid)
    second.suspend()
    expect(page.locator(".facts .progress")).to_contain_text("loading the model")
    second.resume()
    expect(page.locator(".attempt-timeline .mark").first).to_contain_text("⚡")
    expect(page.locator(".attempt-timeline .mark")).to_have_count(2, timeout=120_000)
    expect(page.get_by_role("row", name=re.compile("crashed.*SIGKILL"))).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    status(page, "Paused")
    page.get_by_role("button", name="Resume").click()
    status(page, "Running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel job").click()
    status(page, "Cancelled")
    expect(page.locator(".attempt-timeline .mark")).to_have_count(3)
    picture(page, "attempts")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".legend").first).to_contain_text("resumed 2 times")


def test_charts_follow_stream(page: Page, sign_in: SignIn, client: OpenAI, long_file: str) -> None:
    """Counts requests for metrics over at least ten live steps, then compares the charts with freshly loaded ones."""
    job = make_job(client, long_file, "followed", n_epochs=50)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "/metrics?" in request.url else None)
    sign_in(page, f"/ui/jobs/{job}")
    progress = page.locator(".facts .progress")
    expect(progress).to_contain_text(re.compile(r"[1-9]\d* / 12500"), timeout=120_000)
    expect(page.locator("figure.chart").first).to_be_visible()
    first = shown_step(page)
    eventually(lambda: shown_step(page) >= first + 10)
    assert len(requests) == 1, requests
    page.get_by_role("link", name="Groups").click()
    expect(page.locator(".strip")).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("figure.chart").first).to_be_visible()
    assert len(requests) == 1, requests
    client.fine_tuning.jobs.cancel(job)
    status(page, "Cancelled")
    series = client.get(f"/fine_tuning/jobs/{job}/metrics", cast_to=object)
    last = series["steps"][-1]  # type: ignore[index]
    eventually(lambda: shown_step(page) == last)
    followed = chart_labels(page)
    page.reload()
    expect(page.locator("figure.chart").first).to_be_visible()
    assert chart_labels(page) == followed


def test_compare_jobs_by_keyboard(page: Page, sign_in: SignIn, picture: Picture, succeeded: list[str]) -> None:
    assert len(succeeded) == 2
    sign_in(page)
    page.get_by_role("heading", name="Jobs", exact=True).wait_for()
    page.keyboard.press("/")
    page.keyboard.type("-run")
    expect(page.get_by_role("searchbox")).to_have_value("-run")
    expect(page.locator(".cells.job")).to_have_count(2)
    expect(page).to_have_url(re.compile("q=-run"))
    page.keyboard.press("Escape")
    for key in "jxjx":
        page.keyboard.press(key)
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_role("heading", name="Reward", exact=True)).to_be_visible()
    expect(page.locator(".results")).to_contain_text("short-run")
    expect(page.locator("tr.changed").filter(has_text="max_steps")).to_contain_text("4")
    page.get_by_label("Show equal settings too").check()
    file = page.locator(".settings tr").filter(has_text="training_file")
    expect(file.get_by_text("sha256 ")).to_have_count(2)
    expect(file).not_to_have_class("changed")
    page.get_by_label("Smoothing").fill("0.6")
    expect(page.locator(".controls output")).to_have_text("60 %")
    picture(page, "compare-two")
    page.keyboard.press("Control+k")
    page.keyboard.type("files")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Files")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard shortcuts")).to_be_visible()


def test_read_only_key(page: Page, sign_in: SignIn, client: OpenAI, succeeded: list[str]) -> None:
    body = {"name": "reader", "scopes": ["files:read", "jobs:read", "models:read"]}
    key = client.post("/api_keys", body=body, cast_to=object)["key"]  # type: ignore[index]
    sign_in(page, f"/ui/jobs/{succeeded[0]}", key)
    expect(page.get_by_role("heading", name="short-run")).to_be_visible()
    expect(page.get_by_role("button", name="Clone")).to_have_count(0)
    page.get_by_role("button", name="More").click()
    expect(page.get_by_role("link", name="Workers")).to_be_visible()
    expect(page.get_by_role("link", name="API keys")).to_have_count(0)
    page.get_by_role("link", name="Files").click()
    expect(page.get_by_role("heading", name="Files")).to_be_visible()
    expect(page.get_by_text("Choose a file")).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_log_follows_the_trainer(page: Page, sign_in: SignIn, client: OpenAI, stack: Stack, long_file: str) -> None:
    """Shows new lines without their secrets while the attempt runs, and the whole log as a file after its end."""
    job = make_job(client, long_file, "logged", n_epochs=50)
    sign_in(page, f"/ui/jobs/{job}/log")
    expect(page.get_by_text("Following …")).to_be_visible()
    with (stack.state_dir / "runs" / job / "a1" / "trainer.log").open("a") as log:
        log.write("The key gt_live_abcdefgh_0123456789 is refused\n")
    expect(page.get_by_role("log")).to_contain_text("The key [redacted] is refused")
    client.fine_tuning.jobs.cancel(job)
    expect(page.get_by_text("The attempt has ended.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"{job}-attempt-1.log"
    assert "The key [redacted] is refused\n" in download.value.path().read_text()
