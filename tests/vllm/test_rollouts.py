"""A job whose rollouts a real vLLM samples, with the adapter of each step."""

from pathlib import Path

import pytest

from app.core.spec.reports import Metrics, TrainerExit
from tests.vllm.server import KEY, VllmServer
from tests.worker.training.rollouts.test_vllm_run import GAP, WEIGHT, versions
from tests.worker.training.runs import STEPS, Job, messages, of_kind


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
