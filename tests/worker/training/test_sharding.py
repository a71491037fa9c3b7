"""Ranks that share a base model compute what one rank with the whole model does."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.core.spec.job import BasePrecision
from app.core.spec.reports import Failed, Finished, Message, TrainerExit
from app.core.spec.sharding import is_sharded
from tests.forked import Program
from tests.worker.training import plain
from tests.worker.training.architectures import LORA, randomise
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.runs import (
    REPOSITORY,
    Job,
    evaluations,
    of_kind,
    parse,
    sha256,
    steady,
    trainer_process,
)
from tests.worker.training.sharded_rank import measure
from tests.worker.training.test_distributed import two
from worker.training.distributed import Ranks
from worker.training.export import save_adapter
from worker.training.model import load_policy

WEIGHTS = "adapter_model.safetensors"


def run_ranks(run_dir: Path, size: int, precision: str, models: Sequence[Path]) -> None:
    """Runs `sharded_rank` on `size` processes over loopback."""
    module, environment = "tests.worker.training.sharded_rank", os.environ | {"OMP_NUM_THREADS": "1"}
    with ExitStack() as running:
        ranks: list[Program | subprocess.Popen[bytes]] = []
        for rank in range(size):
            words = (run_dir, rank, size, precision, *models)
            out, err = run_dir / f"{rank}.out", run_dir / f"{rank}.err"
            if precision == "4bit":  # forked processes cannot import bitsandbytes
                log = running.enter_context(err.open("wb"))
                command = [sys.executable, "-m", module, *map(str, words)]
                process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=log)
                ranks.append(running.enter_context(process))
            else:
                program = Program(module, words, directory=REPOSITORY, environment=environment, stdout=out, stderr=err)
                ranks.append(running.enter_context(program))
        codes = [process.wait(240) for process in ranks]
    assert codes == [0] * size, [(run_dir / f"{rank}.err").read_text() for rank in range(size)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "precision", "architectures"),
    [
        pytest.param(2, "native", ("llama", "gemma2", "gpt-oss", "bloom", "qwen3-next"), id="two"),
        pytest.param(2, "4bit", ("llama",), id="two in 4 bits"),
        pytest.param(4, "native", ("llama",), id="four"),
    ],
)
def test_shards_compute_what_the_whole_does(
    size: int, precision: BasePrecision, architectures: Sequence[str], model_directory: ModelDirectory, tmp_path: Path
) -> None:
    """Separate and tied heads, adapted experts, both paths, and ranks that have nothing to train or to sample."""
    models = [model_directory(name) for name in architectures]
    run_ranks(tmp_path, size, precision, models)
    for model in models:
        whole = randomise(load_policy(model, LORA, seed=0, precision=precision))
        expected, samples = measure(whole, Ranks())
        logprobs = expected.pop("logprobs")
        save_adapter(tmp_path / model.name, whole, "base")
        for rank in range(size):
            name = f"{model.name}-{rank}"
            summary = json.loads((tmp_path / f"{name}.json").read_text())
            found = load_file(tmp_path / f"{name}.safetensors")
            assert summary["path"] == whole.path.name, summary["reason"]
            assert torch.allclose(found.pop("logprobs"), logprobs, atol=1e-6)
            assert plain.distance(found, expected) < 1e-6
            assert summary["sampled"] == (samples if rank == 0 else [])
            assert summary["own_bytes"] < 1.1 * summary["total_bytes"] / size
            assert sha256(tmp_path / f"{name}-adapter" / WEIGHTS) == sha256(tmp_path / model.name / WEIGHTS)


@pytest.mark.slow
def test_sharded_job_evaluates_like_a_whole_one(tmp_path: Path, chat_directory: Path) -> None:
    """A job with rollouts, evaluations and checkpoints; one process with the whole base can resume it."""
    job = Job(tmp_path / "sharded", chat_directory)
    job.write(n_epochs=1, sharding="full")
    with trainer_process(two(job)) as process:
        reports = parse(process.output(240))
    assert process.returncode == TrainerExit.succeeded, (job.run_dir / "trainer.log").read_text()
    [held] = [one for one in of_kind(reports, Message) if (one.data or {}).get("sharded")]
    assert held.data is not None
    assert held.data["bytes_per_process"] < 0.55 * held.data["base_bytes"]
    assert held.message.startswith("Each of the 2 processes holds ")
    _, alone = job.sibling("alone").run(n_epochs=1)
    assert evaluations(reports)[0].values == pytest.approx(evaluations(alone)[0].values, abs=1e-5)
    assert steady(reports).keys() == steady(alone).keys()
    [published] = of_kind(reports, Finished)
    assert (Path(published.path) / "probe.json").is_file()
    code, _ = job.sibling("resumed").run(n_epochs=1, resume_from=job.checkpoint(3))
    assert code == TrainerExit.succeeded


def test_one_process_cannot_share_its_base(tmp_path: Path, chat_directory: Path) -> None:
    code, reports = Job(tmp_path / "run", chat_directory).run(sharding="full")
    [failed] = of_kind(reports, Failed)
    assert (code, failed.code) == (TrainerExit.bad_config, "sharding_unavailable")
    assert failed.param == "method.gft.hyperparameters.sharding"
    assert "the job trains with one" in failed.message


def test_auto_shards_a_base_too_large_for_a_gpu() -> None:
    assert is_sharded("auto", 2, 72e9, 80e9)
    assert not is_sharded("auto", 2, 60e9, 80e9)
    assert not is_sharded("auto", 1, 72e9, 80e9)
    assert not is_sharded("auto", 2, 72e9, None)  # on a CPU
    assert is_sharded("full", 2, 16e9, None)
    assert not is_sharded("none", 2, 160e9, 80e9)
