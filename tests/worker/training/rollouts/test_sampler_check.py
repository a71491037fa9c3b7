"""The comparison of the sampler with training: what it finds, and what is used instead.

Some tests put a faulty part into the real sampler: that is the fault which the comparison must find.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import RobertaConfig

from app.core.spec.job import Sampling
from tests.worker.training.architectures import END, PAD, VOCABULARY, build, random_policy
from tests.worker.training.conftest import ModelDirectory
from worker.training.batching import pack
from worker.training.kv import KvSlots
from worker.training.model import Policy
from worker.training.rollouts.rows import PaddedRows
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.rollouts.sampler_check import check_sampler
from worker.training.types import JobFailure

ROBERTA = RobertaConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=128,
    is_decoder=True,
)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "falcon-h1"])
def test_right_samples_change_nothing(name: str, model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory(name))
    before = policy.path
    check_sampler(policy, model_directory(name))
    assert (policy.path, policy.notes, policy.uses_cache) == (before, [], True)
    assert policy.decodes_exactly


def test_wrong_positions_are_found(model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def positions(self: PaddedRows) -> Tensor:
        """`PaddedRows._positions`, but padding counts."""
        return torch.full((len(self._attention_B_T), 1), self._attention_B_T.shape[1] - 1)

    policy = random_policy(model_directory("llama"))
    monkeypatch.setattr(PaddedRows, "_positions", positions)
    check_sampler(policy, model_directory("llama"))
    assert policy.path.name == "plain"
    assert "sampled tokens differ" in policy.path.reason
    assert policy.uses_cache


def test_crash_of_the_sampler_is_found(model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def prefill(self: PaddedRows, prompts: Any, count: int) -> Any:
        raise TypeError("no such cache")

    policy = random_policy(model_directory("llama"))
    monkeypatch.setattr(PaddedRows, "prefill", prefill)
    check_sampler(policy, model_directory("llama"))
    assert policy.path.reason == "sampling fails: TypeError: no such cache"


def test_wrong_exact_rows_are_not_used(model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out answers are decoded with padding then; everything else stays as it is."""

    def move(self: KvSlots, source: int, target: int, length: int) -> None:
        """`KvSlots.move` that moves nothing."""

    policy = random_policy(model_directory("llama"))
    before = policy.path
    monkeypatch.setattr(KvSlots, "move", move)
    check_sampler(policy, model_directory("llama"))
    assert (policy.path, policy.uses_cache, policy.decodes_exactly) == (before, True, False)
    [note] = policy.notes
    assert note.startswith(
        "Held-out answers are decoded with padding, unlike in the inference engine: log-probabilities"
    )
    answers = Sampler(policy, (END,), PAD).sample([(5, 6, 7), (8, 9)], 1, Sampling(max_tokens=5), None)
    computed_N, _ = policy.logprobs(pack([[((5, 6, 7), answers[0][0].ids)]], policy.device), 1.0)
    assert computed_N.tolist() == pytest.approx(answers[0][0].logprobs, abs=1e-4)


def test_model_with_a_wrong_cache_samples_without(tmp_path: Path) -> None:
    """RoBERTa counts positions from the tokens of one call, so its cached steps all have the first position."""
    policy = random_policy(build(tmp_path, "roberta", more={"roberta": lambda: ROBERTA}))
    check_sampler(policy, tmp_path)
    assert not policy.uses_cache
    [note] = policy.notes
    assert note.startswith("Answers are sampled without a cache, which is slow: with one, log-probabilities of sampled")
    prompts = [(5, 6, 7), (8, 9)]
    for prompt, [answer] in zip(
        prompts, Sampler(policy, (END,), PAD).sample(prompts, 1, Sampling(max_tokens=5), generator(1)), strict=True
    ):
        computed_N, _ = policy.logprobs(pack([[(prompt, answer.ids)]], policy.device), 1.0)
        assert computed_N.tolist() == pytest.approx(answer.logprobs, abs=1e-4)


def test_model_that_cannot_be_sampled_is_refused(
    model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(self: Sampler, *_: Any) -> Any:
        raise ValueError("no such token")

    policy: Policy = random_policy(model_directory("llama"))
    monkeypatch.setattr(Sampler, "sample", sample)
    with pytest.raises(
        JobFailure, match="not supported because training a model of type 'llama' fails: sampling fails"
    ):
        check_sampler(policy, model_directory("llama"))
