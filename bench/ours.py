"""Grouptune's engine as a contender of `bench/train.py`, and a check of it against transformers' eager attention."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from app.core.spec.advantages import group_advantages
from app.core.spec.job import Lora, Sampling
from app.core.spec.plan import TOKEN_BUDGET
from app.core.spec.reports import Source
from bench.cases import LEARNING_RATE, Case, conversations, measure, tokens
from worker.training.batching import pack
from worker.training.model import load_policy
from worker.training.optimizer import Updater, new_optimizer
from worker.training.policy_loss import PolicyLoss
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.self_check import eager_logprobs
from worker.training.types import GroupMember, Prompt, PromptGroup


def build(case: Case, model_dir: Path, _contender: str) -> Callable[[], object]:
    """Load the model; return a function that runs one optimiser step, or one call of the sampler."""
    policy = load_policy(model_dir, Lora(), 0)
    prompts, responses = tokens(case)
    if case.kind == "rollout":
        sampler = Sampler(policy, end_ids=(), pad_id=0)  # no token ends a sequence: all have the same length
        sampling = Sampling(max_tokens=case.response_tokens)
        return lambda: sampler.sample(prompts, case.members, sampling, generator(0))
    updater = Updater(
        policy,
        new_optimizer(policy),
        loss=PolicyLoss(tau=0.7 if case.kind == "group" else 0.0),
        temperature=1.0,
        token_budget=TOKEN_BUDGET,
        on_shrink=lambda budget: print(f"micro-batches of {budget} tokens", file=sys.stderr),
    )
    if case.kind == "conversations":
        conversational = [_conversation(turns) for turns in conversations(case)]
        return lambda: updater.update(conversational, LEARNING_RATE)
    rewards = [1.0 if member % 3 == 0 else 0.0 for member in range(case.members)]
    advantages = [1.0] if case.kind == "supervised" else group_advantages(rewards)
    groups = [
        PromptGroup(
            Prompt(1, "", prompt, (), {}),
            [
                GroupMember(Source.teacher, ids, "", True, advantage=advantage)
                for ids, advantage in zip(members, advantages, strict=True)
            ],
        )
        for prompt, members in zip(prompts, responses, strict=True)
    ]
    return lambda: updater.update(groups, LEARNING_RATE)


def _conversation(turns: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> PromptGroup:
    """Return a group with every answer as a member; its context is the conversation up to it."""
    members: list[GroupMember] = []
    context: tuple[int, ...] = ()
    for user, answer in turns:
        context += user
        members.append(GroupMember(Source.expert, answer, "", True, advantage=1.0, context=context))
        context += answer
    return PromptGroup(Prompt(1, "", context, (), {}), members)


def check(model_dir: Path) -> dict[str, float]:
    """Return the largest differences from transformers' eager attention in fp32: of log-probs, and relative ones of
    gradients."""
    case = Case("check", "group", 2, 4, 48, 24, 0)
    policy = load_policy(model_dir, Lora(), 0, dtype=torch.float32)
    with torch.no_grad():
        for name, value in policy.trained.items():
            if "lora_B" in name:
                value.normal_(std=0.02)
    prompts, responses = tokens(case)
    groups = [[(prompt, ids) for ids in members] for prompt, members in zip(prompts, responses, strict=True)]
    packed = pack(groups, policy.device)
    weights = torch.linspace(-1, 1, len(packed.tokens_N))
    logprobs, _ = policy.logprobs(packed, 1.0)
    gradients = torch.autograd.grad((logprobs * weights).sum(), list(policy.trained.values()))
    # The reference has nothing of ours: transformers' eager attention and layers, and PEFT's own LoRA forward.
    policy.use_plain("reference", "eager")
    plain = eager_logprobs(policy.causal, groups)
    plain_gradients = torch.autograd.grad((plain * weights).sum(), list(policy.trained.values()))
    scale = max(float(gradient.abs().max()) for gradient in plain_gradients)
    difference = max(float((a - b).abs().max()) for a, b in zip(gradients, plain_gradients, strict=True))
    return {"logprobs": float((logprobs - plain).abs().max()), "gradients": difference / scale}


if __name__ == "__main__":
    if sys.argv[1] == "check":
        print(json.dumps(check(Path(sys.argv[2]))))
    else:
        measure(build)
