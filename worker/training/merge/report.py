"""Findings of a merge: the difference from the unmerged model, and how much of the adapter survives rounding."""

from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

_ROUNDINGS: Final = 16
"""Tolerance in epsilons of the dtype. Rounding moved log-probabilities by 3 to 6 epsilons of their spread in ten tiny
architectures and in a 30-layer model, in bf16 and in fp16. It grows with the square root of the depth."""
_FLOOR: Final = 1e-4
"""Least tolerance, for fp32, where the order of sums matters more than the epsilon: 1e-6 to 4e-6 measured."""
_SURVIVAL: Final = 0.9
"""Survival below which the report warns."""

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
from transformers import {loader}, AutoTokenizer

model = {loader}.from_pretrained("path/to/this/directory", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```
"""


class MergeRefused(Exception):
    """The adapter cannot be merged. Nothing was written."""


class MergeDiffers(MergeRefused):
    """The merged model gives other log-probabilities than the unmerged one. Nothing was written."""


class Survival(Protocol):
    """How much of the change of all merged layers survives rounding."""

    layers: int

    @property
    def survival(self) -> float: ...

    @property
    def relative_error(self) -> float: ...


@dataclass(frozen=True)
class Comparison:
    """Merged and unmerged log-probabilities over the vocabulary, in nats; `relative` and `tolerance` are ratios."""

    rms: float
    maximum: float
    effect: float
    """Root mean square of the difference that the adapter makes."""
    spread: float
    """Standard deviation of the log-probabilities over the vocabulary."""
    relative: float
    """`rms` over `spread`."""
    tolerance: float
    """The largest `relative` that rounding explains."""
    positions: int
    """Number of compared positions."""

    @classmethod
    def of(cls, merged: Tensor, unmerged: Tensor, without: Tensor, dtype: torch.dtype) -> "Comparison":
        """Compares log-probabilities [..., V] of the merged model, the unmerged model and the base model."""
        rms = float((merged - unmerged).square().mean().sqrt())
        spread = float((unmerged - unmerged.mean(-1, keepdim=True)).square().mean().sqrt())
        return cls(
            rms=rms,
            maximum=float((merged - unmerged).abs().max()),
            effect=float((unmerged - without).square().mean().sqrt()),
            spread=spread,
            relative=rms / spread,
            tolerance=max(_ROUNDINGS * torch.finfo(dtype).eps, _FLOOR),
            positions=merged[..., 0].numel(),
        )

    def check(self) -> None:
        """Raises `MergeRefused` if rounding cannot explain the difference, or the difference is NaN."""
        if not self.relative <= self.tolerance:
            raise MergeDiffers(
                f"The merged model differs from the unmerged one: its log-probabilities differ by {self.rms:.2g} nats, "
                f"{self.relative:.2%} of their spread, and rounding explains only {self.tolerance:.2%}. Nothing was "
                "written; use the base model with the adapter."
            )


@dataclass(frozen=True)
class Merged:
    """A finished merge."""

    name: str
    base: str
    loader: str
    """transformers' auto class that loads the model."""
    dtype: torch.dtype
    rounding: Survival
    comparison: Comparison

    def lines(self) -> list[str]:
        """Returns the findings as sentences, for the terminal and the model card."""
        comparison, dtype = self.comparison, str(self.dtype).removeprefix("torch.")
        lines = [
            f"{self.rounding.layers} layers were merged in float32 and rounded once to {dtype}.",
            f"The log-probabilities differ from the unmerged model's by {comparison.rms:.2g} nats (RMS; at most "
            f"{comparison.maximum:.2g}): {comparison.relative:.2%} of their spread, where rounding explains up to "
            f"{comparison.tolerance:.2%}. The adapter changes them by {comparison.effect:.2g} nats.",
            f"{self.rounding.survival:.1%} of the adapter's change to the weights survives the rounding (relative "
            f"error {self.rounding.relative_error:.2g}).",
        ]
        if self.rounding.survival < _SURVIVAL:
            lines.append(
                f"Warning: rounding to {dtype} loses {1 - self.rounding.survival:.0%} of this small change. Use the "
                "base model with the unmerged adapter to keep all of it."
            )
        return lines


def card(merged: Merged) -> str:
    """Returns the text of the model card, README.md."""
    findings = "\n".join(f"- {line}" for line in merged.lines())
    return _CARD.format(name=merged.name, base=merged.base, loader=merged.loader, findings=findings)
