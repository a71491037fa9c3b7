"""The journal writes a trainer's reports once, in order, and only for the job's owner."""

import math
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.errors import LostLease
from app.core.jobs import groups, queries
from app.core.jobs.checkpoints import StoredCheckpoint
from app.core.jobs.journal import Journal, JournalEntry
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Group, Job, JobEvent, Metric
from app.core.spec.reports import (
    Evaluated,
    GroupRecord,
    Groups,
    MemberRecord,
    Message,
    Metrics,
    Source,
    Started,
)
from app.core.spec.row_results import RowResults, RowScores

STARTED = Started(
    total_steps=60,
    resumed_from_step=0,
    batch_size=4,
    n_epochs=2,
    learning_rate=1e-4,
    learning_rate_multiplier=2.0,
)


def fetch_job(database: Database, claim: Claim) -> Job:
    with database.transaction() as session:
        return session.get_one(Job, claim.job_id)


OPENAI_FIELDS = {
    *("step", "total_steps", "train_mean_reward", "full_valid_mean_reward", "full_valid_mean_parse_error"),
    *("mean_unresponsive_rewards", "reasoning_tokens_mean", "completion_tokens_mean", "valid_reasoning_tokens_mean"),
    *("model_graders_token_usage", "scores", "usage", "errors", "timing"),
}


def test_metrics_upserted_with_openai_events(database: Database, claim: Claim) -> None:
    journal = Journal(database, claim)
    journal.record([JournalEntry(STARTED)])
    journal.metrics(
        [
            Metrics(step=2, values={"loss": 0.5}),
            Metrics(step=3, values={"loss": 0.25, "reward": 0.75, "rewards/answer/mean": 0.5}),
        ]
    )
    journal.metrics([Metrics(step=2, values={"loss": 0.4}, trained_tokens=11)])
    with database.transaction() as session:
        metrics = queries.list_metrics(session, claim.job_id)
        assert [(metric.step, metric.values["loss"]) for metric in metrics] == [(2, 0.4), (3, 0.25)]
        events, _ = queries.list_events(session, claim.job_id, after=None, limit=2)
        assert events[1].message == "Step 3/60: training loss=0.25, reward=0.75"
        assert events[1].type == "metrics"
        assert events[1].data is not None
        assert events[1].data["train_mean_reward"] == 0.75
        assert events[1].data["scores"] == {
            "train_reward_mean": 0.75,
            "valid_reward_mean": None,
            "graders": [{"name": "answer", "train_reward_mean": 0.5, "valid_reward_mean": None}],
        }
        assert set(events[1].data) >= OPENAI_FIELDS
    job = fetch_job(database, claim)
    assert (job.step, job.total_steps, job.trained_tokens) == (3, 60, 11)
    assert job.hyperparameters == {"batch_size": 4, "learning_rate_multiplier": 2.0, "n_epochs": 2}


def test_nan_and_infinity_become_null(database: Database, claim: Claim) -> None:
    values: dict[str, float | None] = {"loss": math.nan, "reward": math.inf, "x": 1.0}
    Journal(database, claim).metrics([Metrics(step=1, values=values)])
    with database.transaction() as session:
        stored = queries.list_metrics(session, claim.job_id)[0].values
        events, _ = queries.list_events(session, claim.job_id, after=None, limit=1)
    assert stored == {"loss": None, "reward": None, "x": 1.0}
    assert events[0].message == "Step 1"


def groups_of(session: Session, job_id: str, step: int) -> list[dict[str, Any]]:
    found, more = groups.page(
        session, job_id, first=step, last=step, source=None, order=groups.GroupOrder.step, after=None, limit=9
    )
    assert not more
    return found


def test_unstorable_text_is_replaced(database: Database, claim: Claim) -> None:
    bad, shown = "1\0 \ud800", "1\N{REPLACEMENT CHARACTER} ?"
    sample = {"prompt": bad, "response": bad, "reward": 0.0, "reference": bad}
    Journal(database, claim).record(
        [
            JournalEntry(
                Groups(step=1, groups=(GroupRecord(idx=0, row=1, prompt=bad, members=(), zero_variance=True),))
            ),
            JournalEntry(Evaluated(step=0, values={}, samples=(sample,), is_result=True)),
            JournalEntry(Message(message=bad, data={bad: [bad]})),
        ]
    )
    with database.transaction() as session:
        (group,) = groups_of(session, claim.job_id, step=1)
        events, _ = queries.list_events(session, claim.job_id, after=None, limit=1)
        samples = queries.evaluation_samples(session, claim.job_id)
    assert group["prompt"] == shown
    assert (events[0].message, events[0].data) == (shown, {shown: [shown]})
    assert samples["before"][0]["response"] == shown


def test_lost_lease_writes_nothing(database: Database, claim: Claim) -> None:
    with database.transaction() as session:
        before = session.scalar(select(func.count()).select_from(JobEvent))
        session.execute(update(Job).values(attempt=claim.attempt + 1))
    record = GroupRecord(idx=0, row=1, prompt="p", members=(), zero_variance=False)
    for report in (
        STARTED,
        Metrics(step=1, values={"loss": 1.0}),
        Groups(step=1, groups=(record,)),
        Message(message="m"),
        Evaluated(step=0, values={"eval/reward": 1.0}),
        StoredCheckpoint(1, "blob", {}),
    ):
        with pytest.raises(LostLease):
            Journal(database, claim).record([JournalEntry(report)])
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(JobEvent)) == before
        assert session.scalar(select(func.count()).select_from(Metric)) == 0
        assert session.scalar(select(func.count()).select_from(Group)) == 0


def test_batch_written_twice_is_stored_once(database: Database, claim: Claim) -> None:
    journal = Journal(database, claim)
    batch = [
        JournalEntry(Message(message="one")),
        JournalEntry(Metrics(step=1, values={})),
        JournalEntry(Message(message="two")),
    ]
    journal.record(batch)
    journal.record(batch)
    with database.transaction() as session:
        events, _ = queries.list_events(session, claim.job_id, after=None, limit=50)
        assert [event.message for event in events][:3] == ["two", "Step 1", "one"]
        assert [event.seq for event in events] == list(range(len(events), 0, -1))
        assert sum(event.message == "one" for event in events) == 1


def test_results_and_evaluations_are_stored(database: Database, claim: Claim) -> None:
    """Results are those of the rows that report; the history is that of the rows that select."""
    journal = Journal(database, claim)

    def evaluate(step: int, reward: float, *, is_result: bool) -> None:
        sample = {"line": 4, "prompt": "p", "response": "r", "reward": reward, "reference": "x"}
        scores = RowScores(values=(reward, reward + 0.2))
        rows = RowResults(lines=(4, 7), metrics={"eval/reward": scores}) if is_result else RowResults()
        report = Evaluated(
            step=step,
            values={"eval/reward": reward},
            samples=(sample,),
            is_result=is_result,
            rows=rows,
            selection_lines=(1, 2, 3),
        )
        journal.record([JournalEntry(report)])

    for step, reward in ((0, 0.1), (10, 0.5), (20, 0.9), (30, 0.7)):
        evaluate(step, reward, is_result=False)
        if step == 0:
            evaluate(0, 0.2, is_result=True)
    evaluate(20, 0.6, is_result=True)
    job = fetch_job(database, claim)
    evaluation = job.evaluation
    assert evaluation is not None
    assert (evaluation["before"]["step"], evaluation["after"]["step"]) == (0, 20)
    assert evaluation["selection_rows"] == 3
    assert evaluation["after"]["rows"] == 2
    assert evaluation["after"]["intervals"]["eval/reward"] == pytest.approx([0.7 - 1.27062, 0.7 + 1.27062])
    with database.transaction() as session:
        samples = queries.evaluation_samples(session, claim.job_id)
        rows = session.get_one(Job, claim.job_id).evaluation_rows
        events, _ = queries.list_events(session, claim.job_id, after=None, limit=1)
    assert samples.pop("lines") == {"selection": [1, 2, 3], "reporting": [4, 7]}
    assert {part: answers[0]["reward"] for part, answers in samples.items()} == {"before": 0.2, "after": 0.6}
    assert not any("samples" in evaluation[part] for part in samples)
    assert rows is not None
    assert RowResults.model_validate(rows["after"]).metrics["eval/reward"].values == (0.6, 0.8)
    assert [(point["step"], point["values"]["eval/reward"]) for point in evaluation["history"]] == [
        (0, 0.1),
        (10, 0.5),
        (20, 0.9),
        (30, 0.7),
    ]
    assert events[0].message == "Result of the adapter after step 20 on 2 held-out rows: eval/reward=0.6"


def test_groups_are_stored_by_step(database: Database, claim: Claim) -> None:
    member = MemberRecord(
        source=Source.self,
        text="2",
        tokens=1,
        reward=math.nan,
        advantage=0.5,
        rectified_frac=None,
        mean_p=0.1,
        finished=True,
    )
    group = GroupRecord(idx=0, row=1, prompt="1+1", members=(member,), zero_variance=False)
    journal = Journal(database, claim)
    for _ in range(2):
        journal.record([JournalEntry(Groups(step=4, groups=(group,))), JournalEntry(Groups(step=5, groups=(group,)))])
    with database.transaction() as session:
        assert groups.steps(session, claim.job_id) == [4, 5]
        last = groups_of(session, claim.job_id, step=5)
        assert [(row["id"], row["step"], row["members"][0]["reward"]) for row in last] == [("5-0", 5, None)]
        assert len(groups_of(session, claim.job_id, step=4)) == 1


def test_last_two_checkpoints_are_kept(database: Database, claim: Claim) -> None:
    journal = Journal(database, claim)
    forgotten = [journal.record([JournalEntry(StoredCheckpoint(n, f"blob-{n}", {"loss": 1.0}))]) for n in (10, 20, 30)]
    assert forgotten == [[], [], ["blob-10"]]
    with database.transaction() as session:
        assert [row.step for row in queries.latest_checkpoints(session, claim.job_id)] == [30, 20]


def test_only_new_steps_reset_crashes(database: Database, claim: Claim) -> None:
    journal = Journal(database, claim)
    journal.metrics([Metrics(step=5, values={})])
    with database.transaction() as session:
        session.execute(update(Job).values(crashes=2))
    journal.metrics([Metrics(step=5, values={})])
    assert fetch_job(database, claim).crashes == 2
    journal.metrics([Metrics(step=6, values={})])
    assert fetch_job(database, claim).crashes == 0
