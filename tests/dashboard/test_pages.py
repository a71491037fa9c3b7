"""Every page in both themes and two widths, checked by axe and captured in screenshots."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect
from sqlalchemy import select

from app.core.accounts.tables import ApiKey
from app.core.db import Database
from app.core.inference import usage
from app.local.stack import Stack
from tests.api.jobs import broken_at_17, gft
from tests.dashboard.test_dashboard import Picture, SignIn
from tests.evals import CLOSE, EXACT, answered, content, create_eval
from tests.tiny_model import write_rows
from tests.waiting import eventually

AXE: Final = Path(__file__).parents[2] / "app/dashboard/node_modules/axe-core/axe.min.js"
BOOTSTRAP: Final = "bootstrap"
"""Name of the key that `grouptune up` makes."""
WIDE: Final = {"width": 1280, "height": 900}
NARROWEST_WIDE: Final = {"width": 1200, "height": 900}
"""From this width up, the header has one row."""
PHONE: Final = {"width": 390, "height": 844}
ONE_ROW: Final = 60
"""Greatest height of the header on a wide screen, in pixels."""
TWO_ROWS: Final = 90
"""The same on a phone."""
HEADER_HEIGHT: Final = "document.querySelector('.top').offsetHeight"
"""Script that returns it."""
NARROW_CELLS: Final = """[...document.querySelectorAll("main td, main [role=cell]")]
    .filter(cell => cell.innerText.trim().length > 8 && cell.clientWidth > 0 && cell.clientWidth < 64)
    .map(cell => cell.innerText)"""
"""Script that returns the texts of table cells that have room for a few letters a line."""
PARTS: Final = {
    "right": {"type": "math", "name": "right", "reference": "{{item.reference_answer}}", "answer": "last_number"},
    "short": {"type": "regex", "name": "short", "pattern": "^.{0,3}$"},
    "alike": {
        "type": "text_similarity",
        "name": "alike",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference_answer}}",
        "evaluation_metric": "fuzzy_match",
    },
}
GRADER: Final = {
    "type": "multi",
    "name": "sums",
    "graders": PARTS,
    "calculate_output": "0.7 * right + 0.1 * short + 0.2 * alike",
}


@dataclass(frozen=True)
class Tour:
    """Ids of the objects that the pages show."""

    job: str
    model: str
    failed: str
    file: str
    broken: str
    evaluation: str
    runs: tuple[str, str]
    """Runs of the eval: with errors, and another one."""

    def pages(self) -> dict[str, str]:
        """Returns the path of each page by the name of its screenshot."""
        tabs = ("groups", "events", "checkpoints", "config", "attempts", "log")
        return {
            "jobs": "/ui/",
            "jobs-none": "/ui/?q=no-such-job",
            "overview": f"/ui/jobs/{self.job}",
            **{tab: f"/ui/jobs/{self.job}/{tab}" for tab in tabs},
            "groups-line": f"/ui/jobs/{self.job}/groups?row=3",
            "failed": f"/ui/jobs/{self.failed}",
            "compare": f"/ui/compare?ids={self.job},{self.failed}",
            "compare-none": "/ui/compare",
            "files": "/ui/files",
            "files-results": "/ui/files?show=results",
            "file": f"/ui/files/{self.file}",
            "file-broken": f"/ui/files/{self.broken}",
            "new-job": f"/ui/new?training_file={self.file}",
            "models": "/ui/models",
            "model": f"/ui/models/{quote(self.model, safe='')}",
            "evals": "/ui/evals",
            "eval": f"/ui/evals/{self.evaluation}",
            "eval-run": f"/ui/evals/{self.evaluation}/runs/{self.runs[0]}",
            "eval-comparison": f"/ui/evals/{self.evaluation}/compare?run={self.runs[1]}&baseline={self.runs[0]}",
            "new-eval": f"/ui/evals/new?file={self.file}",
            "new-eval-run": f"/ui/evals/{self.evaluation}/run",
            "playground": f"/ui/playground?model=tiny&model={quote(self.model, safe='')}&job={self.job}&row=2",
            "usage": "/ui/usage",
            "workers": "/ui/workers",
            "webhooks": "/ui/webhooks",
            "keys": "/ui/keys",
            "audit": "/ui/audit",
            "nowhere": "/ui/nowhere",
        }


@pytest.fixture(scope="module")
def tour(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    """A job with a multi-part grader, gates and an alias; a job that fails its gate; files; a webhook."""
    scratch = tmp_path_factory.mktemp("tour")
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as client:
        file = client.files.create(file=write_rows(scratch / "sums.jsonl", 32), purpose="fine-tune").id
        held_out = client.files.create(file=write_rows(scratch / "heldout.jsonl", 8, start=40), purpose="fine-tune").id
        broken = client.files.create(file=("broken.jsonl", broken_at_17()), purpose="fine-tune").id
        webhook = {"name": "chat room", "url": "http://127.0.0.1:9/", "event_types": ["fine_tuning.job.succeeded"]}
        client.post("/webhook_endpoints", body=webhook, cast_to=object)
        jobs = [
            client.fine_tuning.jobs.create(
                model="tiny",
                training_file=file,
                validation_file=held_out,
                suffix=name,
                method=gft(  # type: ignore[arg-type]
                    grader=GRADER,
                    group={"expert": 1, "teacher": 3, "self": 4},
                    sampling={"max_tokens": 8},
                    hyperparameters={
                        "batch_size": 4,
                        "max_steps": steps,
                        "eval_interval": 4,
                        "learning_rate_multiplier": 100,
                    },
                ),
                extra_body={"gates": gates, "alias": "prod"},
            ).id
            for name, steps, gates in (
                ("single-digit-sums", 16, ["eval/reward >= 0", "eval/forward_kl <= 9"]),
                ("gate-too-high", 4, ["eval/accuracy >= 1"]),
            )
        ]
        eventually(lambda: all(client.fine_tuning.jobs.retrieve(job).finished_at for job in jobs), 240.0)
        evaluation, runs = compared_runs(client)
        add_usage(stack)
        model = client.fine_tuning.jobs.retrieve(jobs[0]).fine_tuned_model or ""
        yield Tour(jobs[0], model, jobs[1], file, broken, evaluation, runs)


def compared_runs(client: OpenAI) -> tuple[str, tuple[str, str]]:
    """Run an eval on two sets of stored answers, one of which has an answer that cannot be graded; return the ids."""
    half = {
        "type": "python",
        "name": "half",
        "source": "def grade(sample, item):\n    return 1 / len(sample['output_text'])",
    }
    created = create_eval(client, EXACT, CLOSE, half, name="Sums of two numbers")
    runs = [
        client.evals.runs.create(
            created.id, name=name, data_source={"type": "jsonl", "source": content(answered(answers))}
        ).id
        for name, answers in (("before", ["0", "1", "4", "", "9"]), ("after", ["0", "2", "4", "6", "9"]))
    ]
    eventually(lambda: all(client.evals.runs.retrieve(run, eval_id=created.id).status == "completed" for run in runs))
    return created.id, (runs[0], runs[1])


def add_usage(stack: Stack) -> None:
    """Adds usage of ten models on ten days, by the installation's own key."""
    database = Database(stack.database_url)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with database.transaction() as session:
        key_id, project_id = session.execute(select(ApiKey.id, ApiKey.project_id).where(ApiKey.name == BOOTSTRAP)).one()
        rows = [
            {
                "start": today - timedelta(days=day),
                "project_id": project_id,
                "key_id": key_id,
                "model": model,
                "requests": 2 + day,
                "prompt_tokens": 100 * (day % 4),
                "completion_tokens": 60 * size,
            }
            for size, model in enumerate(("tiny", *(f"ft:tiny:default:sums:abcd123{digit}" for digit in range(9))), 1)
            for day in range(10)
        ]
        usage.add_sums(session, rows)
    database.dispose()


def settle(page: Page) -> None:
    """Waits until the page has loaded its data."""
    page.locator("main h1, main h2").first.wait_for()
    expect(page.locator(".loading")).to_have_count(0)


def violations(page: Page, *rules: str) -> list[tuple[str, ...]]:
    """Returns the serious and critical findings of axe, of all rules or of these."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(AXE.read_text())
    options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    result = page.evaluate("options => axe.run(options)", options)
    return [
        (rule["id"], rule["nodes"][0]["html"][:200], rule["nodes"][0].get("failureSummary", "")[:300])
        for rule in result["violations"]
        if rule["impact"] in ("serious", "critical")
    ]


def test_pages_are_accessible(page: Page, root: str, sign_in: SignIn, picture: Picture, tour: Tour) -> None:
    """The themes differ in their colours alone, so that the dark one is checked for contrast only."""
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    sign_in(page)
    findings: list[Any] = []
    for name, path in tour.pages().items():
        page.goto(root + path)
        settle(page)
        findings += [(path, *violation) for violation in violations(page)]
        moving = (
            "[...document.querySelectorAll('*')].filter(one => parseFloat(getComputedStyle(one).transitionDuration))"
        )
        if page.evaluate(f"{moving}.length"):
            findings.append((path, "animates although reduced motion is requested"))
        page.set_viewport_size(NARROWEST_WIDE)  # type: ignore[arg-type]
        if page.evaluate(HEADER_HEIGHT) > ONE_ROW:
            findings.append((path, "the header has more than one row"))
        page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        picture(page, f"{name}-light")
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if overflow > 0:
            findings.append((path, "wider than a phone by", overflow))
        findings += [(path, "on a phone", *violation) for violation in violations(page)]
        findings += [(path, "narrow cell", cell) for cell in page.evaluate(NARROW_CELLS)]
        if page.evaluate(HEADER_HEIGHT) > TWO_ROWS:
            findings.append((path, "the header has more than two rows"))
        picture(page, f"{name}-light-narrow")
        page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        page.get_by_role("button", name="Use dark colours").click()
        findings += [(path, "dark", *violation) for violation in violations(page, "color-contrast")]
        picture(page, f"{name}-dark")
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        picture(page, f"{name}-dark-narrow")
        page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        page.get_by_role("button", name="Use light colours").click()
    assert not findings, "\n".join(map(str, findings))


@pytest.mark.usefixtures("tour")
def test_usage_names_models_and_keys(page: Page, sign_in: SignIn) -> None:
    sign_in(page, "/ui/usage")
    expect(page.locator(".usage .legend")).to_contain_text(re.compile(r"[1-9]\d* others"))
    table = page.get_by_role("region", name="Usage")
    expect(table.get_by_role("link", name="tiny", exact=True)).to_have_attribute("href", "/ui/models/tiny")
    page.get_by_label("Group", exact=True).select_option(label="By API key")
    expect(table.get_by_text(BOOTSTRAP, exact=True)).to_be_visible()


def test_menu_of_pages_by_keyboard(page: Page, root: str, sign_in: SignIn, picture: Picture) -> None:
    page.emulate_media(color_scheme="light")
    sign_in(page)
    pages = page.get_by_role("navigation", name="Pages")
    more, webhooks = pages.get_by_role("button", name="More"), pages.get_by_role("link", name="Webhooks")
    more.focus()
    page.keyboard.press("Enter")
    expect(webhooks).to_be_visible()
    findings = violations(page)
    picture(page, "menu-light")
    page.keyboard.press("Tab")
    expect(pages.get_by_role("link", name="Workers")).to_be_focused()
    page.keyboard.press("Escape")
    expect(webhooks).to_be_hidden()
    expect(more).to_be_focused()
    page.keyboard.press("Space")
    expect(webhooks).to_be_visible()
    page.keyboard.press("Shift+Tab")  # the focus leaves the menu
    expect(webhooks).to_be_hidden()
    more.click()
    page.get_by_role("heading", name="Jobs", exact=True).click()
    expect(webhooks).to_be_hidden()
    more.click()
    webhooks.click()
    expect(page).to_have_url(f"{root}/ui/webhooks")
    expect(webhooks).to_be_hidden()
    page.get_by_role("button", name="Use dark colours").click()
    more.click()
    findings += violations(page, "color-contrast")
    picture(page, "menu-dark")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    expect(more).to_be_hidden()
    expect(webhooks).to_be_visible()
    assert not findings, "\n".join(map(str, findings))


def test_focus_is_visible(page: Page, root: str, sign_in: SignIn, tour: Tour) -> None:
    sign_in(page)
    for path in (f"/ui/jobs/{tour.job}/groups", "/ui/new"):
        page.goto(root + path)
        settle(page)
        for _ in range(30):
            page.keyboard.press("Tab")
            bare = page.evaluate(
                "(() => { const one = document.activeElement, style = getComputedStyle(one);"
                "return one !== document.body && style.outlineStyle === 'none' ? one.outerHTML.slice(0, 99) : null })()"
            )
            assert bare is None, bare


def test_theme_button_follows_the_system(page: Page, sign_in: SignIn) -> None:
    page.emulate_media(color_scheme="light")
    sign_in(page)
    expect(page.get_by_role("button", name="Use dark colours")).to_be_visible()
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Use light colours").click()
    expect(page.get_by_role("button", name="Use dark colours")).to_be_visible()
    page.emulate_media(color_scheme="light")
    page.emulate_media(color_scheme="dark")  # the choice stays
    expect(page.get_by_role("button", name="Use dark colours")).to_be_visible()
