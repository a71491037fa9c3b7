"""The model without any of the engine's own arithmetic: transformers' eager attention, PEFT's own LoRA forward, one
sequence at a time, no padding. What the engine computes is compared with this.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor

from worker.training.base_model import model_class
from worker.training.batching import Example
from worker.training.model import Policy

Groups = Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
"""Prompt ids and the ids of the responses to it."""


def examples(groups: Groups) -> list[list[Example]]:
    """The same groups as sequences, as the engine packs them."""
    return [[(prompt, response) for response in responses] for prompt, responses in groups]


def plain_base(directory: Path, attention: str = "eager", /, **changes: object) -> Any:
    """The base model alone, with changes to its config; transformers' eager attention is no better than fp32."""
    model: Any = model_class(directory).from_pretrained(
        directory, dtype="auto", attn_implementation=attention, **changes
    )
    return model.eval()


def plain_copy(directory: Path, policy: Policy, attention: str = "eager") -> Any:
    """A PEFT model of the same base and the same adapter values as `policy`."""
    model: Any = get_peft_model(plain_base(directory, attention), policy.model.peft_config["default"])
    copy_adapter(policy, model)
    return model.eval()


def copy_adapter(policy: Policy, model: Any) -> None:
    """Gives `model` the adapter values that `policy` has now."""
    with torch.no_grad():
        for name, value in trained(model).items():
            value.copy_(policy.trained[name])


def trained(model: Any) -> dict[str, Tensor]:
    """The adapter's parameters by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def sequence_logprobs(model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0) -> Tensor:
    """Log p of each token of one response, from the logits of a whole forward pass."""
    ids = torch.tensor([[*prompt, *response]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / temperature
    chosen: Tensor = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
    return chosen


def logprobs(model: Any, groups: Groups, temperature: float = 1.0) -> Tensor:
    """Log p of every token of every response, in order."""
    return torch.cat(
        [
            sequence_logprobs(model, prompt, response, temperature)
            for prompt, responses in groups
            for response in responses
        ]
    )


def gradients(model: Any, objective: Tensor) -> dict[str, Tensor]:
    """d objective / d adapter, by name."""
    parameters = trained(model)
    return dict(zip(parameters, torch.autograd.grad(objective, list(parameters.values())), strict=True))


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Euclidean distance of two sets of tensors, relative to the size of the expected one."""
    assert found.keys() == expected.keys()
    apart = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in expected)
    size = sum(float(value.double().square().sum()) for value in expected.values())
    assert size > 0
    return float((apart / size) ** 0.5)
