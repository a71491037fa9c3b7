"""`DELETE /v1/fine_tuning/jobs/{id}`: only finished jobs, with everything that belongs to them, and nothing in use."""

from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from sqlalchemy import text

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.files.uploads import ReceivedFile
from app.core.jobs import leases, lifecycle, outcomes
from app.core.spec.reports import Finished
from tests.api.routes.test_models import publish_checkpoint, write_adapter
from tests.api.server import Server, lenient_and_strict
from tests.setup_jobs import make_job, supervised


def delete(client: OpenAI, job_id: str) -> Any:
    return client.delete(f"/fine_tuning/jobs/{job_id}", cast_to=dict[str, Any])


def succeeded(server: Server, directory: Path) -> tuple[str, str, str]:
    """Finish a job that published a model and a result file; return their ids."""
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        blob, csv = f"jobs/{job.id}/a1/adapter", ids.file_id()
        server.store.put_tree(blob, write_adapter(directory))
        server.store.write(f"jobs/{job.id}/a1/{csv}", [b"step\n"])
        finished = Finished(step=0, path="/x", trained_tokens=1, published_step=0, reason="the last step")
        received = ReceivedFile(csv, f"jobs/{job.id}/a1/{csv}", 5, "0" * 64)
        model = outcomes.succeed(session, claim, finished, blob, "tiny", received)
        assert model is not None
    return job.id, model, csv


@lenient_and_strict
def test_job_is_deleted_after_its_model(server: Server, client: OpenAI, tmp_path: Path) -> None:
    job_id, model, csv = succeeded(server, tmp_path / "adapter")
    with pytest.raises(BadRequestError, match=model) as caught:
        delete(client, job_id)
    assert caught.value.code == "job_in_use"
    assert client.models.delete(model).deleted
    assert server.store.list(f"jobs/{job_id}") == [f"jobs/{job_id}/a1/{csv}"]
    assert delete(client, job_id) == {"id": job_id, "object": "fine_tuning.job", "deleted": True}
    assert server.store.list(f"jobs/{job_id}") == []
    for read in (client.fine_tuning.jobs.retrieve, client.fine_tuning.jobs.list_events):
        with pytest.raises(NotFoundError):
            read(job_id)
    with pytest.raises(NotFoundError):
        client.files.retrieve(csv)
    with pytest.raises(NotFoundError):
        delete(client, job_id)
    with server.database.transaction() as session:
        action = text("SELECT before->>'status' FROM audit_log WHERE action = 'job.delete' AND object_id = :id")
        assert session.scalar(action, {"id": job_id}) == "succeeded"


def test_an_unfinished_job_is_refused(server: Server, client: OpenAI) -> None:
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
    with pytest.raises(BadRequestError, match="Cancel it") as caught:
        delete(client, job.id)
    assert caught.value.code == "job_in_use"
    client.fine_tuning.jobs.cancel(job.id)
    assert delete(client, job.id)["deleted"]


def test_base_checkpoint_keeps_its_job(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name = publish_checkpoint(server, tmp_path / "checkpoint")
    job_id = client.models.retrieve(name).to_dict()["job_id"]
    assert isinstance(job_id, str)
    with server.database.transaction() as session:
        other = make_job(session, server.project_id, supervised().model_copy(update={"model": name}))
    with pytest.raises(BadRequestError, match=other.id) as caught:
        delete(client, job_id)
    assert caught.value.code == "model_in_use"
    assert server.store.list(f"jobs/{job_id}")
    with server.database.transaction() as session:
        lifecycle.cancel(session, Actor(server.project_id), other.id)
    assert delete(client, job_id)["deleted"]
    assert server.store.list(f"jobs/{job_id}") == []
    with pytest.raises(NotFoundError):
        client.models.retrieve(name)
