"""Runs of the evidence, through the API of a running installation."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from app.client import Client
from bench.evidence.api import EvidenceError, Service
from bench.evidence.results import Results, about
from bench.evidence.runs import Run, perform
from bench.evidence.scenarios import MATH
from tests.waiting import eventually

ROWS = 3


@pytest.fixture
def service(stack: Any) -> Iterator[Service]:
    with (
        Client(stack.base_url, stack.api_key) as client,
        OpenAI(base_url=stack.base_url, api_key=stack.api_key) as sdk,
    ):
        yield Service(sdk, client, stack.wait, "tiny")


def test_two_methods_of_one_scenario(service: Service, tmp_path: Path) -> None:
    planned = [
        Run("biased-60", "sft-graded", 1, (1e-3,), 1, prompts=16, rows=ROWS),
        Run("biased-60", "gft", 1, (1e-3,), 1, prompts=16, rows=ROWS),
    ]
    results = Results(tmp_path / "evidence.json")
    for run in planned:
        results.add(perform(run, service), about("tiny", service.parameters, 1))
    again = Results.read(results.path)
    graded, gft = (again.of(run) for run in planned)
    assert graded is not None
    assert gft is not None
    assert 0 < graded["kept_rows"] < 16, "demonstrations that forget a carry are left out"
    assert graded["tokens"]["generated"] == 0 < graded["tokens"]["trained"]
    assert gft["tokens"]["generated"] > 0
    assert graded["flops"] == pytest.approx(4 * service.parameters * graded["tokens"]["trained"], rel=0.01)
    for result in (graded, gft):
        lengths = [len(result[name]) for name in ("validation", "test", "old")]
        assert lengths == [ROWS] * 3
        assert isinstance(result["forward_kl"], float)
    names = [model.id for model in service.sdk.models.list() if "evidence" in model.id]
    assert names == [], "a finished run leaves no model behind"


def test_failed_job_is_a_result(service: Service) -> None:
    """The tiny model samples no right answer, so GRPO has nothing to learn from, and rejection sampling no row."""
    grpo, rejection = (
        perform(Run("clean", name, 1, (1e-3,), 1, prompts=4, rows=ROWS), service) for name in ("grpo", "rejection")
    )
    assert "None of the 1 step changed the model" in grpo["failed"]
    assert rejection["failed"] == "no row is left to train on"


def test_cancelled_job_is_no_result(service: Service) -> None:
    """The failure says nothing about the method, so the next start of the benchmark performs the run again."""
    with ThreadPoolExecutor(1) as pool:
        known = {job.id for job in service.sdk.fine_tuning.jobs.list()}
        performed = pool.submit(perform, Run("clean", "sft", 1, (1e-3,), 1, prompts=4, rows=ROWS), service)
        new: list[str] = []

        def has_started() -> bool:
            new.extend(job.id for job in service.sdk.fine_tuning.jobs.list(limit=1) if job.id not in known)
            return bool(new)

        eventually(has_started)
        service.sdk.fine_tuning.jobs.cancel(new[0])
        with pytest.raises(EvidenceError, match="its status is cancelled"):
            performed.result()


def test_answer_that_cannot_be_graded_is_an_error(service: Service) -> None:
    item = {"messages": [{"role": "user", "content": "1 + 1?"}]}
    with pytest.raises(EvidenceError, match="reference_answer"):
        service.passes(dict(MATH), [(item, "2")])
