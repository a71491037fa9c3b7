"""Random adapters of the base model `tiny`, exported as the trainer does, with their probes."""

import warnings
from pathlib import Path

from app.core.models.tables import TrainedModel
from app.core.storage.local import LocalBlobStore
from tests.worker.training.architectures import random_policy, randomise
from worker.training.export import save_adapter
from worker.training.probe import write_probe
from worker.training.types import Prompt

PROMPT = tuple(range(4, 20))


def write_adapters(base: Path, directory: Path, names: str, *, scale: float = 0.15) -> dict[str, Path]:
    """Write one adapter for each letter of `names`; return their directories."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft 0.21 with transformers 5
        policy = random_policy(base)
    prompt = Prompt(line=1, text="", ids=PROMPT, teacher_answers=(), item={})
    for seed, name in enumerate(names, start=1):
        randomise(policy, seed, scale)
        write_probe(save_adapter(directory / name, policy, "tiny"), policy, [prompt], end_ids=())
    return {name: directory / name for name in names}


def store_adapter(store: LocalBlobStore, directory: Path, name: str, base: str = "tiny") -> TrainedModel:
    """Store an adapter as a published model of a job."""
    store.put_tree(f"jobs/{name}", directory)
    return TrainedModel(id=f"ft:{base}:default::{name}", base_model=base, blob=f"jobs/{name}", has_adapter=True)
