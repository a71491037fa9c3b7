"""Golden vectors as whole groups for the engine.

A vector prescribes the logits of each response, but a model gives all responses to one prompt the same first
distribution. So each response begins with its own marker token, which gives the tokens after it a context of their own.
The markers' rows in the output head are equal, so every marker has p = 1/K, and their gradients add up to the sum of
A_k, which is 0. The states of all contexts come from plain transformers, and the output head is solved so that these
states have the vector's logits. Only N grows, by K.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from app.core.spec.advantages import group_advantages, has_contrast
from app.core.spec.reports import Source
from tests.worker.training import architectures, plain
from worker.training.model import Policy
from worker.training.types import GroupMember, Prompt, PromptGroup

VECTORS: Final = Path(__file__).with_name("gft_vectors.json")
CASES: Final[dict[str, dict[str, Any]]] = {
    case["name"]: case for case in json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
}
ARCHITECTURE: Final = "starcoder2"
"""Its layers compute in float64 on request; RMS norms in transformers do not."""
_NEVER: Final = -60.0
"""Logit of all other tokens: e^-60 vanishes next to 1, even in float64."""


@dataclass(frozen=True)
class Golden:
    """One vector as the engine sees it, and the same model without the engine."""

    case: Mapping[str, Any]
    group: PromptGroup
    policy: Policy
    model: Any

    @property
    def added(self) -> float:
        """N with the markers over N without them."""
        tokens = sum(len(member.ids) for member in self.group.members)
        return tokens / (tokens - len(self.group.members))

    @property
    def adapter_gradient(self) -> dict[str, Tensor]:
        """The vector's gradient by the logits, carried on to the adapter by plain autograd."""
        logits_N_V = self.logits
        return plain.gradients(self.model, (logits_N_V * self.given("grad_logits", logits_N_V.dtype)).sum())

    @property
    def logits(self) -> Tensor:
        """What the model without the engine makes of every trained token's context, of the vector's kinds of tokens."""
        logits_N_V: Tensor = self._states_N_H @ self._weight_V_H.T
        return logits_N_V

    @property
    @torch.no_grad()
    def rounding(self) -> float:
        """How far rounding may move a logit: an epsilon of the sum of |h||W|.

        The logits are of the size of 5, but the head that was solved for is not: up to 850 cancels down to them.
        """
        sums_N_V = self._states_N_H.abs() @ self._weight_V_H.abs().T
        return float(sums_N_V.max()) * torch.finfo(sums_N_V.dtype).eps

    @property
    def _states_N_H(self) -> Tensor:
        prompt = self.group.prompt.ids
        states = [_states(self.model, (*prompt, *one.ids[:-1]))[len(prompt) :] for one in self.group.members]
        return torch.cat(states)

    @property
    def _weight_V_H(self) -> Tensor:
        weight_V_H: Tensor = self.model.get_base_model().lm_head.weight[: len(self.case["logits"][0][0])]
        return weight_V_H

    def given(self, field: str, dtype: torch.dtype) -> Tensor:
        """A field [K, T, V] of the vector as [N, V]: its unmasked tokens."""
        return torch.tensor(self.case[field], dtype=dtype)[torch.tensor(self.case["mask"]).bool()]


def realise(name: str, directory: Path) -> Golden:
    """Vector `name` over the base model of `directory`, whose head is replaced in memory."""
    case = CASES[name]
    policy = architectures.random_policy(directory)
    model = plain.plain_copy(directory, policy, "sdpa")
    group = _group(case)
    weight_V_H = _solved_head(case, group, model)
    with torch.no_grad():
        for causal in (policy.causal, model.get_base_model()):
            causal.lm_head.weight.copy_(weight_V_H)
    return Golden(case, group, policy, model)


def _group(case: Mapping[str, Any]) -> PromptGroup:
    kinds = len(case["logits"][0][0])
    # Long enough that groups with the same prompt share all but its end.
    prompt = Prompt(1, "", 2 * tuple(range(kinds, architectures.VOCABULARY)), (), {})
    members = [
        GroupMember(
            Source.self, (kinds + k, *(t for t, kept in zip(tokens, mask, strict=True) if kept)), "", finished=True
        )
        for k, (tokens, mask) in enumerate(zip(case["tokens"], case["mask"], strict=True))
    ]
    for member, reward, advantage in zip(members, case["rewards"], group_advantages(case["rewards"]), strict=True):
        member.reward, member.advantage = reward, advantage
    return PromptGroup(prompt, members, not has_contrast(case["rewards"]))


@torch.no_grad()
def _solved_head(case: Mapping[str, Any], group: PromptGroup, model: Any) -> Tensor:
    """Head rows [V, H] for which the states of all contexts have the logits that the vector gives."""
    kinds, members = len(case["logits"][0][0]), len(group.members)
    prompt = group.prompt.ids
    states = [_states(model, (*prompt, *one.ids[:-1]))[len(prompt) - 1 :] for one in group.members]
    states_N_H = torch.cat([states[0][:1], *(rows[1:] for rows in states)])
    logits_N_V = torch.full((len(states_N_H), architectures.VOCABULARY), _NEVER, dtype=states_N_H.dtype)
    logits_N_V[0, kinds : kinds + members] = 0.0
    mask_K_T = torch.tensor(case["mask"]).bool()
    logits_N_V[1:, :kinds] = torch.tensor(case["logits"], dtype=states_N_H.dtype)[mask_K_T]
    solved_H_V: Tensor = torch.linalg.pinv(states_N_H.double()) @ logits_N_V.double()
    return solved_H_V.T.to(states_N_H.dtype)


def _states(model: Any, ids: tuple[int, ...]) -> Tensor:
    trunk = model.get_base_model().base_model
    states: Tensor = trunk(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    return states
