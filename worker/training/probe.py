"""The probe of a published adapter: a short text and its log-probs, to check that other programs apply the adapter.

The gateway compares them with an inference engine's, and exports with those of a converted model.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import torch

from app.core.spec.job import Sampling
from worker.training.batching import pack
from worker.training.model import Policy
from worker.training.rollouts.sampler import Sampler
from worker.training.types import Prompt

FILE: Final = "probe.json"
PROMPT_TOKENS: Final = 32
COMPLETION_TOKENS: Final = 32


@torch.no_grad()
def write_probe(directory: Path, policy: Policy, prompts: Sequence[Prompt], end_ids: Collection[int]) -> None:
    """Writes probe.json: the end of the shortest prompt, its greedy completion, and log p of each of its tokens.

    `logprobs` are the policy's and `base_logprobs` the base model's, in nats at temperature 1, [completion tokens].
    """
    prompt_ids = min((prompt.ids for prompt in prompts), key=len)[-PROMPT_TOKENS:]
    sampler = Sampler(policy, end_ids, pad_id=0)  # no padding: there is one sequence
    completion = sampler.sample([prompt_ids], 1, Sampling(max_tokens=COMPLETION_TOKENS), None)[0][0]
    batch = pack([[(prompt_ids, completion.ids)]], policy.device)
    logprobs_N, _ = policy.logprobs(batch, 1.0)
    with policy.base_only():
        base_logprobs_N, _ = policy.logprobs(batch, 1.0)
    probe = {
        "prompt_ids": prompt_ids,
        "completion_ids": completion.ids,
        "logprobs": logprobs_N.tolist(),
        "base_logprobs": base_logprobs_N.tolist(),
    }
    (directory / FILE).write_text(json.dumps(probe), encoding="utf-8")
