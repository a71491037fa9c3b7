"""Chooses where a job samples: in the trainer, or on vLLM servers, which may share the trainer's devices."""

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from app.core.chat.tokenizer import ChatTokenizer
from app.core.retry import RetryPolicy
from app.core.spec.job import TrainerSpec
from app.core.spec.subprocess_environment import ROLLOUT_API_KEY
from worker.training.distributed import Ranks
from worker.training.interfaces import RolloutEngine, StopFlag
from worker.training.model import Policy
from worker.training.rollouts.sampler import Sampler
from worker.training.rollouts.shared_device import SharedDevice
from worker.training.rollouts.vllm_client import VllmClient
from worker.training.rollouts.vllm_sampler import serving


def vacate_devices(
    trainer_spec: TrainerSpec, ranks: Ranks, stop: StopFlag, retry_policy: RetryPolicy | None = None
) -> None:
    """Puts servers that share the trainer's devices to sleep, also for jobs that do not sample on them.

    Raises `JobFailure` for a server that cannot sleep, and `PeerLost`.
    """
    if trainer_spec.rollout_shares_device:
        with ExitStack() as connections:
            clients = [connections.enter_context(client) for client in _clients(trainer_spec, stop, retry_policy)]
            SharedDevice(clients, ranks, trainer_spec.processes).vacate()


def open_engine(
    trainer_spec: TrainerSpec,
    policy: Policy,
    tokenizer: ChatTokenizer,
    ranks: Ranks,
    run_dir: Path,
    stop: StopFlag,
    retry_policy: RetryPolicy | None = None,
) -> AbstractContextManager[RolloutEngine]:
    """Returns the rollout servers for jobs that train on rollouts, else the in-process sampler, used for evaluation."""
    if not trainer_spec.rollout_urls or trainer_spec.spec.group.self_ == 0:
        return nullcontext(Sampler(policy, tokenizer.end_ids, tokenizer.pad_id))
    clients = _clients(trainer_spec, stop, retry_policy)
    # Each rank begins with another server: with few prompts a rank does not use all of them.
    start = ranks.rank % len(clients)
    shares = trainer_spec.rollout_shares_device
    return serving(
        policy,
        tokenizer.end_ids,
        clients[start:] + clients[:start],
        base_name=Path(trainer_spec.base_model_dir).name,
        # Each rank loads its own adapter on the servers, so that no rank waits for another.
        run_name=f"{trainer_spec.job_id}-a{trainer_spec.attempt}-r{ranks.rank}",
        directory=run_dir / "rollouts",
        device=SharedDevice(clients, ranks, trainer_spec.processes) if shares else None,
    )


def _clients(trainer_spec: TrainerSpec, stop: StopFlag, retry_policy: RetryPolicy | None) -> list[VllmClient]:
    key = os.environ.get(ROLLOUT_API_KEY)
    return [VllmClient(url, key, stop, retry_policy=retry_policy) for url in trainer_spec.rollout_urls]
