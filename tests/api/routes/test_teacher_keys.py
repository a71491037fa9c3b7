"""Teacher keys are stored and never shown, and a job's teacher is checked when the job is created."""

import json
import re
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from sqlalchemy import select

from app.core.accounts.tables import AuditEntry
from app.core.teachers.tables import TeacherKey
from tests.api.jobs import gft, refused
from tests.api.server import Server

CANARY = "sk-canary-0123456789"
URL = "https://93.184.216.34/v1"


def test_key_is_managed_and_never_shown(server: Server) -> None:
    client = server.client()

    def post(url: str, key: str = CANARY) -> Any:
        return client.post("/teacher_keys", body={"base_url": url, "api_key": key}, cast_to=object)

    made = post(URL)
    assert (made["object"], made["origin"], made["api_key_hint"]) == ("teacher_key", URL.removesuffix("/v1"), "...6789")
    assert post("https://93.184.216.34:443/other/", "short")["id"] == made["id"]  # the same server
    post("http://127.0.0.1:8080/v1")
    listed: Any = client.get("/teacher_keys", cast_to=object)
    assert [(key["origin"], key["api_key_hint"]) for key in listed["data"]] == [
        ("http://127.0.0.1:8080", "...6789"),
        (URL.removesuffix("/v1"), "..."),
    ]
    with server.database.transaction() as session:
        assert all(CANARY.encode() not in key.secret for key in session.scalars(select(TeacherKey)))
    with server.database.transaction() as session:
        log = [(entry.action, entry.before, entry.after) for entry in session.scalars(select(AuditEntry))]
    assert [action for action, _, _ in log] == ["teacher_key.set"] * 3
    assert CANARY not in json.dumps([made, listed, log])
    client.delete(f"/teacher_keys/{made['id']}", cast_to=object)
    left: Any = client.get("/teacher_keys", cast_to=object)
    assert len(left["data"]) == 1
    for url, message in (("https://10.0.0.1/v1", "Only the operator"), ("https://u:p@x.example/v1", "set-key")):
        with pytest.raises(BadRequestError, match=message) as caught:
            post(url)
        assert caught.value.param == "base_url"


@pytest.mark.parametrize(
    ("teacher", "param", "message"),
    [
        ({"model": "gpt-9"}, "teacher.model", "not a base model of this server.*GROUPTUNE_TEACHER_URL.*tiny"),
        ({"model": "m", "base_url": "https://10.0.0.1/v1"}, "teacher.base_url", "a private address"),
        ({"model": "m", "base_url": "http://93.184.216.34/v1"}, "teacher.base_url", "https://"),
        ({"model": "m", "base_url": "https://x.example/v1?key=1"}, "teacher.base_url", "without . or #"),
        ({"model": "m", "base_url": "https://sk:x@x.example/v1"}, "teacher.base_url", "user or password"),
        ({"model": "m", "budget": {"tokens": 0}}, "teacher.budget.tokens", "greater than or equal to 1"),
        ({"model": "m", "api_key": "sk"}, "teacher.api_key", ""),
        ({}, "teacher.model", "missing"),
    ],
)
def test_unreachable_teacher_is_refused(
    server: Server, training_file: str, teacher: Any, param: str, message: str
) -> None:
    error = refused(server.client(), training_file, gft(teacher=teacher))
    assert error.param == f"method.gft.{param}"
    assert re.search(message, str(error)), str(error)


def test_unused_teacher_is_refused(server: Server, training_file: str) -> None:
    method = gft(group={"teacher": 0, "self": 4}, teacher={"model": "tiny"})
    error = refused(server.client(), training_file, method)
    assert error.param == "method.gft.teacher"
    assert "set group.teacher to at least 1" in str(error)


@pytest.mark.parametrize("teacher", [{"model": "tiny"}, {"model": "m", "base_url": URL + "/"}])
def test_teacher_gets_its_defaults(client: OpenAI, training_file: str, teacher: dict[str, Any]) -> None:
    method: Any = gft(teacher=teacher | {"budget": {"tokens": 1000}})
    job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file, method=method)
    assert job.method is not None
    sent: Any = job.method.to_dict()
    kept = sent["gft"]["teacher"]
    assert kept == {**teacher, **({"base_url": URL} if "base_url" in teacher else {}), "budget": {"tokens": 1000}}
