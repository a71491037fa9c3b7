"""Regrading stored groups over HTTP."""

from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from app.core.jobs import leases
from app.core.jobs.journal import Journal, JournalEntry
from app.core.spec.reports import GroupRecord, Groups, MemberRecord, Source
from tests.api.jobs import GRADER
from tests.api.server import Server
from tests.setup_jobs import make_job, stored_file

CONTAINS = GRADER | {"operation": "like"}
ANSWERS = ((Source.expert, "{0}", 1.0, 1.0), (Source.teacher, "it is {0}", 0.0, -0.5), (Source.self, "?", 0.0, -0.5))


def member(source: Source, text: str, reward: float, advantage: float) -> MemberRecord:
    values = {"tokens": 1, "rectified_frac": None, "mean_p": None, "finished": True}
    return MemberRecord.model_validate(
        values | {"source": source, "text": text, "reward": reward, "advantage": advantage}
    )


@pytest.fixture
def trained(server: Server, tmp_path: Path) -> str:
    """Store ten steps of two groups on eight rows: `a+0=`, whose answer is `a`."""
    with server.database.transaction() as session:
        file = stored_file(session, server.store, server.project_id, tmp_path)
        job = make_job(session, server.project_id, file=file)
        claim = leases.claim(session, "w", 60)
    assert claim is not None
    for step in range(1, 11):
        records = [
            GroupRecord(
                idx=idx,
                row=row,
                prompt=f"{row - 1}+0=",
                members=tuple(member(who, text.format(row - 1), *numbers) for who, text, *numbers in ANSWERS),
                zero_variance=False,
            )
            for idx, row in enumerate((1 + step % 8, 8))
        ]
        Journal(server.database, claim).record([JournalEntry(Groups(step=step, groups=tuple(records)))])
    return job.id


def regrade(client: OpenAI, job_id: str, **body: Any) -> Any:
    return client.post(f"/fine_tuning/jobs/{job_id}/regrade", body={"grader": CONTAINS} | body, cast_to=object)


def test_groups_are_regraded_with_their_rows(client: OpenAI, trained: str) -> None:
    result = regrade(client, trained)
    assert (result["available_groups"], len(result["data"]), result["ungraded_groups"]) == (20, 20, 0)
    first = result["data"][0]
    assert (first["id"], first["step"], first["row"], first["prompt"]) == ("1-0", 1, 2, "1+0=")
    assert [member["reward_after"] for member in first["members"]] == [1.0, 1.0, 0.0]
    assert [member["reward_before"] for member in first["members"]] == [1.0, 0.0, 0.0]
    assert [round(member["advantage_after"], 3) for member in first["members"]] == [0.577, 0.577, -1.155]
    summary = result["summary"]
    assert summary["sources"]["teacher"] == {"members": 20, "before": 0.0, "after": 1.0}
    assert (summary["changed_signs"], summary["compared_advantages"]) == (20, 60)
    assert summary["rank_correlation"] == pytest.approx(0.5)


def test_groups_are_chosen_from_all_steps(client: OpenAI, trained: str) -> None:
    result = regrade(client, trained, step_from=3, step_to=6, limit=4)
    assert (result["available_groups"], [group["step"] for group in result["data"]]) == (8, [3, 4, 5, 6])
    assert regrade(client, trained, step_from=99)["summary"]["no_contrast_after"] is None


def test_ungradable_answers_are_counted(client: OpenAI, trained: str, server: Server) -> None:
    broken = {"type": "python", "source": "def grade(sample, item):\n    return 1 / len(sample['output_text'][1:])\n"}
    result = regrade(client, trained, grader=broken, step_to=2)
    assert (result["summary"]["errors_after"], result["summary"]["errors_before"]) == (8, 0)
    assert [member["reward_after"] for member in result["data"][0]["members"]] == [None, pytest.approx(1 / 6), None]
    assert "ZeroDivisionError" in result["summary"]["error_samples"][0]
    with pytest.raises(BadRequestError) as caught:
        regrade(client, trained, grader={"type": "math", "reference": "{{item.nope}}"})
    assert (caught.value.param, caught.value.code) == ("grader.reference", "missing_item_field")
    judge = {"type": "score_model", "model": "judge", "input": [{"role": "user", "content": "{{sample.output_text}}"}]}
    with pytest.raises(BadRequestError) as caught:
        regrade(client, trained, grader=judge)
    assert (caught.value.param, caught.value.code) == ("grader", "judge_not_configured")
