"""A job whose rollouts a real vLLM samples, with the adapter of each step."""

from pathlib import Path

import httpx
import pytest

from app.core.spec.job import Lora, Sampling
from app.core.spec.reports import Metrics, TrainerExit
from tests.vllm.server import KEY, VllmServer
from tests.worker.training.rollouts.test_vllm_run import GAP, WEIGHT, versions
from tests.worker.training.runs import STEPS, Job, messages, of_kind
from worker.training.distributed import Ranks
from worker.training.model import load_policy
from worker.training.rollouts.shared_device import SharedDevice
from worker.training.rollouts.vllm_client import VllmClient
from worker.training.rollouts.vllm_sampler import serving
from worker.training.types import JobFailure


def test_job_trains_on_rollouts_of_vllm(
    vllm: VllmServer, vllm_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUPTUNE_ROLLOUT_API_KEY", KEY)
    job = Job(tmp_path / "run", vllm_models / "tiny", "reinforcement", rollout_urls=(vllm.url,))
    loaded = set(vllm.loaded())
    code, reports = job.run(learning_rate_multiplier=100.0)
    assert code is TrainerExit.succeeded
    assert messages(reports) == []  # no alarm: vLLM sampled with the adapter of each step
    assert versions(reports) == {step: {step - 1} for step in range(1, STEPS + 1)}
    metrics = of_kind(reports, Metrics)
    gaps = [row.values[GAP] for row in metrics if row.values.get(GAP) is not None]
    weights = [row.values[WEIGHT] for row in metrics if row.values.get(WEIGHT) is not None]
    assert len(gaps) == len(weights) == STEPS
    # bfloat16 on both sides, by different kernels.
    assert max(gap for gap in gaps if gap is not None) < 0.1
    assert weights == pytest.approx([1.0] * STEPS, abs=0.02)
    assert set(vllm.loaded()) == loaded


def test_server_samples_the_same_after_a_sleep(vllm: VllmServer, vllm_models: Path, tmp_path: Path) -> None:
    """On a CPU, vLLM has the endpoints of sleep mode and stops its scheduler, but frees nothing."""
    policy = load_policy(vllm_models / "tiny", Lora(r=4, alpha=8), seed=0)
    for value in policy.trained.values():
        value.data.normal_(std=0.3)
    others, sampling = set(vllm.loaded()), Sampling(max_tokens=8)
    client = VllmClient(vllm.url, KEY)
    device = SharedDevice([client], Ranks(), 1)
    with serving(
        policy, (2,), [client], base_name="tiny", run_name="sleep", directory=tmp_path, device=device
    ) as sampler:
        with pytest.raises(JobFailure, match="sleep mode is off"):
            device.vacate()
        device.sleep()
        try:
            adapted = []
            for _ in range(2):
                with sampler.awake():
                    adapted.append(sampler.sample([(1, 50)], 1, sampling, None))
                    with policy.base_only():
                        base = sampler.sample([(1, 50)], 1, sampling, None)
                    assert len(vllm.loaded()) == len(others) + 1
                assert set(vllm.loaded()) == others
                assert httpx.get(f"{vllm.url}/is_sleeping").json() == {"is_sleeping": True}
        finally:
            client.wake_up()
    assert adapted[0] == adapted[1] != base
