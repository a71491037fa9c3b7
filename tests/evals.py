"""Evals of sums, and the worker that runs them."""

import json
from collections.abc import Sequence
from typing import Any, Final

from openai import OpenAI
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.evals import claims, records, rows, runs
from app.core.evals.runs import RunRequest
from app.core.evals.tables import EvalRun
from app.core.secrets import KeyRing
from app.core.spec.evals import CriterionResult, RowOutcome, RowSample, RowStatus, SamplerSpec
from tests.api.conftest import SECRET_KEY
from tests.api.server import Server
from worker import eval_runs
from worker.process_control import Drain

ITEM_SCHEMA: Final = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
}
EXACT: Final = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "{{item.answer}}",
}
CLOSE: Final = {
    "type": "text_similarity",
    "name": "close",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "evaluation_metric": "fuzzy_match",
    "pass_threshold": 0.5,
}
MESSAGES: Final = {"type": "template", "template": [{"role": "user", "content": "{{item.question}}"}]}


def create_eval(client: OpenAI, *criteria: Any, schema: Any = ITEM_SCHEMA, **more: Any) -> Any:
    config: Any = {"type": "custom", "item_schema": schema, "include_sample_schema": True}
    return client.evals.create(data_source_config=config, testing_criteria=criteria or (EXACT,), **more)


def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
    numbers = range(start, start + count)
    return [{"item": {"question": f"{number}+{number}=", "answer": str(2 * number)}} for number in numbers]


def answered(answers: Sequence[str]) -> list[dict[str, Any]]:
    """The sums with stored answers."""
    return [row | {"sample": {"output_text": answer}} for row, answer in zip(sums(len(answers)), answers, strict=True)]


def content(rows: Sequence[dict[str, Any]]) -> Any:
    return {"type": "file_content", "content": list(rows)}


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def created_run(session: Session, project: str, count: int, **sampler: Any) -> EvalRun:
    """Insert an eval of sums with a queued run that samples answers; no worker is notified."""
    found, digest = rows.collect(rows.of_content(sums(count), "content"), "content")
    spec = SamplerSpec.model_validate({"input_messages": MESSAGES, "model": "tiny"} | sampler)
    source = {"type": "completions", "source": {"type": "file_id", "id": "file-x"}}
    actor = Actor(project)
    config = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
    parent = records.create(session, actor, name=None, data_source_config=config, testing_criteria=[EXACT], labels=None)
    return runs.create(session, actor, "key", parent.id, RunRequest(None, None, source, spec, found, digest), 10)


def completed_run(session: Session, project: str) -> EvalRun:
    """Insert a completed run of one row, which passed."""
    run = created_run(session, project, 1)
    claim = claims.claim_next(session, 60)
    assert claim is not None
    assert claim.run_id == run.id
    result = CriterionResult(name="exact", type="string_check", passed=True, score=1.0)
    outcome = RowOutcome(number=1, status=RowStatus.passed, sample=RowSample(model="tiny"), results=(result,))
    claim = claims.store(session, claim, [outcome], 60)
    assert claim is not None
    assert claims.complete(session, claim)
    session.refresh(run)
    return run


def work(server: Server, drain: Drain | None = None) -> bool:
    """Run the next run as a worker does."""
    ring = KeyRing((SECRET_KEY,))
    return eval_runs.run_one(server.database, server.store, server.settings, ring, drain or Drain())


def upload(client: OpenAI, rows: Sequence[dict[str, Any]]) -> str:
    """Upload the rows; return the file's id."""
    return client.files.create(file=("rows.jsonl", jsonl(rows)), purpose="evals").id
