"""A job with a control: the form, the sentence and the overlaid charts."""

import re
from pathlib import Path
from typing import Any

from openai import OpenAI
from playwright.sync_api import Page, expect

from tests.api.jobs import gft
from tests.dashboard.test_charts import chart
from tests.dashboard.test_dashboard import Picture, SignIn, upload
from tests.waiting import eventually


def test_job_with_a_control(
    page: Page, root: str, sign_in: SignIn, picture: Picture, client: OpenAI, tmp_path: Path
) -> None:
    training, held_out = (upload(client, tmp_path / f"{rows}.jsonl", rows) for rows in (8, 12))
    method: Any = gft(
        group={"expert": 1, "teacher": 1, "self": 2},
        sampling={"max_tokens": 4},
        hyperparameters={"batch_size": 4, "max_steps": 3},
    )
    files: Any = {"training_file": training, "validation_file": held_out, "extra_body": {"control": "supervised"}}
    job: Any = client.fine_tuning.jobs.create(model="tiny", suffix="sums", method=method, **files)

    sign_in(page, f"/ui/new?training_file={training}")
    page.get_by_label("Held-out file", exact=True).select_option(held_out)
    page.get_by_label("Control: compare with another method").select_option("supervised")
    expect(page.get_by_role("region", name="Request")).to_contain_text('"control": "supervised"')
    expect(page.get_by_role("region", name="Estimate")).to_contain_text("The control (supervised) trains first")
    picture(page, "new-job-control")
    page.get_by_label("Held-out file", exact=True).select_option("")
    expect(page.get_by_text("needs held-out rows: send a validation_file")).to_be_visible()

    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")
    job = client.fine_tuning.jobs.retrieve(job.id)
    page.goto(f"{root}/ui/jobs/{job.id}")
    expect(page.get_by_text(job.control["reason"], exact=True)).to_be_visible()
    expect(chart(page, "Held-out results").locator(".legend")).to_contain_text("control, held-out reward")
    expect(chart(page, "Loss").locator(".legend li")).to_have_text([re.compile("^ ?loss"), re.compile("^ ?control")])
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        picture(page, f"job-control-{scheme}")
    page.get_by_role("link", name="control", exact=True).click()
    expect(page.get_by_text(f"This job is the control of {job.id}")).to_be_visible()
