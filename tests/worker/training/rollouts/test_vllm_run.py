"""Whole runs with rollouts from a server."""

import dataclasses
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from app.core.retry import RetryPolicy
from app.core.spec.reports import Evaluated, Failed, Finished, Groups, Metrics, Report, Source, TrainerExit
from tests import tiny_model
from tests.worker.training.rollouts.vllm_server import VllmServer
from tests.worker.training.runs import STEPS, Job, messages, of_kind, read_until, trainer_process

GAP = "sampling/sampling_logp_difference/max"
WEIGHT = "sampling/importance_sampling_ratio/mean"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that so small an adapter can move."""
    return tiny_model.build(tmp_path_factory.mktemp("spread") / "tiny", spread=0.3)


@pytest.fixture
def server(base: Path) -> Iterator[VllmServer]:
    with VllmServer(base) as running:
        yield running


@pytest.fixture
def job(base: Path, server: VllmServer, tmp_path: Path) -> Job:
    return Job(tmp_path / "run", base, rollout_urls=(server.url,))


def names(rank: int, last: int) -> list[str]:
    return [f"grouptune-rollout-ftjob-test-a1-r{rank}-v{version}" for version in range(last + 1)]


def versions(reports: list[Report]) -> dict[int, set[int | None]]:
    """The adapter versions of each step's rollouts."""
    return {
        report.step: {
            member.adapter_version
            for group in report.groups
            for member in group.members
            if member.source is Source.self
        }
        for report in of_kind(reports, Groups)
    }


@pytest.mark.slow
def test_rollouts_use_the_adapter_of_every_step(job: Job, server: VllmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.api_key = "s3cr3t"
    monkeypatch.setenv("GROUPTUNE_ROLLOUT_API_KEY", "s3cr3t")
    code, reports = job.run()
    assert code is TrainerExit.succeeded
    assert len(of_kind(reports, Finished)) == 1
    assert messages(reports) == []
    assert versions(reports) == {step: {step - 1} for step in range(1, STEPS + 1)}
    gaps = [row.values[GAP] for row in of_kind(reports, Metrics) if row.values.get(GAP) is not None]
    assert len(gaps) >= STEPS / 2
    assert all(gap is not None and gap < 1e-4 for gap in gaps)
    assert not any(WEIGHT in row.values for row in of_kind(reports, Metrics))  # gft has no importance weights
    assert all(one.values["eval/forward_kl"] is not None for one in of_kind(reports, Evaluated))
    assert server.names == names(0, STEPS)
    assert server.adapters == {}
    assert {request["model"] for request in server.requests} == {*names(0, STEPS), "tiny"}
    assert list((job.run_dir / "rollouts").iterdir()) == []
    assert not any(b"s3cr3t" in path.read_bytes() for path in job.run_dir.rglob("*") if path.is_file())


@pytest.mark.slow
def test_stale_adapter_on_the_server_raises_alarm(job: Job, server: VllmServer) -> None:
    """A reinforcement job also weights the rollouts: by how much more probable the current adapter finds them."""
    server.stale = True
    code, reports = dataclasses.replace(job, method="reinforcement").run(learning_rate_multiplier=1000.0)
    assert code is TrainerExit.succeeded
    weights = [ratio for row in of_kind(reports, Metrics) if (ratio := row.values.get(WEIGHT)) is not None]
    assert weights[0] == pytest.approx(1, abs=1e-4)
    assert max(abs(weight - 1) for weight in weights) > 0.01
    assert max(row.values.get("gft/importance_truncated_frac") or 0 for row in of_kind(reports, Metrics)) > 0
    [alarm] = [one for one in messages(reports) if one.level == "warn"]
    assert "log-probabilities of sampler and trainer differ" in alarm.message


@pytest.mark.slow
def test_stopped_run_unloads_its_adapters(job: Job, server: VllmServer) -> None:
    job.write(n_epochs=50)
    with trainer_process(job) as process:
        read_until(process, Metrics, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == TrainerExit.stopped
    assert len(server.names) >= 2
    assert server.adapters == {}


def test_lost_server_is_dependency_down(job: Job, server: VllmServer) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        lost = dataclasses.replace(job, rollout_urls=(url,), retry_policy=RetryPolicy(2, longest_wait_seconds=0.01))
        code, [*_, failed] = lost.run()
        assert code is TrainerExit.dependency_down
        assert isinstance(failed, Failed)
        assert failed.code == "rollout_server_away"
        # A job that trains on demonstrations only sends no request, not even to evaluate.
        assert dataclasses.replace(lost, method="supervised").run()[0] is TrainerExit.succeeded
    assert server.requests == []


@contextmanager
def noted_passes(server: VllmServer) -> Iterator[set[str]]:
    """Collect the states of the server during the forward passes of this thread's trainer."""
    own, found = threading.get_ident(), set[str]()

    def note(*_: object) -> None:
        if threading.get_ident() == own:  # the server computes in threads of its own
            found.add("awake" if server.awake.is_set() else "asleep")

    handle = register_module_forward_pre_hook(note)
    yield found
    handle.remove()


def sleeping(job: Job, server: VllmServer) -> Job:
    """Return the job with the server on the trainer's device."""
    server.dev_mode = server.sleep_mode = True
    return dataclasses.replace(job, trainer={"rollout_shares_device": True})


def check_changes(changes: list[str], ranks: int = 1) -> None:
    """Check that the server sleeps first and last, and that no adapter of any rank outlives a sleep."""
    assert changes[0] == changes[-1] == "/sleep?level=1"
    loaded: set[str] = set()
    for change in changes:
        action, _, name = change.partition(" ")
        if action == "load":
            loaded.add(name)
        elif action == "unload":
            loaded.remove(name)
        else:
            assert loaded == set(), changes
    assert changes.count("/wake_up") == changes.count("/sleep?level=1") - 1
    assert sum(change.startswith("load") for change in changes) >= ranks * changes.count("/wake_up")


@pytest.mark.slow
def test_server_on_the_trainers_device_sleeps_in_between(job: Job, server: VllmServer) -> None:
    with noted_passes(server) as states:
        code, reports = sleeping(job, server).run(n_epochs=1)
    assert code is TrainerExit.succeeded
    assert messages(reports) == []
    assert states == {"asleep"}
    assert not server.awake.is_set()  # the worker wakes it
    check_changes(server.changes)
    steps = STEPS // 2
    assert versions(reports) == {step: {step - 1} for step in range(1, steps + 1)}
    assert list(dict.fromkeys(server.names)) == names(0, steps)
    assert server.adapters == {}


def test_server_that_cannot_sleep_fails_the_job_first(job: Job, server: VllmServer) -> None:
    code, reports = dataclasses.replace(job, trainer={"rollout_shares_device": True}).run()
    assert code is TrainerExit.bad_config
    [failed] = reports
    assert isinstance(failed, Failed)
    assert failed.message.endswith(
        "Start it with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode, or unset GROUPTUNE_ROLLOUT_SHARES_DEVICE."
    )


def test_server_sleeps_for_jobs_that_do_not_sample(job: Job, server: VllmServer) -> None:
    supervised = dataclasses.replace(sleeping(job, server), method="supervised")
    with noted_passes(server) as states:
        assert supervised.run(stopped=True)[0] is TrainerExit.stopped
    assert states == {"asleep"}
    assert server.changes == ["/sleep?level=1"]


@pytest.mark.slow
def test_each_rank_has_its_own_adapter(job: Job, server: VllmServer) -> None:
    """Two ranks share the device with the server, which sleeps only while neither samples."""
    job = sleeping(job, server)
    job = dataclasses.replace(job, trainer={**job.trainer, "processes": 2})
    job.write()
    with trainer_process(job) as process:
        process.output(240)
    assert process.returncode == TrainerExit.succeeded, (job.run_dir / "trainer.log").read_text()
    for rank in range(2):  # the ranks share the last evaluation
        assert list(dict.fromkeys(name for name in server.names if f"-r{rank}-" in name)) == names(rank, STEPS)
    check_changes(server.changes, ranks=2)
    assert server.adapters == {}
