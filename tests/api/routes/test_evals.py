"""Evals and runs of stored answers with the unmodified SDK; `tests/api/test_eval_runs.py` samples answers."""

import json
import re
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError
from pydantic import ValidationError

from app.api.schemas.eval_runs import FileContent
from tests.api.server import Server, lenient_and_strict, new_key, new_project
from tests.evals import CLOSE, EXACT, ITEM_SCHEMA, MESSAGES, answered, content, create_eval, sums, upload, work
from tests.http_server import Reply, http_server
from worker.eval_runs import AT_ONCE, OUTAGE_ROWS


def retrieved(client: OpenAI, run: Any) -> Any:
    return client.evals.runs.retrieve(run.id, eval_id=run.eval_id)


def refused(call: Any) -> tuple[str | None, str]:
    with pytest.raises(BadRequestError) as caught:
        call()
    return caught.value.param, str(caught.value)


@lenient_and_strict
def test_eval_is_created_changed_and_deleted(client: OpenAI) -> None:
    created = create_eval(client, EXACT, CLOSE, name="sums", metadata={"team": "a"})
    assert created.id.startswith("eval_")
    assert (created.object, created.name, created.metadata) == ("eval", "sums", {"team": "a"})
    assert created.data_source_config.type == "custom"
    assert created.data_source_config.schema_["properties"]["item"] == ITEM_SCHEMA
    assert [criterion.name for criterion in created.testing_criteria] == ["exact", "close"]
    assert client.evals.retrieve(created.id).to_dict() == created.to_dict()
    changed = client.evals.update(created.id, name="more sums", metadata=None)
    assert (changed.name, changed.metadata) == ("more sums", None)
    deleted = client.evals.delete(created.id)
    assert (deleted.deleted, deleted.eval_id) == (True, created.id)
    with pytest.raises(NotFoundError):
        client.evals.retrieve(created.id)


def test_evals_are_listed_in_pages(client: OpenAI) -> None:
    ids = [create_eval(client).id for _ in range(5)]
    assert [found.id for found in client.evals.list(limit=2)] == ids
    assert [found.id for found in client.evals.list(limit=2, order="desc")] == ids[::-1]
    client.evals.update(ids[0], name="x")
    assert next(iter(client.evals.list(order="desc", order_by="updated_at"))).id == ids[0]
    assert refused(lambda: client.evals.list(after="eval_x"))[0] == "after"


@lenient_and_strict
def test_stored_answers_are_graded(server: Server, client: OpenAI) -> None:
    created = create_eval(client, EXACT, CLOSE)
    source: Any = {"type": "jsonl", "source": content(answered(["0", "2", "5", "60"]))}
    run: Any = client.evals.runs.create(created.id, data_source=source, name="stored", metadata={"a": "b"})
    assert (run.object, run.status, run.name, run.metadata) == ("eval.run", "queued", "stored", {"a": "b"})
    assert run.report_url == f"{server.url}/ui/evals/{created.id}/runs/{run.id}"
    assert work(server)
    run = retrieved(client, run)
    assert run.status == "completed"
    counts = run.result_counts
    assert (counts.total, counts.passed, counts.failed, counts.errored) == (4, 2, 2, 0)
    assert [(each.testing_criteria, each.passed, each.failed) for each in run.per_testing_criteria_results] == [
        ("exact", 2, 2),
        ("close", 3, 1),
    ]
    assert run.data_source.source.content[3].item["answer"] == "6"
    items = list(client.evals.runs.output_items.list(run.id, eval_id=created.id, limit=3))
    assert [item.status for item in items] == ["pass", "pass", "fail", "fail"]
    assert [item.datasource_item_id for item in items] == [1, 2, 3, 4]
    assert items[3].sample.output[0].content == "60"
    assert [(result.name, result.passed, result.type) for result in items[3].results] == [
        ("exact", False, "string_check"),
        ("close", True, "text_similarity"),
    ]
    again = client.evals.runs.output_items.retrieve(items[3].id, eval_id=created.id, run_id=run.id)
    assert again.to_dict() == items[3].to_dict()
    failed = client.evals.runs.output_items.list(run.id, eval_id=created.id, status="fail", order="desc")
    assert [item.datasource_item_id for item in failed] == [4, 3]
    page = client.evals.runs.list(created.id, status="completed", order="desc")
    assert [found.id for found in page] == [run.id]
    deleted = client.evals.runs.delete(run.id, eval_id=created.id)
    assert (deleted.deleted, deleted.run_id) == (True, run.id)
    assert list(client.evals.runs.list(created.id)) == []


def test_rows_of_a_file_and_grader_errors(server: Server, client: OpenAI) -> None:
    """An answer that cannot be graded is errored, never failed."""
    fragile = {
        "type": "python",
        "name": "half",
        "source": "def grade(sample, item):\n    return 1 / int(item['answer'])",
    }
    created = create_eval(client, EXACT, fragile)
    source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": upload(client, answered(["0", "2", "3"]))}}
    run: Any = client.evals.runs.create(created.id, data_source=source)
    assert work(server)
    run = retrieved(client, run)
    counts = run.result_counts
    assert (counts.total, counts.passed, counts.failed, counts.errored) == (3, 0, 2, 1)
    [item] = client.get(f"/evals/{created.id}/runs/{run.id}/output_items?status=error", cast_to=object)["data"]  # type: ignore[index]
    assert [result["score"] for result in item["results"]] == [1.0, None]
    assert "ZeroDivisionError" in item["results"][1]["error"]


def test_runs_are_compared_in_pairs(server: Server, client: OpenAI) -> None:
    created = create_eval(client)

    def run(*answers: str, rows: Any = None) -> str:
        source: Any = {"type": "jsonl", "source": content(rows or answered(answers))}
        found = client.evals.runs.create(created.id, data_source=source)
        assert work(server)
        return found.id

    def compare(run_id: str, baseline: str) -> Any:
        path = f"/evals/{created.id}/runs/{run_id}/comparison/{baseline}"
        return client.get(path, cast_to=object)

    before, after = run("0", "x", "x", "x", "8"), run("0", "2", "4", "6", "x")
    found = compare(after, before)
    rate = found["pass_rate"]
    assert (rate["baseline"], rate["run"], rate["rows"]) == (0.4, 0.8, 5)
    assert rate["difference"] == pytest.approx(0.4)
    assert rate["low"] < 0
    assert rate["high"] == 1  # not beyond the largest possible difference
    assert (found["gained"], found["lost"], found["errored_rows"]) == (3, 1, 0)
    assert [row["datasource_item_id"] for row in found["changed"]] == [2, 3, 4, 5]
    [exact] = found["criteria"]
    assert (exact["name"], exact["difference"], exact["low"]) == ("exact", rate["difference"], rate["low"])

    other = run(rows=answered(["0", "2", "4", "6", "8"])[::-1])
    param, message = refused(lambda: compare(after, other))
    assert param == "baseline_id"
    assert "different rows" in message
    waiting = client.evals.runs.create(created.id, data_source={"type": "jsonl", "source": content(answered("0"))})
    for pair, at_fault in (((after, waiting.id), "baseline_id"), ((waiting.id, after), "run_id")):
        param, message = refused(lambda pair=pair: compare(*pair))
        assert param == at_fault
        assert "Only completed runs" in message


@pytest.mark.parametrize(
    ("rows", "status"), [(sums(40), "failed"), (sums(OUTAGE_ROWS - 1), "completed")], ids=["many", "few"]
)
def test_run_ends_in_an_outage(server: Server, client: OpenAI, rows: Any, status: str) -> None:
    """A run whose every row takes minutes of retries would keep the runs of other projects waiting for days."""
    created = create_eval(client)
    source: Any = {"type": "completions", "model": "tiny", "input_messages": MESSAGES, "source": content(rows)}
    run = client.evals.runs.create(created.id, data_source=source)
    assert work(server)  # this installation has no engine
    ended = retrieved(client, run)
    assert ended.status == status
    assert OUTAGE_ROWS - 1 <= ended.result_counts.errored <= AT_ONCE
    if status == "failed":
        assert ended.error.code == "eval_run_outage"
        assert re.match(
            r"\d+ rows in a row have no result, after retries: This server has no engine", ended.error.message
        )


def test_run_ends_while_a_reward_server_is_down(server: Server, client: OpenAI) -> None:
    with http_server(lambda _: Reply(b"", status=503)) as url:
        created = create_eval(client, {"type": "endpoint", "name": "far", "url": url})
        source: Any = {"type": "jsonl", "source": content(answered(["0"] * 40))}
        run = client.evals.runs.create(created.id, data_source=source)
        assert work(server)
    ended = retrieved(client, run)
    assert (ended.status, ended.error.code) == ("failed", "eval_run_outage")
    assert "503" in ended.error.message


def test_canceled_run_stays_canceled(server: Server, client: OpenAI) -> None:
    created = create_eval(client)
    run = client.evals.runs.create(created.id, data_source={"type": "jsonl", "source": content(answered("0"))})
    canceled = client.evals.runs.cancel(run.id, eval_id=created.id)
    assert canceled.status == "canceled"
    assert not work(server)
    assert client.post(f"/evals/{created.id}/runs/{run.id}", cast_to=object)["status"] == "canceled"  # type: ignore[index]


@pytest.mark.parametrize(
    ("criteria", "schema", "param", "words"),
    [
        ([EXACT | {"reference": "{{item.result}}"}], ITEM_SCHEMA, "testing_criteria.0.reference", "item.result"),
        ([EXACT], {"type": "object", "additionalProperties": False}, "testing_criteria.0.reference", "item.answer"),
        ([EXACT, EXACT], ITEM_SCHEMA, "testing_criteria.1.name", "name of its own"),
        ([EXACT | {"operation": "is"}], ITEM_SCHEMA, "testing_criteria.0.operation", "'eq'"),
        ([EXACT], {"type": "thing"}, "data_source_config.item_schema", "is not a JSON schema"),
        ([{"type": "label_model", "name": "l", "model": "j", "input": [{"role": "user", "content": "x"}],
           "labels": ["a", "b"], "passing_labels": ["a"]}], ITEM_SCHEMA, "testing_criteria.0", "GROUPTUNE_JUDGE_URL"),
    ],
)  # fmt: skip
def test_bad_eval_is_refused(client: OpenAI, criteria: Any, schema: Any, param: str, words: str) -> None:
    found, message = refused(lambda: create_eval(client, *criteria, schema=schema))
    assert found == param
    assert words in message


def test_data_sources_of_stored_completions_are_refused(client: OpenAI) -> None:
    config: Any = {"type": "logs", "metadata": {}}
    param, message = refused(lambda: client.evals.create(data_source_config=config, testing_criteria=[EXACT]))  # type: ignore[list-item]
    assert param == "data_source_config.type"
    assert "stores no completions" in message
    created = create_eval(client)
    source: Any = {"type": "responses", "source": content(sums(1)), "model": "tiny"}
    param, message = refused(lambda: client.evals.runs.create(created.id, data_source=source))
    assert param == "data_source.type"
    assert "'completions'" in message
    source = {"type": "completions", "source": {"type": "stored_completions"}, "model": "tiny"}
    param, message = refused(lambda: client.evals.runs.create(created.id, data_source=source))
    assert param == "data_source.source.type"


SAMPLED: Any = {"type": "completions", "model": "tiny", "input_messages": MESSAGES}


@pytest.mark.parametrize(
    ("source", "rows", "param", "words"),
    [
        ({"type": "jsonl"}, sums(2), "data_source.source", "Row 1: the row has no `sample`"),
        ({"type": "jsonl"}, [{"item": {"question": "x"}}], "data_source.source.content.0.item", "`item.answer`"),
        (
            {"type": "jsonl"},
            [*answered(["0"]), {"item": {"question": 1, "answer": "2"}, "sample": {"output_text": "2"}}],
            "data_source.source.content.1.item",
            "`item.question` does not match",
        ),
        (SAMPLED | {"model": "nothing"}, sums(1), "data_source.model", "does not exist"),
        (SAMPLED | {"base_url": "http://10.0.0.1/v1"}, sums(1), "data_source.base_url", "10.0.0.1"),
        (SAMPLED, answered(["0"]), "data_source.source.content.0.item", "this run samples answers"),
        (
            SAMPLED
            | {"input_messages": {"type": "template", "template": [{"role": "user", "content": "{{item.text}}"}]}},
            sums(1),
            "data_source.source.content.0.item",
            "'data_source.input_messages.template.0.content' reads it",
        ),
        (
            SAMPLED | {"input_messages": {"type": "item_reference", "item_reference": "item.messages"}},
            sums(1),
            "data_source.source.content.0.item",
            "`item.messages`",
        ),
        ({"type": "completions", "model": "tiny"}, sums(1), "data_source.input_messages", "not a row of a training"),
        (
            SAMPLED | {"sampling_params": {"reasoning_effort": "low"}},
            sums(1),
            "data_source.sampling_params.reasoning_effort",
            "does not read",
        ),
        (SAMPLED | {"sampling_params": {"temperature": 3}}, sums(1), "data_source.sampling_params.temperature", "2"),
    ],
)
def test_bad_run_is_refused(client: OpenAI, source: Any, rows: Any, param: str, words: str) -> None:
    created = create_eval(client)
    body: Any = source | {"source": content(rows)}
    found, message = refused(lambda: client.evals.runs.create(created.id, data_source=body))
    assert words in message
    assert found == param
    assert list(client.evals.runs.list(created.id)) == []


@pytest.mark.parametrize("row", ['{"item": {"x": [1e999]}}', '{"item": {}, "sample": {"score": NaN}}'])
def test_numbers_beyond_json_are_refused(row: str) -> None:
    """As the server reads a body: with Python's reader."""
    with pytest.raises(ValidationError, match="a number that JSON cannot express"):
        FileContent.model_validate({"type": "file_content", "content": [json.loads(row)]})


def test_deeply_nested_bodies_are_refused(client: OpenAI) -> None:
    """Deeper ones cannot be written to the database or to a response."""
    deep: Any = {}
    for _ in range(300):
        deep = {"properties": {"x": deep}}
    nested = {"question": "1", "answer": "2", "x": deep["properties"]}
    source: Any = {"type": "jsonl", "source": content([{"item": nested, "sample": {"output_text": "2"}}])}
    created = create_eval(client)
    param, message = refused(lambda: client.evals.runs.create(created.id, data_source=source))
    assert param == "data_source.source.content.0.item"
    assert "more than 31 deep" in message
    param, message = refused(lambda: create_eval(client, {"type": "json_schema", "name": "x", "schema": deep}))
    assert param == "testing_criteria.0.schema"
    assert "more than 100 deep" in message
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
    sampled: Any = {"type": "completions", "model": "tiny", "input_messages": MESSAGES, "source": content(sums(1))}
    sampled["sampling_params"] = {"response_format": form}
    param, message = refused(lambda: client.evals.runs.create(created.id, data_source=sampled))
    assert "more than 100 deep" in message


def test_bad_line_of_a_file_is_named(client: OpenAI) -> None:
    created = create_eval(client)
    good = answered(["0", "2"])
    for line, words in (
        ({"item": {"question": "x"}}, "Line 3: the item has no field `item.answer`"),
        ({"item": {"question": "x", "answer": "y"}, "note": 1}, "Line 3: `note` stands next to `item`"),
        (["x"], "Line 3"),
    ):
        file = upload(client, [*good, line])  # type: ignore[list-item]
        source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": file}}
        param, message = refused(lambda source=source: client.evals.runs.create(created.id, data_source=source))
        assert param == "data_source.source"
        assert words in message
    source = {"type": "jsonl", "source": {"type": "file_id", "id": "file-x"}}
    assert refused(lambda: client.evals.runs.create(created.id, data_source=source))[0] == "data_source.source.id"


def test_large_content_is_left_out_of_the_run(client: OpenAI) -> None:
    created = create_eval(client)
    rows = [{"item": {"question": "x" * 1000, "answer": "x"}, "sample": {"output_text": "x"}}] * 300
    source: Any = {"type": "jsonl", "source": content(rows)}
    run: Any = client.evals.runs.create(created.id, data_source=source)
    assert (run.rows, run.data_source.source.content) == (300, [])
    assert retrieved(client, run).data_source.source.content == []


def test_runs_count_towards_quotas(server: Server, client: OpenAI) -> None:
    admin = server.client(api_key=new_key(server.database, server.project_id, "admin"))
    created = create_eval(client)
    source: Any = {"type": "jsonl", "source": content(answered("0"))}
    client.evals.runs.create(created.id, data_source=source)
    usage: Any = admin.get(f"/projects/{server.project_id}", cast_to=object)
    rows = usage["usage"]["stored_bytes"]
    assert rows > 0
    assert work(server)
    usage = admin.get(f"/projects/{server.project_id}", cast_to=object)
    assert usage["usage"]["stored_bytes"] > rows + len("exact"), "answers and results count too"
    client.evals.runs.create(created.id, data_source=source)
    admin.post(f"/projects/{server.project_id}", body={"limits": {"queued_jobs": 1}}, cast_to=object)
    with pytest.raises(RateLimitError, match="1 unfinished eval run; its limit is 1"):
        client.evals.runs.create(created.id, data_source=source)
    limits = {"limits": {"queued_jobs": 9, "inference_requests": 0}}
    admin.post(f"/projects/{server.project_id}", body=limits, cast_to=object)
    with pytest.raises(RateLimitError, match="inference_requests is 0"):
        client.evals.runs.create(created.id, data_source=SAMPLED | {"source": content(sums(1))})
    actions: Any = admin.get("/audit_log", cast_to=object)
    assert {"eval.create", "eval.run.create"} <= {entry["action"] for entry in actions["data"]}


def test_evals_of_other_projects_are_not_found(server: Server, client: OpenAI) -> None:
    created = create_eval(client)
    _, key = new_project(server.database, "other")
    with pytest.raises(NotFoundError):
        server.client(api_key=key).evals.retrieve(created.id)
