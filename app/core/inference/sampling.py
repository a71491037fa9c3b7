"""How completions are sampled, and the request to an engine."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_LEAST_TEMPERATURE: Final = 1e-5
"""Below it the most probable token is taken: logits divided by less overflow. vLLM draws the line here, too."""
_LEAST_TOP_P: Final = 1e-6
"""Stands for 0, which OpenAI accepts and engines refuse: the most probable token alone."""


@dataclass(frozen=True)
class Sampling:
    """The sampling parameters of one request, with OpenAI's meaning and defaults."""

    n: int = 1
    max_tokens: int | None = None
    """Per completion, the end token included; None: as many as the context has room for."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    """By token id."""
    logprobs: int | None = None
    """Number of alternatives for each token; 0: only the chosen one; None: no log-probabilities."""

    def to_body(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        end_ids: Collection[int],
        structured_outputs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the body of a request to an engine, without `model` and `stream`; `end_ids` end a completion.

        It has every field, because engines have defaults of their own, such as those of generation_config.json.
        """
        return {
            "prompt": list(prompt_ids),
            "n": self.n,
            "max_tokens": max_tokens,
            "temperature": self.temperature if self.temperature >= _LEAST_TEMPERATURE else 0.0,
            "top_p": max(self.top_p, _LEAST_TOP_P),
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {str(token): bias for token, bias in self.logit_bias.items()} if self.logit_bias else None,
            "seed": self.seed,
            "stop": list(self.stop),
            "stop_token_ids": sorted(end_ids),
            "ignore_eos": True,  # `stop_token_ids` has every end token, also those that the engine does not know
            "skip_special_tokens": False,
            "logprobs": self.logprobs,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "structured_outputs": structured_outputs,
            "prompt_logprobs": None,
        }
