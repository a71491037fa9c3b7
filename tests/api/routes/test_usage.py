"""`/v1/organization/usage/completions` with the official SDK, and `/v1/usage/completions` of one project."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI, PermissionDeniedError

from app.core.inference import usage
from tests.api.server import Server, new_key, new_project

DAY = datetime(2026, 11, 5, tzinfo=UTC)
START = int(DAY.timestamp())


@pytest.fixture
def admin(server: Server) -> OpenAI:
    """A client whose key may do everything, with usage of three days in two projects."""
    other, _ = new_project(server.database, "other")
    with server.database.transaction() as session:
        for days, project_id, model in ((0, server.project_id, "tiny"), (0, other, "ft:x"), (2, other, "ft:x")):
            start = DAY + timedelta(days=days, minutes=61)
            sums = {"requests": 2, "prompt_tokens": 30, "completion_tokens": 4}
            usage.add_sums(
                session, [{"start": start, "project_id": project_id, "key_id": "key", "model": model, **sums}]
            )
    key = new_key(server.database, server.project_id, "admin", "models:read")
    return server.clients.enter_context(
        OpenAI(base_url=f"{server.url}/v1", api_key=key, admin_api_key=key, max_retries=0)
    )


def asked(server: Server, admin: OpenAI, path: str, **params: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {admin.api_key}"}
    return httpx.get(f"{server.url}/v1{path}", params={"start_time": START} | params, headers=headers)


def test_usage_with_the_sdk(admin: OpenAI) -> None:
    found = admin.admin.organization.usage.completions(
        start_time=START, end_time=START + 3 * 86_400, group_by=["project_id", "model"], models=["ft:x"]
    )
    assert [(bucket.end_time - bucket.start_time, len(bucket.results)) for bucket in found.data] == [
        (86_400, 1),
        (86_400, 0),
        (86_400, 1),
    ]
    [result] = found.data[0].results
    assert result.object == "organization.usage.completions.result"
    assert (result.model, result.api_key_id) == ("ft:x", None)
    assert (result.input_tokens, result.output_tokens, result.num_model_requests) == (30, 4, 2)
    assert (found.has_more, found.next_page) == (False, None)


def test_usage_pages_cover_the_range(server: Server, admin: OpenAI) -> None:
    seen: list[dict[str, Any]] = []
    page: dict[str, Any] = {}
    while not seen or page["page"]:
        found = asked(
            server,
            admin,
            "/organization/usage/completions",
            start_time=START + 1800,
            end_time=START + 3 * 86_400,
            limit=2,
            **page,
        ).json()
        seen += found["data"]
        assert found["has_more"] == (found["next_page"] is not None)
        page = {"page": found["next_page"]}
    assert [bucket["start_time"] for bucket in seen] == [START + 1800, START + 86_400, START + 2 * 86_400]
    assert [sum(result["num_model_requests"] for result in bucket["results"]) for bucket in seen] == [4, 0, 2]


def test_own_usage_excludes_other_projects(server: Server, admin: OpenAI) -> None:
    found = asked(server, admin, "/usage/completions", bucket_width="1h", group_by="model", limit=2).json()
    assert found["data"][0]["results"] == []
    [result] = found["data"][1]["results"]
    assert (result["model"], result["num_model_requests"]) == ("tiny", 2)
    refused = asked(server, admin, "/usage/completions", project_ids="proj_other")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "project_ids")


def test_organization_usage_needs_admin(server: Server) -> None:
    client = server.clients.enter_context(
        OpenAI(base_url=f"{server.url}/v1", api_key="x", admin_api_key=server.api_key, max_retries=0)
    )
    with pytest.raises(PermissionDeniedError):
        client.admin.organization.usage.completions(start_time=START)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"end_time": START}, "end_time"),
        ({"limit": 32}, "limit"),
        ({"bucket_width": "2d"}, "bucket_width"),
        ({"page": "7"}, "page"),
        ({"page": "page_999999999999"}, "page"),
        ({"end_time": 253_402_300_799}, "end_time"),
        ({"user_ids": "me"}, "user_ids"),
        ({"group_by[]": "user_id"}, "group_by[].0"),
    ],
)
def test_wrong_query_is_refused(server: Server, admin: OpenAI, params: dict[str, Any], param: str) -> None:
    refused = asked(server, admin, "/organization/usage/completions", **params)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_sdk_reports_a_missing_group(admin: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="batch"):
        admin.admin.organization.usage.completions(start_time=START, batch=True)
