"""The log of an attempt is stored while it runs, after its death, in bounds, and without secrets."""

import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.jobs import attempt_logs, leases
from app.core.jobs.attempt_logs import KEEP_FIRST, KEEP_LAST, PART, LogPage
from app.core.jobs.state_machine import AttemptOutcome
from app.core.jobs.tables import Job
from app.core.secrets import KeyRing, new_key
from app.core.settings import Settings
from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import GroupMethod, GroupMix, JobSpec, MethodType, Teacher
from app.core.teachers import keys
from tests.setup_jobs import make_job, make_project
from tests.waiting import eventually
from tests.worker.conftest import Bench, Outage
from tests.worker.test_runner import messages, outcomes
from worker.log_shipper import READ_BYTES, LogShipper
from worker.process_control import ProcessControl
from worker.redaction import REDACTED, Redactor

SIGNING_SECRET = "whsec_c2lnbmluZy1jYW5hcnktMg=="  # noqa: S105 - of this test


def page(database: Database, job_id: str, attempt: int | None = None, after: int = 0) -> LogPage:
    with database.reading() as session:
        return attempt_logs.read(session, job_id, attempt, after, attempt_logs.MAX_PAGE)


def log_of(bench: Bench, attempt: int | None = None) -> str:
    return page(bench.database, bench.job_id, attempt).text


@pytest.fixture
def shipper(database: Database, tmp_path: Path) -> LogShipper:
    """Ships `tmp_path/log` when asked."""
    with database.transaction() as session:
        make_job(session, make_project(session))
        claim = leases.claim(session, "w", 60)
    assert claim is not None
    redactor = Redactor(Settings.model_construct(), {"MY_KEY": "sesame-open"})
    return LogShipper(database, claim, ProcessControl(1.0), tmp_path / "log", redactor)


def shipped(shipper: LogShipper, after: int = 0) -> LogPage:
    return page(shipper._database, shipper._claim.job_id, after=after)


def test_log_is_stored_while_the_attempt_runs(bench: Bench) -> None:
    thread = bench.start("say_and_wait")
    eventually(lambda: log_of(bench) == "at work\n100%|##########\n")
    assert not page(bench.database, bench.job_id).has_ended
    bench.drain.begin()
    thread.join(60)
    end = page(bench.database, bench.job_id, after=24)
    assert (end.text, end.has_ended, end.has_more) == ("stopped\n", True, False)


def test_killed_trainer_leaves_its_last_words(bench: Bench) -> None:
    bench.run("say_and_die:5000")
    shutil.rmtree(bench.settings.runs_dir)
    written = "".join(f"line {number}\n" for number in range(5000)) + "last words"
    assert log_of(bench) == written
    assert outcomes(bench) == [AttemptOutcome.crashed]
    bench.run("exit:65")
    assert (log_of(bench, 1), log_of(bench, 2), log_of(bench)) == (written, "last words\n", "last words\n")


def test_outage_loses_no_line(bench: Bench, outage: Outage) -> None:
    thread = bench.start("say_and_wait")
    outage(1.5)
    bench.drain.begin()
    thread.join(60)
    assert log_of(bench) == "at work\n100%|##########\nstopped\n"


def test_lost_lease_stores_no_log(bench: Bench) -> None:
    thread = bench.start("say_and_wait")
    eventually(lambda: "at work" in log_of(bench))
    with bench.database.transaction() as session:
        session.get_one(Job, bench.job_id).attempt += 1
    thread.join(60)
    assert log_of(bench, 1) == "at work\n100%|##########\n"


def test_secrets_of_the_trainer_are_redacted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every secret that a trainer gets is in its output, and none in its log, the job's events and its error."""
    secrets = {
        "GROUPTUNE_JUDGE_API_KEY": "judge-canary-1",
        "GROUPTUNE_GRADER_SIGNING_SECRET": SIGNING_SECRET,
        "GROUPTUNE_ROLLOUT_API_KEY": "rollout-canary-3",
        "GROUPTUNE_SECRET_KEYS": new_key(),
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    bench.settings = bench.settings.model_copy(
        update={
            "secret_keys": SecretStr(secrets["GROUPTUNE_SECRET_KEYS"]),
            "database_url": "postgresql://u:database-canary-5@db/x",
        }
    )
    method = GroupMethod(
        grader=StringCheckGrader(input="{{sample.output_text}}", reference="1", operation="eq"),
        group=GroupMix(expert=1, teacher=1, self_=1),
        teacher=Teacher(model="big", base_url="https://teacher.example/v1"),
    )
    spec = JobSpec(
        model="tiny",
        method=MethodType.gft,
        settings=method,
        seed=1,
        metadata={"note": "http://user:url-canary-6@host/ postgresql://u:database-canary-5@db/x"},
    )
    with bench.database.transaction() as session:
        ring = KeyRing((secrets["GROUPTUNE_SECRET_KEYS"],))
        keys.put(session, Actor(bench.project), ring, "https://teacher.example/v1", "teacher-canary-4")
        job = session.get_one(Job, bench.job_id)
        job.spec = spec.model_dump(mode="json", by_alias=True)
    job = bench.run("say_everything")
    output = (bench.run_dir() / "trainer.log").read_text()
    given = ("judge-canary-1", SIGNING_SECRET, "rollout-canary-3", "teacher-canary-4", "canary-5", "canary-6")
    assert [secret for secret in given if secret not in output] == []
    shown = log_of(bench)
    assert "GROUPTUNE_JUDGE_API_KEY=" in shown
    assert shown.endswith("the end\n")
    assert job.error is not None
    assert "the end" in job.error["message"]
    for text in (shown, *messages(bench), job.error["message"]):
        assert "canary" not in text
        assert SIGNING_SECRET not in text


def test_secret_across_two_writes_is_redacted(shipper: LogShipper, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ready\nkey sesame-")
    shipper.ship()
    assert shipped(shipper).text == "ready\n"
    with log.open("a") as out:
        out.write("open\nnext")
    shipper.ship()
    shipper.ship(is_complete=True)
    assert shipped(shipper).text == f"ready\nkey {REDACTED}\nnext"


def test_flood_keeps_first_and_last_lines(shipper: LogShipper, tmp_path: Path) -> None:
    lines = [f"{number:07} sesame-open\n" for number in range(400_000)]
    (tmp_path / "log").write_text("".join(lines))
    shipper.ship(is_complete=True)
    first = shipped(shipper)
    last = shipped(shipper, first.next)
    assert first.text.startswith(f"0000000 {REDACTED}\n0000001 ")
    assert last.text.endswith(f"0399999 {REDACTED}\n")
    assert last.omitted > 0
    assert len(first.text) >= KEEP_FIRST
    assert len(first.text) + len(last.text) <= KEEP_FIRST + KEEP_LAST + READ_BYTES + PART
    assert "sesame" not in first.text + last.text
    assert set(map(len, last.text.splitlines())) == {len(f"0000000 {REDACTED}")}


def test_endless_line_is_shipped(shipper: LogShipper, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff" * (READ_BYTES + 10))
    shipper.ship()
    assert len(shipped(shipper).text) == READ_BYTES
    shipper.ship(is_complete=True)
    assert shipped(shipper).text == "\N{REPLACEMENT CHARACTER}" * (READ_BYTES + 10)


def test_missing_log_is_empty(shipper: LogShipper) -> None:
    with shipper:
        pass
    assert shipped(shipper).text == ""
