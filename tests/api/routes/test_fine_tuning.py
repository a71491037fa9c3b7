"""Fine-tuning jobs through the official SDK. No worker runs, so jobs keep the state that the API gives them."""

from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.fine_tuning import FineTuningJobEvent
from sqlalchemy import event as sql_event
from sqlalchemy.engine import Engine

from app.core.accounts.scopes import ALL
from app.core.jobs import leases
from app.core.jobs.events import Event, append
from app.core.jobs.lifecycle import admit_validated
from app.core.jobs.tables import Checkpoint, Group, Job, JobAttempt, Metric
from tests.api.jobs import GRADER, broken_at_17, create, gft, refused
from tests.api.server import Server, lenient_and_strict, new_key, new_project

METHODS = {
    "gft": gft(group={"expert": 1, "teacher": 2, "self": 5}),
    "supervised": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    "dft": {"type": "dft"},
    "reinforcement": {"type": "reinforcement", "reinforcement": {"grader": GRADER}},
    "absent": None,
}


@lenient_and_strict
@pytest.mark.parametrize("kind", METHODS)
def test_job_object_of_every_method(client: OpenAI, training_file: str, kind: str) -> None:
    created = create(client, training_file, METHODS[kind])
    retrieved: Any = client.fine_tuning.jobs.retrieve(created.id)
    listed: Any = next(iter(client.fine_tuning.jobs.list()))
    for job in (created, retrieved, listed):
        assert job.id.startswith("ftjob-")
        assert job.object == "fine_tuning.job"
        assert (job.status, job.model, job.training_file) == ("queued", "tiny", training_file)
        assert (job.error, job.finished_at, job.fine_tuned_model, job.trained_tokens) == (
            None,
            None,
            None,
            None,
        )
        assert job.result_files == []
        assert isinstance(job.seed, int)
        assert isinstance(job.created_at, int)
        assert job.organization_id.startswith("proj_")
        assert job.hyperparameters.n_epochs == (2 if kind == "supervised" else "auto")
        assert job.progress == {
            **{"phase": None, "step": 0, "total_steps": None, "eta_seconds": None, "run_seconds": None},
            "metrics": {},
        }
        assert job.queue_position == 1
        assert job.evaluation is None


MATH = {"type": "math", "name": "math", "reference": "{{item.reference_answer}}"}
GRADERS: dict[str, dict[str, Any]] = {
    "python": MATH,  # the SDK has no type for it
    "multi": {"type": "multi", "graders": {"right": MATH, "exact": GRADER}, "calculate_output": "right + exact"},
}


@lenient_and_strict
@pytest.mark.parametrize("kind", ["gft", "reinforcement"])
@pytest.mark.parametrize("type_in_sdk", GRADERS)
def test_every_grader_is_readable(client: OpenAI, training_file: str, kind: str, type_in_sdk: str) -> None:
    """Also the parts of a `multi`, in the place of which the SDK wants a single grader."""
    sent = GRADERS[type_in_sdk]
    strict = "x-grouptune-strict-enums" in client.default_headers
    created = create(client, training_file, {"type": kind, kind: {"grader": sent}})
    shown = client.fine_tuning.jobs.with_raw_response.retrieve(created.id).http_response.json()["method"]
    whole = shown["grader"] if strict else shown[kind]["grader"]
    assert (whole["type"], whole.get("graders", {}).keys()) == (sent["type"], sent.get("graders", {}).keys())
    for job in (client.fine_tuning.jobs.retrieve(created.id), next(iter(client.fine_tuning.jobs.list()))):
        assert job.method is not None
        if strict:
            assert job.method.reinforcement is not None
            assert job.method.reinforcement.grader.type == type_in_sdk


def test_gft_settings_are_returned_with_defaults(server: Server, training_file: str) -> None:
    client = server.client()
    job = create(client, training_file, METHODS["gft"], seed=7, suffix="sums", metadata={"a": "b"})
    method = job.to_dict()["method"]
    assert method["type"] == "gft"
    assert method["gft"]["group"] == {"expert": 1, "teacher": 2, "self": 5}
    assert method["gft"]["grader"] == GRADER
    assert method["gft"]["tau"] == 0.7
    assert (job.seed, job.metadata, job.user_provided_suffix) == (7, {"a": "b"}, "sums")


def test_typed_form_creates_a_gft_job(server: Server, client: OpenAI, training_file: str) -> None:
    method = {
        "type": "reinforcement",
        "reinforcement": {"grader": GRADER, "hyperparameters": {"n_epochs": 3}},
    }
    job = create(client, training_file, method, extra_body={"gft": {"group": {"self": 6}, "tau": 0.5}})
    shown = job.to_dict()["method"]
    assert shown["type"] == "reinforcement"
    assert shown["reinforcement"]["grader"] == GRADER
    assert shown["gft"]["group"] == {"expert": 1, "teacher": 3, "self": 6}
    with server.database.transaction() as session:
        row = session.get_one(Job, job.id)
    assert row.spec["method"] == "gft"
    assert row.spec["settings"]["tau"] == 0.5
    assert row.spec["settings"]["hyperparameters"]["n_epochs"] == 3


def test_reinforcement_uses_only_rollouts(server: Server, client: OpenAI, training_file: str) -> None:
    hyperparameters = {"compute_multiplier": "auto", "reasoning_effort": "default", "batch_size": 4}
    method = {
        "type": "reinforcement",
        "reinforcement": {"grader": GRADER, "hyperparameters": hyperparameters},
    }
    job = create(client, training_file, method)
    with server.database.transaction() as session:
        settings = session.get_one(Job, job.id).spec["settings"]
    assert settings["group"] == {"expert": 0, "teacher": 0, "self": 8}
    assert job.hyperparameters.batch_size == 4


def test_explicit_nulls_equal_absent(client: OpenAI, training_file: str) -> None:
    nothing = dict.fromkeys(("validation_file", "suffix", "seed", "metadata", "integrations", "hyperparameters"))
    job = create(client, training_file, gft(hyperparameters={"n_epochs": None}, group=None), **nothing)
    assert isinstance(job.seed, int)
    assert job.metadata is None
    assert job.hyperparameters.n_epochs == "auto"


def test_deprecated_hyperparameters_are_used(client: OpenAI, training_file: str) -> None:
    assert create(client, training_file, hyperparameters={"n_epochs": 4}).hyperparameters.n_epochs == 4
    job = create(client, training_file, gft(hyperparameters={"n_epochs": "auto"}), hyperparameters={"n_epochs": 4})
    assert job.hyperparameters.n_epochs == 4
    with pytest.raises(BadRequestError, match=r"is 4, but .* is 5") as caught:
        create(client, training_file, gft(hyperparameters={"n_epochs": 5}), hyperparameters={"n_epochs": 4})
    assert caught.value.param == "hyperparameters.n_epochs"


@lenient_and_strict
def test_job_waits_for_its_files_validation(server: Server, client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    job = create(client, file.id, gft())
    assert (job.status, job.queue_position) == ("validating_files", None)
    server.validate_files()
    with server.database.transaction() as session:
        assert admit_validated(session) == 1
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"


@lenient_and_strict
def test_job_fails_if_its_file_is_broken(server: Server, client: OpenAI) -> None:
    file = client.files.create(file=broken_at_17(), purpose="fine-tune")
    job = create(client, file.id, gft())
    server.validate_files()
    with server.database.transaction() as session:
        admit_validated(session)
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_file", "training_file")
    assert "line 17" in failed.error.message
    assert isinstance(failed.finished_at, int)
    assert failed.hyperparameters.n_epochs == "auto"


@lenient_and_strict
def test_pause_resume_cancel_need_no_body(server: Server, client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, gft())
    paused = client.fine_tuning.jobs.pause(job.id)
    strict = "x-grouptune-strict-enums" in client.default_headers
    assert paused.status == ("queued" if strict else "paused")
    assert paused.paused  # type: ignore[attr-defined]
    resumed = client.fine_tuning.jobs.resume(job.id)
    assert (resumed.status, resumed.paused) == ("queued", False)  # type: ignore[attr-defined]
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert isinstance(cancelled.finished_at, int)
    assert cancelled.error is None


def test_strict_enums_of_a_project(server: Server, training_file: str) -> None:
    admin = new_key(server.database, server.project_id, *ALL)
    with httpx.Client(base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {admin}"}) as http:
        changed = http.post(f"/projects/{server.project_id}", json={"strict_enums": True}).json()
        assert changed["strict_enums"] is True
        job = create(server.client(), training_file, gft())
        assert server.client().fine_tuning.jobs.pause(job.id).status == "queued"
        for sent, status in ((None, "queued"), ("true", "queued"), ("false", "paused")):
            headers = {} if sent is None else {"x-grouptune-strict-enums": sent}
            shown = http.get(f"/fine_tuning/jobs/{job.id}", headers=headers).json()
            assert (shown["status"], shown["paused"]) == (status, True)
        strict = OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, _strict_response_validation=True)
        with strict:
            assert strict.fine_tuning.jobs.retrieve(job.id).method.type == "reinforcement"  # type: ignore[union-attr]
        [entry] = http.get("/audit_log", params={"action": "project.update"}).json()["data"]
        assert (entry["before"]["strict_enums"], entry["after"]["strict_enums"]) == (False, True)
        assert http.post(f"/projects/{server.project_id}", json={}).json()["strict_enums"] is True


@lenient_and_strict
def test_a_request_to_stop_is_shown(server: Server, client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, gft())
    assert job.stop_request is None
    with server.database.transaction() as session:
        assert leases.claim(session, "worker", 60) is not None
    requested = client.fine_tuning.jobs.pause(job.id)
    assert (requested.status, requested.stop_request) == ("running", "pause")  # type: ignore[attr-defined]
    requested = client.fine_tuning.jobs.cancel(job.id)
    assert (requested.status, requested.stop_request) == ("running", "cancel")  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_change_of_a_finished_job_is_400(server: Server, training_file: str, verb: str) -> None:
    client = server.client(max_retries=2)
    job = create(client, training_file, gft())
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(BadRequestError, match=r"cancelled") as caught:
        getattr(client.fine_tuning.jobs, verb)(job.id)
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_jobs_of_other_projects_are_404(server: Server, client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, gft())
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    jobs = stranger.fine_tuning.jobs
    assert list(jobs.list()) == []
    for attempt in (
        jobs.retrieve,
        jobs.cancel,
        jobs.pause,
        jobs.resume,
        jobs.list_events,
        jobs.checkpoints.list,
    ):
        with pytest.raises(NotFoundError):
            attempt(job.id)
    for part in ("metrics", "groups", "attempts"):
        with pytest.raises(NotFoundError):
            stranger.get(f"/fine_tuning/jobs/{job.id}/{part}", cast_to=object)
    assert refused(stranger, training_file, gft()).param == "training_file"


@lenient_and_strict
def test_jobs_are_paged_and_filtered(client: OpenAI, training_file: str) -> None:
    created = [create(client, training_file, metadata={"n": str(n % 2), "x": "a & b"}).id for n in range(5)]
    assert [job.id for job in islice(client.fine_tuning.jobs.list(limit=2), 20)] == created[::-1]
    page = client.fine_tuning.jobs.list(metadata={"n": "1", "x": "a & b"})
    assert [job.id for job in page] == [created[3], created[1]]
    plain = create(client, training_file).id
    assert [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [plain]
    with pytest.raises(BadRequestError, match=r"metadata\[key\]=value"):
        client.fine_tuning.jobs.list(extra_query={"metadata": "n"})
    with pytest.raises(BadRequestError) as caught:
        client.fine_tuning.jobs.list(after="ftjob-unknown")
    assert caught.value.param == "after"
    with pytest.raises(BadRequestError) as caught:
        client.fine_tuning.jobs.list(limit=0)
    assert caught.value.param == "limit"


@lenient_and_strict
def test_event_pages_are_stable_under_inserts(server: Server, client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, gft())
    with server.database.transaction() as session:
        append(session, job.id, *(Event(f"event {n}") for n in range(42)))
    seen: list[FineTuningJobEvent] = []
    for event in islice(client.fine_tuning.jobs.list_events(job.id, limit=20), 200):
        if len(seen) == 10:
            with server.database.transaction() as session:
                append(session, job.id, Event("late", level="warn"))
        seen.append(event)
    assert len({event.id for event in seen}) == len(seen) == 45
    assert seen[-1].message == f"Created fine-tuning job: {job.id}"
    assert {event.object for event in seen} == {"fine_tuning.job.event"}


@lenient_and_strict
def test_a_fresh_job_has_empty_lists(client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, gft())
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    path = f"/fine_tuning/jobs/{job.id}"
    assert client.get(f"{path}/metrics", cast_to=object) == {
        "object": "fine_tuning.job.metrics",
        "job_id": job.id,
        "steps": [],
        "series": {},
        "is_sampled": False,
    }
    for part in ("groups", "attempts"):
        answer = client.get(f"{path}/{part}", cast_to=object)
        assert isinstance(answer, dict)
        assert answer["data"] == []


@lenient_and_strict
def test_training_results_are_served(server: Server, client: OpenAI, training_file: str) -> None:
    job_id = create(client, training_file, gft(), suffix="sums").id
    with server.database.transaction() as session:
        session.add_all(
            [
                Metric(job_id=job_id, step=1, values={"loss": 2.5, "reward": None}),
                Metric(job_id=job_id, step=2, values={"loss": 2.0, "kl": 0.1}),
                Group(job_id=job_id, step=1, idx=0, record={"idx": 0, "prompt": "old", "members": []}),
                Group(job_id=job_id, step=2, idx=0, record={"idx": 0, "prompt": "new", "members": []}),
                JobAttempt(job_id=job_id, attempt=1, worker="w", resumed_from_step=0),
                *[
                    Checkpoint(id=f"ftckpt_{n}", job_id=job_id, attempt=1, step=n, blob=f"b{n}", metrics={"loss": 2.0})
                    for n in range(1, 13)
                ],
            ]
        )
    path = f"/fine_tuning/jobs/{job_id}"
    metrics = client.get(f"{path}/metrics", cast_to=object)
    assert isinstance(metrics, dict)
    assert metrics["steps"] == [1, 2]
    assert metrics["series"] == {"kl": [None, 0.1], "loss": [2.5, 2.0], "reward": [None, None]}
    chosen = client.get(f"{path}/metrics?names=loss", cast_to=object)
    assert isinstance(chosen, dict)
    assert list(chosen["series"]) == ["loss"]
    for query, step, prompt in (("?step=1", 1, "old"), ("", 2, "new")):
        groups = client.get(f"{path}/groups{query}", cast_to=object)
        assert isinstance(groups, dict)
        assert (groups["step"], groups["data"][0]["prompt"]) == (step, prompt)
    attempts = client.get(f"{path}/attempts", cast_to=object)
    assert isinstance(attempts, dict)
    assert attempts["data"][0]["worker"] == "w"
    checkpoints = list(islice(client.fine_tuning.jobs.checkpoints.list(job_id), 50))
    assert [checkpoint.step_number for checkpoint in checkpoints] == list(range(12, 0, -1))
    assert checkpoints[0].metrics.train_loss == 2.0
    name = checkpoints[0].fine_tuned_model_checkpoint
    assert name == f"ft:tiny:default:sums:{job_id[-8:]}:ckpt-step-12"


@pytest.mark.parametrize("inline", [False, True], ids=["", "of an earlier version"])
def test_sample_answers_are_read_only_if_wanted(
    server: Server, client: OpenAI, training_file: str, inline: bool
) -> None:
    job_id = create(client, training_file, gft()).id
    part, samples = {"step": 0, "values": {"eval/reward": 0.5}}, [{"prompt": "1+1=", "response": "2"}]
    whole = {"before": part | {"samples": samples}, "history": [part]}
    brief = {"before": part, "history": [part]}
    with server.database.transaction() as session:
        job = session.get_one(Job, job_id)
        job.evaluation = whole if inline else brief
        job.evaluation_samples = None if inline else {"before": samples}
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    def evaluation(**query: str) -> Any:
        statements.clear()
        return client.fine_tuning.jobs.retrieve(job_id, extra_query=query).model_dump()["evaluation"]

    sql_event.listen(Engine, "before_cursor_execute", note)
    try:
        assert evaluation() == brief
        assert next(iter(client.fine_tuning.jobs.list())).model_dump()["evaluation"] == brief
        assert any("FROM jobs" in statement for statement in statements)
        assert not any("evaluation_samples" in statement for statement in statements)
        assert evaluation(samples="true") == whole
        client.fine_tuning.jobs.cancel(job_id)
        assert evaluation() == whole
        assert evaluation(samples="false") == brief
        assert not any("evaluation_samples" in statement for statement in statements)
    finally:
        sql_event.remove(Engine, "before_cursor_execute", note)
