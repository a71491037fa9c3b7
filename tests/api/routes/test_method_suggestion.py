"""The suggested methods of a file, over HTTP."""

import json
from typing import Any

from openai import OpenAI

from tests.api.routes.test_file_preview import uploaded
from tests.api.server import Server

ALWAYS_WRONG = {
    "type": "string_check",
    "name": "no",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "?",
}
JUDGE = {"type": "score_model", "model": "judge", "input": [{"role": "user", "content": "{{sample.output_text}}"}]}


def suggestion(client: OpenAI, file_id: str, **body: Any) -> Any:
    return client.post(f"/files/{file_id}/suggested_method", body=body, cast_to=object)


def ranked(found: Any) -> list[tuple[str, str]]:
    return [(one["method"], one["demonstrations"]) for one in found["suggestions"]]


def test_methods_follow_the_grades(server: Server, client: OpenAI) -> None:
    """The suggested grader finds the wrong demonstrations; another grader gives another suggestion."""
    rows = [{"prompt": f"{n}+1=", "completion": str(n + 1 + (n % 4 == 0)), "answer": n + 1} for n in range(40)]
    file_id = uploaded(server, client, "".join(json.dumps(row) + "\n" for row in rows).encode())
    found = suggestion(client, file_id)
    assert ranked(found) == [("supervised", "graded"), ("gft", "all")]
    assert found["suggestions"][0]["reason"].startswith("25% of the graded demonstrations fail the grader")
    assert (found["grader"]["type"], found["graded"]) == ("math", "all 40 rows")
    assert found["offer"].startswith("10 of 40 demonstrations do not pass the grader.")
    wrong = suggestion(client, file_id, grader=ALWAYS_WRONG)
    assert ranked(wrong) == [("gft", "all")]
    assert "check the grader first" in wrong["suggestions"][0]["reason"]
    judged = suggestion(client, file_id, grader=JUDGE)
    assert (ranked(judged)[0], judged["graded"]) == (("supervised", "all"), None)
    assert "are not graded" in judged["suggestions"][0]["reason"]


def test_several_valid_answers_suggest_groups(server: Server, client: OpenAI) -> None:
    row = {
        "prompt": "A number?",
        "completion": "It is 4",
        "teacher_responses": ["Four, that is 4", "it is 4"],
        "answer": 4,
    }
    file_id = uploaded(server, client, (json.dumps(row) + "\n").encode() * 30)
    found = suggestion(client, file_id)
    assert ranked(found) == [("gft", "all"), ("supervised", "all")]
    assert found["suggestions"][0]["reason"].startswith("100% of the graded rows have several different answers")


def test_file_without_grader(server: Server, client: OpenAI) -> None:
    found = suggestion(client, uploaded(server, client, b'{"prompt": "Tell me a story."}\n'))
    assert (ranked(found), found["grader"], found["offer"]) == ([("reinforcement", "all")], None, None)
    assert "Write a grader first" in found["suggestions"][0]["reason"]
