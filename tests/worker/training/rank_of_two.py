"""One of two ranks that share a step: `python -m ... RUN_DIR MODEL_DIR RANK`. Saves the gradients after the sum."""

import sys
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import distributed

from tests.worker.training.architectures import random_policy
from tests.worker.training.test_optimizer import mixed_groups
from tests.worker.training.updates import gradient
from worker.training.distributed import Ranks

LOSSES: Final[dict[str, dict[str, Any]]] = {
    "gft": {"tau": 0.3},
    "options": {"normalization": "sequence", "kl_coefficient": 0.1, "clip": (0.2, 0.2), "importance_cap": 2.0},
}

if __name__ == "__main__":
    run_dir, model_dir, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{run_dir / 'meet'}", rank=rank, world_size=2)
    ranks = Ranks(rank, 2)
    policy = random_policy(model_dir)
    for name, options in LOSSES.items():
        groups = ranks.share(mixed_groups())
        summed, result = gradient(policy, groups, token_budget=20, ranks=ranks, **options)
        save_file(summed, run_dir / f"{name}-{rank}.safetensors")
        print(result.trained_tokens, repr(result.loss))  # noqa: T201 - what the test reads
    distributed.destroy_process_group()
