"""Metric series and groups of a job, through the official SDK."""

import csv
import math
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from sqlalchemy import text

from app.core.jobs import metric_series
from app.core.jobs.tables import Group, Metric
from tests.api.server import Server
from tests.setup_jobs import make_job

STEPS = 5000
PEAK, PIT = 1234, 4321


@pytest.fixture
def job(server: Server) -> str:
    with server.database.transaction() as session:
        return make_job(session, server.project_id).id


@pytest.fixture
def long_job(server: Server, job: str) -> str:
    """A sine of 5,000 steps with one peak and one pit of one step each; every tenth step is evaluated."""
    series = """
        INSERT INTO metrics (job_id, step, values)
        SELECT :job, step, jsonb_strip_nulls(jsonb_build_object(
            'loss', CASE step WHEN :peak THEN 50 WHEN :pit THEN -50 ELSE sin(step / 100.0) END,
            'eval/loss', CASE WHEN step % 10 = 0 THEN step END))
        FROM generate_series(1, :steps) AS step
    """
    with server.database.transaction() as session:
        session.execute(text(series), {"job": job, "peak": PEAK, "pit": PIT, "steps": STEPS})
        metric_series.refresh_rollups(session, job, 1, STEPS)
    return job


def metrics(client: OpenAI, job: str, **query: Any) -> Any:
    return client.get(f"/fine_tuning/jobs/{job}/metrics", cast_to=object, options={"params": query})


def groups(client: OpenAI, job: str, **query: Any) -> Any:
    return client.get(f"/fine_tuning/jobs/{job}/groups", cast_to=object, options={"params": query})


@pytest.mark.parametrize("points", [10, 100, 1500])
def test_sampled_series_keeps_its_extremes(client: OpenAI, long_job: str, points: int) -> None:
    result = metrics(client, long_job, names="loss", points=points)
    assert result["is_sampled"]
    assert points / 2 <= len(result["steps"]) <= points
    assert result["steps"] == sorted(set(result["steps"]))
    assert (result["steps"][0], result["steps"][-1]) == (1, STEPS)
    by_step = dict(zip(result["steps"], result["series"]["loss"], strict=True))
    assert (by_step[PEAK], by_step[PIT]) == (50, -50)
    for step, value in by_step.items():
        assert step in (PEAK, PIT) or value == pytest.approx(math.sin(step / 100))


def test_every_requested_name_keeps_extremes(client: OpenAI, long_job: str) -> None:
    result = metrics(client, long_job, names="loss,eval/loss", points=60)
    assert {PEAK, PIT, 10, STEPS} <= set(result["steps"])
    assert len(result["steps"]) <= 60
    assert max(value for value in result["series"]["eval/loss"] if value is not None) == STEPS


def test_a_short_series_is_whole(client: OpenAI, long_job: str) -> None:
    result = metrics(client, long_job, names="loss", step_from=101, step_to=200, points=100)
    assert result["steps"] == list(range(101, 201))
    assert not result["is_sampled"]
    assert len(metrics(client, long_job)["steps"]) <= 1500


def test_unknown_metric_name_is_refused(client: OpenAI, long_job: str) -> None:
    with pytest.raises(BadRequestError, match=r"no metric 'lost'; it has: eval/loss, loss") as caught:
        metrics(client, long_job, names="loss,lost")
    assert caught.value.param == "names"
    rare = metrics(
        client, long_job, names="eval/loss", step_from=1, step_to=9
    )  # the metric exists, but not in these steps
    assert rare["series"] == {"eval/loss": [None] * 9}


def test_metrics_of_a_job_without_steps(client: OpenAI, job: str) -> None:
    assert metrics(client, job, names="loss")["steps"] == []


def test_csv_has_every_step(server: Server, long_job: str) -> None:
    client = server.client()
    path = f"/fine_tuning/jobs/{long_job}/metrics?format=csv"
    answer = client.get(path, cast_to=str)
    rows = list(csv.DictReader(answer.splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert list(rows[0]) == ["step", "eval/loss", "loss"]
    assert (rows[PEAK - 1]["loss"], rows[0]["eval/loss"]) == ("50", "")
    some = client.get(f"{path}&names=loss&step_from=7&step_to=8", cast_to=str)
    assert [line.split(",")[0] for line in some.splitlines()] == ["step", "7", "8"]


def member(source: str, reward: float | None, advantage: float | None) -> dict[str, Any]:
    return {"source": source, "text": "x", "reward": reward, "advantage": advantage}


@pytest.fixture
def grouped(server: Server, job: str) -> str:
    """Two groups at each of the steps 1 to 3."""
    records = {
        (1, 0): [member("expert", 1, 0.5), member("self", 0.2, -0.5)],
        (1, 1): [member("expert", 1, 0), member("self", 1, 0)],
        (2, 0): [member("expert", 0.1, -2.5), member("self", 0.9, 2.0)],
        (2, 1): [member("teacher", 0.4, 0.1)],
        (3, 0): [member("self", None, None)],
        (3, 1): [member("self", 0.0, -1.0), member("expert", 0.5, 1.0)],
    }
    with server.database.transaction() as session:
        for (step, idx), members in records.items():
            record = {"idx": idx, "row": step % 2 + 2 * idx, "prompt": f"{step}/{idx}", "members": members}
            session.add(Group(job_id=job, step=step, idx=idx, record=record))
        session.add(Metric(job_id=job, step=3, values={}))
    return job


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({}, ["3-0", "3-1"]),
        ({"step": 1}, ["1-0", "1-1"]),
        ({"step": 9}, []),
        ({"step_from": 2}, ["2-0", "2-1", "3-0", "3-1"]),
        ({"step_from": 1, "step_to": 2, "sort": "advantage"}, ["2-0", "1-0", "2-1", "1-1"]),
        ({"step_from": 1, "sort": "worst"}, ["3-1", "2-0", "1-0", "2-1", "1-1", "3-0"]),
        ({"step_from": 1, "sort": "best", "source": "self"}, ["1-1", "2-0", "1-0", "3-1", "3-0"]),
        ({"step_from": 1, "source": "teacher"}, ["2-1"]),
        ({"step_from": 1, "row": 1}, ["1-0", "3-0"]),
        ({"step_from": 1, "row": 3, "sort": "worst"}, ["3-1", "1-1"]),
    ],
)
def test_groups_are_filtered_and_sorted(client: OpenAI, grouped: str, query: dict[str, Any], ids: list[str]) -> None:
    result = groups(client, grouped, **query)
    assert [group["id"] for group in result["data"]] == ids
    assert result["steps"] == [1, 2, 3]
    assert all(group["prompt"] == f"{group['step']}/{group['idx']}" for group in result["data"])


@pytest.mark.parametrize("sort", ["step", "advantage", "best", "worst"])
def test_group_pages_have_no_duplicates(client: OpenAI, grouped: str, sort: str) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"step_from": 1, "sort": sort, "limit": 2}
    while True:
        page = groups(client, grouped, **query)
        seen += [group["id"] for group in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert len(seen) == len(set(seen)) == 6
    assert seen == [group["id"] for group in groups(client, grouped, step_from=1, sort=sort)["data"]]


@pytest.mark.parametrize("after", ["1-7", "9-0", "x", "1-", "1" * 30 + "-0"])
def test_unknown_group_cursor_is_refused(client: OpenAI, grouped: str, after: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        groups(client, grouped, step_from=1, after=after)
    assert caught.value.param == "after"
