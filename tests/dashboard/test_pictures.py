"""`make pictures`: screenshots for README and docs, of a model that learns to add and whose trainer crashes once."""

import os
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI
from PIL import Image
from playwright.sync_api import Page, expect

from app.cli.demo.data import BASE_MODEL, demo_job, write_dataset
from app.cli.models.commands import pull
from app.cli.up import make_stack
from app.core import settings
from app.local.stack import Stack
from tests.dashboard.test_dashboard import SignIn
from tests.processes import command_line, descendants
from tests.waiting import eventually

pytestmark = [pytest.mark.pictures, pytest.mark.timeout(3600)]

SEED: Final = 7
STEPS: Final = 16
WIDTH: Final = 1360
COLOURS: Final = 128
MAX_BYTES: Final = 200_000
PATIENCE_MS: Final = 30 * 60_000.0
GRADER: Final = {
    "type": "multi",
    "name": "sums",
    "graders": {
        "right": {"type": "math", "name": "right", "reference": "{{item.reference_answer}}", "answer": "last_number"},
        "form": {"type": "regex", "name": "form", "pattern": r"^\d+ \+ \d+ = \d+\.$"},
    },
    "calculate_output": "0.9 * right + 0.1 * form",
}


@pytest.fixture(scope="module")
def stack(short_dir: Path) -> Iterator[Stack]:
    """An installation with the base model of `make demo`."""
    pull(BASE_MODEL, settings.load().models_dir, print)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LEASE": "6", "HEARTBEAT": "1", "FENCE": "4.5", "SWEEP": "1.5"}.items():
            patch.setenv(f"GROUPTUNE_{name}_SECONDS", value)
        with make_stack(short_dir / "pictures", "127.0.0.1", 0, print) as running:
            yield running


def job_body(train: str, held_out: str) -> dict[str, Any]:
    """Returns the demo's job with a two-part grader, more evaluations, a gate and an alias."""
    body = demo_job(train, held_out, SEED)
    method = body["method"]["gft"] | {"grader": GRADER}
    intervals = {"eval_interval": 4, "checkpoint_interval": 4}
    method["hyperparameters"] |= {"max_steps": STEPS, "eval_samples": 48, "learning_rate_multiplier": 45} | intervals
    whole = {"type": "gft", "gft": method}
    return body | {"suffix": "two-digit-sums", "method": whole, "gates": ["eval/accuracy >= 0.3"], "alias": "adder"}


@pytest.fixture(scope="module")
def job(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the job, which has just started."""
    train, held_out = (tmp_path_factory.mktemp("sums") / f"arithmetic.{part}.jsonl" for part in ("train", "heldout"))
    write_dataset(train, held_out, seed=SEED)
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as client:
        files = [client.files.create(file=path, purpose="fine-tune").id for path in (train, held_out)]
        eventually(lambda: all(client.files.retrieve(file).status == "processed" for file in files), 120.0)
        made = client.post("/fine_tuning/jobs", body=job_body(files[0], files[1]), cast_to=object)
    return made["id"]  # type: ignore[index, no-any-return]


def take(page: Page, name: str, height: int) -> None:
    """Saves a screenshot of the top of a page in the directory `GROUPTUNE_PICTURES`."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    expect(page.locator(".loading")).to_have_count(0)
    page.wait_for_load_state("networkidle")
    page.mouse.move(0, 0)
    path = Path(os.environ["GROUPTUNE_PICTURES"]) / f"{name}.png"
    with Image.open(BytesIO(page.screenshot(animations="disabled"))) as shot:
        shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES


def test_model_learns_despite_crash(page: Page, sign_in: SignIn, root: str, job: str) -> None:
    sign_in(page, f"/ui/jobs/{job}/attempts")
    progress = page.locator(".facts .progress")
    expect(progress).to_contain_text(re.compile(rf"1[0-3] / {STEPS}"), timeout=PATIENCE_MS)
    (trainer,) = (process for process in descendants(job) if "worker.training" in " ".join(command_line(process)))
    trainer.kill()
    expect(page.locator(".facts .pill").first).to_contain_text("Succeeded", timeout=PATIENCE_MS)
    expect(page.get_by_role("row", name=re.compile("crashed.*SIGKILL"))).to_be_visible()
    expect(page.locator(".gates")).to_contain_text("gate passed")
    take(page, "attempts", 830)

    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".tile", has_text="held-out accuracy")).to_contain_text("✓ +")
    page.get_by_label("Smoothing").fill("0.5")
    take(page, "overview", 1000)

    page.goto(f"{root}/ui/jobs/{job}/groups?step=9")
    expect(page.locator(".steps .now")).to_have_text("Step 9")
    page.get_by_label("Order").select_option("advantage")
    expect(page.locator(".group").first.locator(".member")).to_have_count(8)
    take(page, "groups", 1180)
