"""Every family of docs/models.md, from loading to serving, against eager transformers and plain PEFT."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft import PeftModel

from app.core.spec.job import Sampling
from tests.worker.training import architectures, plain, updates
from tests.worker.training.architectures import END, PAD, VISION_LANGUAGE, WINDOW, random_policy
from tests.worker.training.families import FAMILIES, MORE, Family, left_out, table
from tests.worker.training.test_attention import random_groups
from worker.exporting.gguf import families as gguf
from worker.serving.adapters import read_adapter
from worker.serving.base import NotPacked, ServedBase
from worker.serving.plain import PlainBase
from worker.training.batching import pack
from worker.training.export import save_adapter
from worker.training.merge.model import merge
from worker.training.merge.report import MergeRefused
from worker.training.model import Policy
from worker.training.rollouts.sampler import Sampler, generator

CPU: Final = torch.device("cpu")
PAGE: Final = Path(__file__).parents[3] / "docs" / "models.md"
GROUPS: Final = random_groups([(2 * WINDOW, (5, 1)), (3, (2 * WINDOW,))])
HOW: Final = "To write the page again, run `python -m tests.worker.training.test_families`."
IDS: Final = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def measured(family: Family, tmp_path: Path) -> tuple[str, ...]:
    """Trains, exports, merges and serves a tiny model of the family; returns its row of the table."""
    base = architectures.build(tmp_path / "base", family.architecture, more=MORE)
    policy = random_policy(base)
    share, without = left_out(policy.model)
    check_numbers(policy, base)
    check_update(policy)
    check_samples(policy, base)
    adapter = check_export(policy, base, tmp_path)
    return (
        family.models,
        f"`{policy.causal.config.model_type}`",
        policy.path.name,
        f"{share:.0%}",
        ", ".join(dict.fromkeys(re.sub(r".*\.\d+\.", "", name).removesuffix(".weight") for name in without)) or "-",
        verdict(lambda: merge(adapter, base, tmp_path / "merged", "x", lambda _: None), MergeRefused),
        serve(policy, base, adapter),
        family.vllm,
        "yes" if policy.causal.config.architectures[0] in gguf.FAMILIES else "no",
    )


def check_numbers(policy: Policy, base: Path) -> None:
    """Log-probabilities and gradient."""
    model = plain.plain_copy(base, policy)
    found_N = policy.logprobs(pack(plain.examples(GROUPS), CPU), 0.7)[0]
    expected_N = plain.logprobs(model, GROUPS, 0.7)
    assert float((found_N - expected_N).detach().abs().max()) < 1e-4
    weights_N = torch.randn(len(found_N))
    found = plain.gradients(policy.model, (weights_N * found_N).sum())
    assert plain.distance(found, plain.gradients(model, (weights_N * expected_N).sum())) < 1e-4


def check_update(policy: Policy) -> None:
    """One optimiser step raises the log-probability of the better answer."""
    group = updates.group([1.0, 0.0], lengths=(4, 3))
    batch = pack([[(group.prompt.ids, member.ids) for member in group.members]], CPU)
    before_N = policy.logprobs(batch, 1.0)[0].detach()
    optimizer = torch.optim.AdamW(list(policy.trained.values()), lr=1e-3)
    result = updates.updater(policy, optimizer).update([group], 1e-3, 0)
    assert result.applied
    change_N = policy.logprobs(batch, 1.0)[0].detach() - before_N
    assert float(change_N[:4].sum()) > 0 > float(change_N[4:].sum())


def check_samples(policy: Policy, base: Path) -> None:
    """The sampler's log-probabilities are those of the policy."""
    prompts = [tuple(prompt) for prompt, _ in GROUPS]
    samples = Sampler(policy, (END,), PAD).sample(prompts, 2, Sampling(max_tokens=6, temperature=0.7), generator(3))
    sampled = [(prompt, [one.ids for one in row]) for prompt, row in zip(prompts, samples, strict=True)]
    found = torch.tensor([value for row in samples for one in row for value in one.logprobs])
    expected = plain.logprobs(plain.plain_copy(base, policy), sampled, 0.7).detach()
    assert float((found - expected).abs().max()) < 5e-3  # Nemotron-H: 2e-3


def check_export(policy: Policy, base: Path, tmp_path: Path) -> Path:
    """Plain PEFT loads the exported adapter and computes the same logits."""
    adapter = save_adapter(tmp_path / "adapter", policy, "base")
    loaded = PeftModel.from_pretrained(plain.plain_base(base), str(adapter))
    with torch.no_grad():
        found, expected = (each(input_ids=IDS, use_cache=False).logits for each in (loaded, policy.causal))
    assert torch.allclose(found, expected, atol=1e-4)
    return adapter


@torch.inference_mode()
def serve(policy: Policy, base: Path, adapter: Path) -> str:
    """Returns how the embedded engine decodes base model and adapter; it checks its own log-probabilities."""
    served = read_adapter("mine", adapter, "base")
    if not served.is_plain:
        try:
            ServedBase.load("base", base, CPU)
        except NotPacked:
            pass
        else:
            return "packed"
    engine = PlainBase.load("base", base, CPU)
    engine.bind(served)
    with engine.using(served):
        found = engine.logits(tuple(IDS[0].tolist()), engine.new_state(), keep_all=True)
    assert torch.allclose(found, policy.causal(input_ids=IDS, use_cache=False).logits[0], atol=1e-3)
    return "plain"


def verdict(attempt: Callable[[], Any], refusal: type[Exception]) -> str:
    """Returns whether `attempt` succeeds. Any other exception than a `refusal` with a reason fails the test."""
    try:
        attempt()
    except refusal:
        return "no"
    return "yes"


@pytest.fixture(scope="session")
def rows() -> dict[str, str]:
    """The rows of the page by the cell of the models."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.architecture)
def test_family(family: Family, tmp_path: Path, rows: dict[str, str]) -> None:
    row = table([measured(family, tmp_path)]).splitlines()[-1]
    assert rows.get(family.models) == row, f"docs/models.md has another row than measured. {HOW}\n{row}"


def test_page_lists_tested_families_only(rows: dict[str, str]) -> None:
    assert [name for name in rows if name not in ("Models", "---")] == [family.models for family in FAMILIES]


@pytest.mark.parametrize("name", list(VISION_LANGUAGE))
def test_only_language_layers_are_trained(name: str, tmp_path: Path) -> None:
    policy = random_policy(architectures.build(tmp_path / "base", name))
    assert policy.trained
    assert all("language_model" in value for value in policy.trained)


def write_page() -> None:
    """Replaces the table of the page by one that is measured now."""
    rows = []
    for family in FAMILIES:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as directory:
            rows.append(measured(family, Path(directory)))
    before = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(number for number, line in enumerate(before) if line.startswith("|"))
    after = [line for line in before if not line.startswith("|")]
    PAGE.write_text("".join([*after[:first], table(rows), *after[first:]]), encoding="utf-8")


if __name__ == "__main__":
    write_page()
