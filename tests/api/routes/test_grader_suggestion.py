"""The suggested grader of a file, over HTTP."""

from typing import Any

from openai import OpenAI

from tests.api.routes.test_file_preview import as_parquet, jsonl, uploaded
from tests.api.server import Server

ROWS = [{"prompt": f"{n}+1=", "completion": f"{n}+1={n + 1}", "answer": n + 1, "note": "x"} for n in range(5)]


def suggestion(client: OpenAI, file_id: str) -> Any:
    return client.get(f"/files/{file_id}/suggested_grader", cast_to=object)


def test_suggested_grader_is_valid(server: Server, client: OpenAI) -> None:
    found = suggestion(client, uploaded(server, client, jsonl(ROWS)))
    assert found["grader"] == {
        "type": "math",
        "name": "answer",
        "reference": "{{item.answer}}",
        "answer": "last_number",
    }
    assert (found["field"], found["rows_read"]) == ("answer", 5)
    assert found["reason"].startswith("In all 5 rows read, `answer` is a number")
    client.post("/fine_tuning/alpha/graders/validate", body={"grader": found["grader"]}, cast_to=object)


def test_suggested_grader_of_a_parquet_file(server: Server, client: OpenAI) -> None:
    found = suggestion(client, uploaded(server, client, as_parquet([{"prompt": "1+1=", "completion": "2"}])))
    assert (found["grader"]["reference"], found["field"]) == ("{{item.completion}}", None)
    assert found["reason"].startswith("In the row, the demonstration is a number")


def test_field_that_a_row_lacks_is_not_suggested(server: Server, client: OpenAI) -> None:
    found = suggestion(client, uploaded(server, client, jsonl([*ROWS, {"prompt": "?"}])))
    assert (found["grader"], found["field"]) == (None, None)
    assert "No row has a field" in found["reason"]
