"""`grouptune webhooks` against a running server."""

import json

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run
from tests.http_server import Received, Reply, http_server


def test_create_test_inspect_and_delete(grouptune: Run, answer_grouptune: Run) -> None:
    received: list[Received] = []

    def answer(request: Received) -> Reply:
        received.append(request)
        return Reply(status=204)

    with http_server(answer) as url:
        created = grouptune("webhooks", "create", f"{url}/hook", "--name", "ops", "--json")
        assert created.returncode == ExitCode.ok, created.stderr
        endpoint = json.loads(created.stdout)
        assert endpoint["event_types"] == [f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled")]
        tested = grouptune("webhooks", "test", endpoint["id"], "--event", "fine_tuning.job.failed")
        assert (tested.returncode, tested.stdout) == (ExitCode.ok, "204\n"), tested.stderr
    assert json.loads(received[0].body)["type"] == "fine_tuning.job.failed"
    assert endpoint["id"] in grouptune("webhooks", "list").stdout
    assert "model.export.failed" in grouptune("webhooks", "events").stdout.splitlines()
    assert json.loads(grouptune("webhooks", "deliveries", endpoint["id"], "--json").stdout) == []
    rotated = grouptune("webhooks", "rotate-secret", endpoint["id"], "--keep-old").stdout.strip()
    assert rotated not in ("", endpoint["signing_secret"])
    unknown = grouptune("webhooks", "replay", endpoint["id"], "wh_none")
    assert unknown.returncode == ExitCode.error
    kept = answer_grouptune("webhooks", "delete", endpoint["id"], answer="n")
    assert (kept.returncode, kept.stdout) == (ExitCode.error, ""), kept.stderr
    question = f"Delete 1 webhook endpoint:\r\n  {endpoint['id']}  {url}/hook\r\nContinue? [y/N]: "
    assert question in kept.stderr
    assert kept.stderr.endswith("Nothing was changed.\r\n")
    removed = grouptune("webhooks", "delete", endpoint["id"], "we_none")
    assert (removed.returncode, removed.stdout) == (ExitCode.error, f"{endpoint['id']}\n")
    assert "we_none" in removed.stderr
    assert endpoint["id"] not in grouptune("webhooks", "list").stdout
