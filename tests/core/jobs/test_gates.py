"""Gates: which are valid, and how they are decided."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.jobs import evaluations, gates, leases, lifecycle, outcomes
from app.core.jobs.gates import check_measurable, decide
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job, JobEvent
from app.core.models import aliases
from app.core.models.tables import TrainedModel
from app.core.spec.gates import Gate, parse
from app.core.spec.job import JobSpec
from app.core.spec.reports import Evaluated, Finished
from app.core.spec.row_results import RowResults, RowScores
from tests.setup_jobs import make_file, make_job, make_project, metrics_csv, supervised

GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "4",
}
FINISHED = Finished(step=4, path="/x", trained_tokens=9, published_step=4, reason="best")


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("eval/accuracy >= 0.8", Gate("eval/accuracy", ">=", 0.8)),
        ("eval/accuracy>=.8", Gate("eval/accuracy", ">=", 0.8)),
        ("  eval/loss  <  1e-1 ", Gate("eval/loss", "<", 0.1)),
        ("eval/pass@16 > -2", Gate("eval/pass@16", ">", -2.0)),
        ("eval/reward no worse than alias prod by 0.01", Gate("eval/reward", ">=", None, "prod", 0.01)),
        ("no worse than alias prod by 0.01", Gate("eval/reward", ">=", None, "prod", 0.01)),
        ("eval/rewards/margins > 0.5", Gate("eval/rewards/margins", ">", 0.5)),
        ("eval/rewards/accuracies no worse than alias a", Gate("eval/rewards/accuracies", ">=", None, "a", 0.0)),
        ("eval/loss no worse than alias v1.2", Gate("eval/loss", "<=", None, "v1.2", 0.0)),
    ],
)
def test_gate_syntax(text: str, gate: Gate) -> None:
    assert parse(text) == gate


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "accuracy >= 0.8",
            "eval/accuracy",
            "eval/accuracy = 1",
            "eval/accuracy >= nan",
            "eval/accuracy >= 8 or so",
        ),
        *("no worse than prod", "no worse than alias PROD", "no worse than alias prod by -1", "eval/pass@0 > 1"),
    ],
)
def test_bad_gate_error_shows_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"eval/accuracy >= 0\.8|cannot be negative"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "value", "passes"),
    [
        ("eval/accuracy >= 0.8", 0.8, True),
        ("eval/accuracy > 0.8", 0.8, False),
        ("eval/loss <= 1", 1.0, True),
        ("eval/loss < 1", 1.0, False),
        ("eval/accuracy >= 0.8", None, False),
        ("eval/loss < 1", float("-inf"), False),
        ("eval/accuracy >= 0", float("nan"), False),
    ],
)
def test_gate_comparison(text: str, value: float | None, passes: bool) -> None:
    assert parse(text).passes(value) is passes


def test_gate_margin_allows_worse_values() -> None:
    assert parse("eval/reward no worse than alias a by 0.1").against(0.5).bound == pytest.approx(0.4)
    assert parse("eval/loss no worse than alias a by 0.1").against(0.5).bound == pytest.approx(0.6)


def gated(*texts: str, alias: str | None = None, **settings: Any) -> JobSpec:
    plain = supervised().model_dump(mode="json", by_alias=True)
    plain["settings"] |= {"grader": GRADER} | settings
    return JobSpec.model_validate(plain | {"gates": texts, "alias": alias})


@pytest.mark.parametrize(
    ("spec", "validation_file", "message"),
    [
        (gated("eval/loss < 1"), None, "send a validation_file"),
        (gated("eval/loss < 1", "eval/accuracy > 0", grader=None), "file-1", "needs a grader"),
        (gated("eval/loss < 1", "eval/rewards/margins > 0"), "file-1", "only the method 'dpo' measures"),
        (
            gated("eval/loss < 1", "eval/pass@8 > 0", evaluation={"pass_samples": 4}),
            "file-1",
            "pass_samples, which is 4",
        ),
    ],
)
def test_gate_on_unmeasured_metric_rejected(spec: JobSpec, validation_file: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        check_measurable(spec, validation_file)
    assert caught.value.param == f"gates.{len(spec.gates) - 1}"


def test_gate_on_measured_metric_accepted() -> None:
    spec = gated("eval/loss < 1", "eval/accuracy > 0", "eval/pass@4 > 0", evaluation={"pass_samples": 4})
    check_measurable(spec, "file-1")


def test_gate_on_pairs_of_a_dpo_job_accepted() -> None:
    fields = {"model": "tiny", "method": "dpo", "settings": {}, "seed": 1}
    spec = JobSpec.model_validate(fields | {"gates": ["eval/rewards/accuracies >= 0.7", "eval/loss < 0.6"]})
    check_measurable(spec, "file-1")


def test_spec_rejects_invalid_gates() -> None:
    with pytest.raises(ValidationError, match="is not a gate"):
        gated("fast")


def running(
    session: Session,
    project: str,
    spec: JobSpec,
    sha256: str = "0" * 64,
    *,
    rows: dict[str, list[float]] | None = None,
    lines: Sequence[int] | None = None,
    before: dict[str, list[float]] | None = None,
    **evaluation: float,
) -> Claim:
    """Create a job in its first attempt with these results at step 4, as means or by row.

    The rows that select have failing results before and perfect ones at the same step: no gate may look at them.
    """
    training, validation = make_file(session, project), make_file(session, project)
    validation.sha256 = sha256
    job = lifecycle.create(session, Actor(project), spec=spec, training_file=training.id, validation_file=validation.id)
    claim = leases.claim(session, "w", 60)
    assert claim is not None
    assert claim.job_id == job.id

    def report(step: int, by_row: dict[str, list[float]]) -> Evaluated:
        values: dict[str, float | None] = {f"eval/{name}": fmean(scores) for name, scores in by_row.items()}
        metrics = {f"eval/{name}": RowScores(values=tuple(scores)) for name, scores in by_row.items()}
        count = max(map(len, by_row.values()), default=0)
        numbers = tuple(lines or range(1, count + 1))
        return Evaluated(
            step=step,
            values=values,
            is_result=True,
            rows=RowResults(lines=numbers, metrics=metrics),
            selection_lines=(99,),
        )

    known = rows or {name: [value] * 20 for name, value in evaluation.items()}
    start = before or {name: [0.0] * len(scores) for name, scores in known.items()}
    perfect = Evaluated(step=4, values={f"eval/{name}": 1.0 for name in known}, best=True)
    for one in (report(0, start), perfect, report(4, known)):
        evaluations.store(session, claim, one)
    session.expire_all()
    return claim


def finish(session: Session, claim: Claim) -> Job:
    outcomes.succeed(session, claim, FINISHED, f"jobs/{claim.job_id}/a1/adapter", "tiny", metrics_csv())
    return session.get_one(Job, claim.job_id, populate_existing=True)


def events(session: Session, job_id: str) -> list[str]:
    rows = session.query(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
    return [row.message for row in rows]


def test_passed_gates_move_alias(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        claim = running(
            session, project, gated("eval/accuracy >= 0.8", alias="prod"), rows={"accuracy": [1.0] * 17 + [0.0] * 3}
        )
        job = finish(session, claim)
        assert job.status == JobStatus.succeeded
        assert job.gates is not None
        assert [one["passed"] for one in job.gates] == [True]
        assert aliases.get_alias(session, project, "prod").model == job.fine_tuned_model
        messages = events(session, job.id)
        reason = "eval/accuracy is 0.85, >= 0.8 (95 % interval 0.6396 to 0.9476: 20 rows cannot tell it from the bound)"
        assert f"Gate passed: eval/accuracy >= 0.8 ({reason})" in messages
        assert f"The alias prod now points to {job.fine_tuned_model}" in messages


def test_failed_gate_keeps_model_and_alias(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        spec = gated("eval/accuracy >= 0.8", "eval/loss < 2", alias="prod")
        job = finish(session, running(session, project, spec, accuracy=0.75, loss=1.5))
        assert (job.status, job.fine_tuned_model) == (JobStatus.failed, None)
        assert job.error is not None
        assert (job.error["code"], job.error["param"]) == ("gate_failed", "gates")
        assert "1 of 2 gates failed. eval/accuracy >= 0.8: eval/accuracy is 0.75, not >= 0.8" in job.error["message"]
        model = session.query(TrainedModel).where(TrainedModel.job_id == job.id).one()
        assert model.id in job.error["message"]
        assert aliases.list_aliases(session, project) == []
        assert len(job.result_files) == 1


def test_gate_compares_with_alias_model(database: Database) -> None:
    """Row by row: the same fall of the mean fails if all rows fall, and passes if the rows disagree."""
    relative = "eval/reward no worse than alias prod by 0.05"
    spec = gated(relative, alias="prod")
    known = [row / 40 for row in range(40)]
    with database.transaction() as session:
        project = make_project(session)
        first = finish(session, running(session, project, spec, rows={"reward": known}))
        assert first.gates is not None
        assert first.gates[0]["reason"] == "the alias prod does not exist yet, so any value passes"
        worse = finish(session, running(session, project, spec, rows={"reward": [one - 0.1 for one in known]}))
        assert worse.status == JobStatus.failed
        assert worse.gates is not None
        assert worse.gates[0]["bound"] == pytest.approx(fmean(known) - 0.05)
        assert "eval/reward differs by -0.1 from" in worse.gates[0]["reason"]
        assert "on the same 40 rows" in worse.gates[0]["reason"]
        assert worse.gates[0]["reason"].endswith("so it is worse by more than 0.05")
        mixed = [one - 0.1 + (0.8 if row % 2 else -0.8) for row, one in enumerate(known)]
        near = finish(session, running(session, project, spec, rows={"reward": mixed}))
        assert near.status == JobStatus.succeeded
        assert aliases.get_alias(session, project, "prod").model == near.fine_tuned_model


def test_lower_loss_is_no_worse(database: Database) -> None:
    known = [1 + row / 40 for row in range(40)]
    with database.transaction() as session:
        project = make_project(session)
        finish(session, running(session, project, gated(alias="prod"), rows={"loss": known}))
        for change, passes in ((-0.1, True), (0.1, False)):
            claim = running(
                session,
                project,
                gated("eval/loss no worse than alias prod"),
                rows={"loss": [one + change for one in known]},
            )
            (result,) = decide(session, session.get_one(Job, claim.job_id), 4)
            assert result.passed is passes
            outcomes.fail(session, claim, "x", "y")


def test_gate_pairs_common_rows_only(database: Database) -> None:
    """A job that evaluated fewer rows is compared on these; on fewer than 10, not at all."""
    gate = "eval/reward no worse than alias prod"
    with database.transaction() as session:
        project = make_project(session)
        finish(session, running(session, project, gated(alias="prod"), rows={"reward": [1.0] * 20}))
        for lines, passed, said in ((range(5, 35), True, "on the same 16 rows"), (range(15, 45), False, "only 6 rows")):
            claim = running(session, project, gated(gate), rows={"reward": [1.0] * 30}, lines=list(lines))
            (result,) = decide(session, session.get_one(Job, claim.job_id), 4)
            assert (result.passed, said in result.reason) == (passed, True)
            outcomes.fail(session, claim, "x", "y")


def test_alias_without_rows_fails_gate(database: Database) -> None:
    """A job of an earlier version chose its model by the rows that it reports."""
    with database.transaction() as session:
        project = make_project(session)
        old = finish(session, running(session, project, gated(alias="prod"), reward=0.5))
        old.evaluation_rows = None
        claim = running(session, project, gated("no worse than alias prod"), reward=0.9)
        (result,) = decide(session, session.get_one(Job, claim.job_id), 4)
        assert not result.passed
        assert "no results by row, because an earlier version trained it" in result.reason


@pytest.mark.parametrize(
    ("changes", "verdict", "level"),
    [([0.2] * 12, "improved", "info"), ([-0.2] * 12, "worse", "warn"), ([0.2, -0.2] * 6, "no_change", "info")],
)
def test_verdict_compares_row_by_row(database: Database, changes: list[float], verdict: str, level: str) -> None:
    known = [row / 12 for row in range(12)]
    after = [one + change for one, change in zip(known, changes, strict=True)]
    with database.transaction() as session:
        project = make_project(session)
        claim = running(session, project, gated(), rows={"reward": after}, before={"reward": known})
        job = finish(session, claim)
        assert (job.status, job.verdict) == (JobStatus.succeeded, verdict)
        assert job.comparison is not None
        assert (job.comparison["metric"], job.comparison["rows"]) == ("eval/reward", 12)
        assert job.comparison["difference"] == pytest.approx(fmean(changes))
        assert job.comparison["low"] < fmean(changes) < job.comparison["high"]
        event = session.query(JobEvent).where(JobEvent.job_id == job.id, JobEvent.message.like("Verdict%")).one()
        assert event.level == level
        assert event.data is not None
        assert event.data["verdict"] == verdict


def test_lower_loss_is_an_improvement(database: Database) -> None:
    """Without a grader the loss decides."""
    with database.transaction() as session:
        project = make_project(session)
        losses, before = {"loss": [1.0] * 12}, {"loss": [1.5] * 12}
        job = finish(session, running(session, project, gated(grader=None), rows=losses, before=before))
        assert job.verdict == "improved"
        assert job.comparison is not None
        assert job.comparison["reason"].startswith("Held-out loss on 12 rows that did not select the model: 1.5 before")


def test_no_verdict_without_rows(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        finish(session, claim)
        session.refresh(job)
        assert job.verdict is None
        assert job.comparison is not None
        assert "send a validation_file" in job.comparison["reason"]


def test_gate_fails_for_other_held_out_rows(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        finish(session, running(session, project, gated(alias="prod"), reward=0.5))
        claim = running(session, project, gated("no worse than alias prod"), sha256="1" * 64, reward=0.9)
        (verdict,) = decide(session, session.get_one(Job, claim.job_id), 4)
        assert not verdict.passed
        assert "other held-out rows" in verdict.reason


def test_unmeasured_metric_fails_gate(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        claim = running(session, project, gated("eval/accuracy >= 0", "no worse than alias prod"))
        verdicts = decide(session, session.get_one(Job, claim.job_id), 4)
        assert [verdict.passed for verdict in verdicts] == [False, False]
        assert verdicts[0].reason == "eval/accuracy was not measured"


def test_gate_uses_published_step(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        claim = running(session, project, gated("eval/accuracy >= 0.8"), accuracy=0.9)
        job = session.get_one(Job, claim.job_id)
        assert gates.decide(session, job, 4)[0].value == pytest.approx(0.9)
        assert gates.decide(session, job, 8)[0].value is None


def test_alias_with_base_model_name_rejected(tiny_models: Any) -> None:
    for name in ("tiny", "smollm2-135m-instruct", "gpt-4o-mini"):
        with pytest.raises(InvalidRequest, match="names a base model"):
            aliases.check_name(name, tiny_models, {"gpt-4o-mini": "tiny"})
    aliases.check_name("prod", tiny_models, {"gpt-4o-mini": "tiny"})


def test_alias_with_model_id_rejected() -> None:
    model = ids.fine_tuned_model("tiny", "default", None, ids.job_id())
    with pytest.raises(ValueError, match="is not a gate"):
        parse(f"no worse than alias {model}")
