"""Checks the engine's own functions against a file of golden vectors: `python bench/check_vectors.py FILE`.

A case contains logits, tokens, mask, rewards and tau, and the expected advantages, log-probs, coefficients, loss and
gradient of the loss with respect to the logits. The engine takes hidden states, not logits, so each case uses an
identity matrix as output head: hidden states then equal logits. Prints the largest error of each quantity over all
cases. The exit code is 1 if an error exceeds 1e-9, and 2 if the file cannot be used.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.core.spec.advantages import group_advantages
from worker.training.lm_head import CHUNK_ELEMENTS, Head, token_logprobs
from worker.training.loss import coefficient, token_loss

TOLERANCE: Final = 1e-9
USAGE: Final = "usage: python bench/check_vectors.py FILE"


def errors(case: Mapping[str, Any], chunk_elements: int = CHUNK_ELEMENTS) -> dict[str, float]:
    """Return the largest absolute error of each quantity (float64). Raises `KeyError` for a missing field.

    The head computes `chunk_elements` logits at a time.
    """
    expected = {
        name: torch.tensor(case[name], dtype=torch.float64)
        for name in ("advantages", "token_logprob", "coefficient", "loss", "grad_logits")
    }
    tokens_K_T = torch.tensor(case["tokens"])
    mask_K_T = torch.tensor(case["mask"], dtype=torch.float64)
    logits_K_T_V = torch.tensor(case["logits"], dtype=torch.float64, requires_grad=True)
    advantages = [0.0 if advantage is None else advantage for advantage in group_advantages(case["rewards"])]
    advantages_K = torch.tensor(advantages, dtype=torch.float64)
    identity = Head(torch.eye(logits_K_T_V.shape[-1], dtype=torch.float64))
    logprobs_N, entropies_N = token_logprobs(
        logits_K_T_V.flatten(0, 1), identity, tokens_K_T.flatten(), chunk_elements=chunk_elements
    )
    loss = token_loss(
        logprobs_N,
        advantages_K.repeat_interleave(tokens_K_T.shape[1]),
        mask_K_T.flatten(),
        case["tau"],
        float(mask_K_T.sum()),
    )
    (gradient_K_T_V,) = torch.autograd.grad(loss, logits_K_T_V)
    coefficients_K_T = coefficient(logprobs_N, case["tau"]).view_as(mask_K_T)
    actual: dict[str, Tensor] = {
        "advantages": advantages_K,
        "token_logprob": logprobs_N.detach().view_as(mask_K_T),
        "coefficient": coefficients_K_T,
        "loss": loss.detach(),
        "grad_logits": gradient_K_T_V,
    }
    result = {name: float((actual[name] - expected[name]).abs().max()) for name in expected}
    if "rectified_frac" in case:
        rectified = ((logprobs_N.detach().exp().view_as(mask_K_T) < case["tau"]) * mask_K_T).sum() / mask_K_T.sum()
        result["rectified_frac"] = abs(float(rectified) - case["rectified_frac"])
    if "mean_entropy" in case:
        entropy = (entropies_N.view_as(mask_K_T) * mask_K_T).sum() / mask_K_T.sum()
        result["mean_entropy"] = abs(float(entropy) - case["mean_entropy"])
    return result


def main(arguments: list[str]) -> int:
    """Check every case of the file; return the exit code."""
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        cases = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))["cases"]
        by_case = {case["name"]: errors(case) for case in cases}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments[0]} is not a file of golden vectors: {error!r}\n{USAGE}", file=sys.stderr)
        return 2
    if not by_case:
        print(f"{arguments[0]} contains no cases.", file=sys.stderr)
        return 2
    largest: dict[str, tuple[float, str]] = {}
    for name, quantities in by_case.items():
        for quantity, value in quantities.items():
            # NaN compares false with everything, so it needs its own test: `value != value`.
            if quantity not in largest or value > largest[quantity][0] or value != value:
                largest[quantity] = (value, name)
    print(f"{len(by_case)} cases, largest error of each quantity (allowed: {TOLERANCE:g})")
    for quantity, (value, name) in largest.items():
        print(f"  {quantity:15s} {value:.3e}  {'ok' if value <= TOLERANCE else 'WRONG'}  in {name}")
    return 0 if all(value <= TOLERANCE for value, _ in largest.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
