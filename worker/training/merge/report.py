"""What a merge found, for people: the difference from the unmerged model and what rounding left of the adapter."""

from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

_ROUNDINGS: Final = 16
"""Times the dtype's epsilon. Rounding moved log-probabilities by 3 to 6 epsilons of their spread in ten tiny
architectures and in a 30-layer model, in bf16 and in fp16; it grows with the square root of the depth."""
_FLOOR: Final = 1e-4
"""For fp32, where the order of the sums weighs more than the epsilon: 1e-6 to 4e-6 were measured."""
_SURVIVAL: Final = 0.9
"""Below this the reader is warned."""

_CARD: Final = """---
base_model: {base}
base_model_relation: finetune
library_name: transformers
pipeline_tag: text-generation
tags: [grouptune]
---
# {name}

`{base}` with a LoRA adapter trained by Grouptune, merged into one model.

{findings}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/directory", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```
"""


class MergeRefused(Exception):
    """The adapter cannot be merged; nothing was written."""


class Survival(Protocol):
    """What rounding left of the change of all merged layers."""

    layers: int

    @property
    def survival(self) -> float: ...

    @property
    def relative_error(self) -> float: ...


@dataclass(frozen=True)
class Comparison:
    """Merged beside unmerged log-probabilities over the whole vocabulary; nats, but for `relative` and `tolerance`."""

    rms: float
    maximum: float
    effect: float
    """Root mean square of what the adapter changes at all."""
    relative: float
    """`rms` beside the standard deviation of the log-probabilities over the vocabulary."""
    tolerance: float
    """What `relative` may be."""

    @classmethod
    def of(cls, merged: Tensor, unmerged: Tensor, without: Tensor, dtype: torch.dtype) -> "Comparison":
        """From log-probabilities [B, T, V] of the merged model, the unmerged one, and the base model."""
        rms = float((merged - unmerged).square().mean().sqrt())
        spread = float((unmerged - unmerged.mean(-1, keepdim=True)).square().mean().sqrt())
        return cls(
            rms=rms,
            maximum=float((merged - unmerged).abs().max()),
            effect=float((unmerged - without).square().mean().sqrt()),
            relative=rms / spread,
            tolerance=max(_ROUNDINGS * torch.finfo(dtype).eps, _FLOOR),
        )

    def check(self) -> None:
        """Raises `MergeRefused` when rounding cannot explain the difference; NaN is one."""
        if not self.relative <= self.tolerance:
            raise MergeRefused(
                f"The merged model is not the unmerged one: its log-probabilities are {self.rms:.2g} nats off, "
                f"{self.relative:.2%} of their spread, where rounding explains {self.tolerance:.2%}. Nothing was "
                "written; use the base model with the adapter."
            )


@dataclass(frozen=True)
class Merged:
    """A finished merge."""

    name: str
    base: str
    dtype: torch.dtype
    rounding: Survival
    comparison: Comparison

    def lines(self) -> list[str]:
        """Sentences for the terminal and the card."""
        found, dtype = self.comparison, str(self.dtype).removeprefix("torch.")
        lines = [
            f"{self.rounding.layers} layers were merged in float32 and rounded once to {dtype}.",
            f"The log-probabilities are {found.rms:.2g} nats (RMS; at most {found.maximum:.2g}) off the unmerged "
            f"model's: {found.relative:.2%} of their spread, where up to {found.tolerance:.2%} is rounding. The "
            f"adapter moves them by {found.effect:.2g} nats.",
            f"{self.rounding.survival:.1%} of the adapter's change of the weights survives the rounding (relative "
            f"error {self.rounding.relative_error:.2g}).",
        ]
        if self.rounding.survival < _SURVIVAL:
            lines.append(
                f"Warning: {dtype} swallows {1 - self.rounding.survival:.0%} of so small a change. The base model with "
                "the adapter beside it loses nothing."
            )
        return lines


def card(merged: Merged) -> str:
    """The model card, README.md."""
    return _CARD.format(name=merged.name, base=merged.base, findings="\n".join(f"- {one}" for one in merged.lines()))
