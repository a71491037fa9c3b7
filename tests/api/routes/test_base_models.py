"""Base models and their downloads over HTTP. `tests/worker/test_model_pulls.py` runs the downloads."""

from typing import Any

import httpx

from app.core.accounts import scopes
from app.core.models import pulls
from app.core.models.sources import Progress
from app.core.spec.hardware import Hardware
from app.core.workers import presence
from app.core.workers.tables import WorkerState
from tests.api.server import Server, new_key


def by_name(http: httpx.Client) -> dict[str, Any]:
    return {model["id"]: model for model in http.get("/base_models").raise_for_status().json()["data"]}


def test_base_model_is_pulled_and_cancelled(server: Server) -> None:
    key = new_key(server.database, server.project_id, *scopes.ALL)
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{server.url}/v1", headers=headers) as http:
        small = by_name(http)["smollm2-135m-instruct"]
        assert (small["is_pulled"], small["licence"], small["context_length"]) == (False, "apache-2.0", 8192)
        assert small["bytes"] == 2 * small["parameters"]
        assert by_name(http)["tiny"]["is_pulled"]
        assert not http.get("/base_models").json()["can_pull"]
        refused = http.post("/base_models", json={"model": "qwen3-0.6b"}).json()["error"]
        assert refused["code"] == "no_worker"
        assert "`grouptune models pull qwen3-0.6b`" in refused["message"]

        with server.database.transaction() as session:
            hardware = Hardware(memory_bytes=1)
            presence.beat(session, "w:1", state=WorkerState.ready, queues=["default"], slots=4, hardware=hardware)
        assert http.get("/base_models").json()["can_pull"]
        for name in ("Qwen/Qwen3-0.6B", "qwen3-0.6b"):
            assert http.post("/base_models", json={"model": name}).json()["pull"]["status"] == "queued"
        assert http.post("/base_models", json={"model": "org/Own-7B"}).json()["id"] == "own-7b"
        assert by_name(http)["own-7b"]["hub_id"] == "org/Own-7B"
        unknown = http.post("/base_models", json={"model": "own"}).json()["error"]
        assert (unknown["param"], unknown["code"]) == ("model", "model_not_found")

        with server.database.transaction() as session:
            claim = pulls.claim_next(session, 60.0)
            assert claim is not None
        with server.database.transaction() as session:
            pulls.renew(session, claim, 60.0, Progress("Downloading", 25, 100))
        pull = by_name(http)["qwen3-0.6b"]["pull"]
        assert (pull["status"], pull["stage"], pull["done_bytes"]) == ("running", "Downloading", 25)
        assert 0 <= pull["eta_seconds"] < 600
        assert http.post("/base_models/qwen3-0.6b/cancel").json()["pull"]["status"] == "cancelled"
        assert http.post("/base_models/qwen3-0.6b/cancel").status_code == 404
        actions = [entry["action"] for entry in http.get("/audit_log").json()["data"]]
        made = sorted(action for action in actions if action.startswith("base_model"))
        assert made == ["base_model.cancel", "base_model.pull", "base_model.pull"]
