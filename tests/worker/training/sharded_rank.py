"""One of several ranks that share a base model: `python -m ... RUN_DIR RANK RANKS PRECISION MODEL_DIR...`.

Saves the gradients, log-probabilities and samples of each model, and the bytes that this rank holds.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed

from app.core.spec.job import Sampling
from tests.worker.training.architectures import END, LORA, PAD, randomise
from tests.worker.training.rank_of_two import LOSSES
from tests.worker.training.test_optimizer import mixed_groups
from tests.worker.training.updates import gradient
from worker.training.batching import Example, pack
from worker.training.distributed import Ranks
from worker.training.export import save_adapter
from worker.training.model import Policy, load_policy
from worker.training.rollouts.sampler import Sampler, generator

GROUPS: Final[list[list[Example]]] = [[((5, 6, 7), (8, 9)), ((5, 6, 7), (10,))], [((11, 12), (13, 14, 2))]]
PROMPTS: Final = [(5, 6, 7, 8), (12,), (13, 14, 3, 4)]
"""All of them fall to rank 0."""


def measure(policy: Policy, ranks: Ranks) -> tuple[dict[str, Tensor], list[Any]]:
    """Returns gradients by loss and parameter with the log-probabilities [N] of `GROUPS`, and samples."""
    found: dict[str, Tensor] = {}
    for name, options in LOSSES.items():
        summed, _ = gradient(policy, ranks.share(mixed_groups()), token_budget=20, ranks=ranks, **options)
        found |= {f"{name}.{parameter}": value for parameter, value in summed.items()}
    with torch.no_grad(), policy.lockstep():
        found["logprobs"] = policy.logprobs(pack(GROUPS, policy.device), 1.0)[0]
    with policy.lockstep():
        prompts = PROMPTS if ranks.rank == 0 else []
        sampled = Sampler(policy, (END,), PAD).sample(prompts, 2, Sampling(max_tokens=6), generator(1))
    return found, [[list(one.ids) for one in row] for row in sampled]


if __name__ == "__main__":
    run_dir, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{run_dir / 'meet'}", rank=rank, world_size=size)
    ranks = Ranks(rank, size)
    precision: Any = sys.argv[4]
    for model in map(Path, sys.argv[5:]):
        policy = randomise(load_policy(model, LORA, seed=0, precision=precision, sharding="full", ranks=ranks))
        assert policy.sharded is not None
        tensors, sampled = measure(policy, ranks)
        save_file(tensors, run_dir / f"{model.name}-{rank}.safetensors")
        save_adapter(run_dir / f"{model.name}-{rank}-adapter", policy, "base")
        summary = {
            "path": policy.path.name,
            "reason": policy.path.reason,
            "sampled": sampled,
            "own_bytes": policy.sharded.own_bytes,
            "total_bytes": policy.sharded.total_bytes,
        }
        (run_dir / f"{model.name}-{rank}.json").write_text(json.dumps(summary), encoding="utf-8")
    distributed.destroy_process_group()
