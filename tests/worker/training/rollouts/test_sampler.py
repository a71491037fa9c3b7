"""The sampler against transformers' `generate`, against the trainer, and against exact probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AfmoeConfig

from app.core.spec.job import Lora, Sampling
from app.core.spec.reports import Source
from tests.worker.training import plain
from tests.worker.training.architectures import END, EXPERTS, HEADS, PAD, VOCABULARY, build, random_policy, randomise
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.updates import updater
from worker.training.batching import pack, shared_length
from worker.training.model import Policy
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.types import Completion, GroupMember, Prompt, PromptGroup

PROMPTS = [(5, 6, 7, 8, 9, 10, 11), (12,), (13, 14, 3, 4), (8, 8, 8, 8, 8, 8, 8, 8, 8, 8)]
"""Ragged: all but the longest are padded on the left."""


def in_process(policy: Policy, **options: int) -> Sampler:
    return Sampler(policy, (END,), PAD, **options)


def draw(policy: Policy, count: int = 4, seed: int = 0, step: int = 1, **sampling: Any) -> list[list[Completion]]:
    options: dict[str, Any] = {"max_tokens": 12} | sampling
    return in_process(policy).sample(PROMPTS, count, Sampling(**options), generator(seed, 1, step))


def ids(drawn: Sequence[Sequence[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.ids for completion in row] for row in drawn]


def test_attention_whose_output_is_viewed(tmp_path: Path) -> None:
    """AFMoE views what its attention returns in another shape, which must be contiguous for that."""
    more = {"afmoe": lambda: AfmoeConfig(**HEADS, **EXPERTS, num_experts=4, layer_types=["full_attention"] * 2)}
    policy = random_policy(build(tmp_path / "afmoe", "afmoe", more=more))
    assert policy.is_fast
    [[sampled], *_] = draw(policy, count=1)
    with torch.no_grad():
        expected_N, _ = policy.logprobs(pack([[(PROMPTS[0], sampled.ids)]], policy.device), 1.0)
    assert torch.allclose(torch.tensor(sampled.logprobs), expected_N, atol=1e-5)


@pytest.mark.parametrize("head", [(), (15, 3, 16, 17, 9, 18)], ids=["nothing shared", "shared head"])
def test_greedy_decoding_equals_generate(
    head: tuple[int, ...],
    policy: Policy,
    architecture: str,
    model_directory: ModelDirectory,
) -> None:
    """Also when what all prompts begin with, more than the sliding window, is prefilled once."""
    model = plain.plain_copy(model_directory(architecture), policy)
    distinct = [head + prompt for prompt in PROMPTS]
    prompts = distinct * (3 if head else 1)  # enough that sharing is worth it
    assert shared_length(prompts) == len(head)
    found = in_process(policy).sample(prompts, 1, Sampling(max_tokens=12), None)
    for at, prompt in enumerate(distinct):
        expected = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=END,
            pad_token_id=PAD,
        )[0, len(prompt) :].tolist()
        assert all(list(completion.ids) == expected for [completion] in found[at :: len(distinct)])


def as_groups(drawn: list[list[Completion]]) -> list[PromptGroup]:
    """Each row's completions as a group with advantages of 1 and -1 in turn."""
    groups = []
    for prompt_ids, row in zip(PROMPTS, drawn, strict=True):
        members = [
            GroupMember(Source.self, one.ids, "", one.finished, one.logprobs, advantage=(-1.0) ** k)
            for k, one in enumerate(row)
        ]
        groups.append(PromptGroup(Prompt(1, "", prompt_ids, (), {}), members))
    return groups


@pytest.mark.parametrize("sampling", [{"temperature": 0.6}, {"temperature": 1.3, "top_p": 0.8}], ids=str)
def test_sampled_logprobs_equal_the_trainers(sampling: dict[str, Any], policy: Policy) -> None:
    groups = as_groups(draw(policy, **sampling))
    updater(policy, temperature=sampling["temperature"], token_budget=60).update(groups, 0.0)
    for member in (member for group in groups for member in group.members):
        assert len(member.trainer_logprobs) == len(member.ids)
        assert member.sampled_logprobs == pytest.approx(member.trainer_logprobs, abs=1e-5)


def test_samples_depend_on_seed_and_step_only(llama: Policy) -> None:
    first = draw(llama)
    torch.manual_seed(99)
    torch.rand(1000)
    assert draw(llama) == first
    assert ids(draw(llama, step=2)) != ids(first)
    assert ids(draw(llama, seed=1)) != ids(first)
    assert all(len({completion.ids for completion in row}) > 1 for row in first)


def test_shared_prefix_is_prefilled_once(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    hidden = llama.hidden

    def counted(ids_B_T: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(tuple(ids_B_T.shape))
        return hidden(ids_B_T, *arguments, **options)

    engine = in_process(llama)
    monkeypatch.setattr(llama, "hidden", counted)
    engine.sample([(3,) * 20 + prompt for prompt in PROMPTS * 2], 3, Sampling(max_tokens=1), generator(0))
    assert seen == [(1, 20), (8, 10)]
    seen.clear()
    engine.sample(PROMPTS, 1, Sampling(max_tokens=1), generator(0))
    assert seen == [(4, 10)]
    seen.clear()
    engine.sample([(3,) * 20 + prompt for prompt in PROMPTS * 2], 1, Sampling(max_tokens=1), None)
    assert seen == [(1, 2), (1, 20), (1, 44)]  # without padding, after a probe of the layers


def test_large_batches_are_split_and_stay_in_order(llama: Policy) -> None:
    whole = ids(in_process(llama).sample(PROMPTS, 1, Sampling(max_tokens=6), None))
    for limit in (1, 3):
        engine = in_process(llama, max_sequences=limit)
        assert ids(engine.sample(PROMPTS, 1, Sampling(max_tokens=6), None)) == whole
        drawn = engine.sample(PROMPTS, 2, Sampling(max_tokens=6), generator(0))
        assert [len(row) for row in drawn] == [2, 2, 2, 2]


def test_end_token_finishes_a_completion(llama: Policy) -> None:
    drawn = [completion for row in draw(llama, count=16, temperature=2.0) for completion in row]
    finished = [completion for completion in drawn if completion.finished]
    truncated = [completion for completion in drawn if not completion.finished]
    assert len(finished) > 5
    assert len(truncated) > 5
    for completion in finished:
        assert completion.ids.index(END) == len(completion.ids) - 1 < 12
    for completion in truncated:
        assert END not in completion.ids
        assert len(completion.ids) == 12
    assert all(len(completion.logprobs) == len(completion.ids) for completion in drawn)


def test_finished_sequences_do_not_disturb_others(llama: Policy) -> None:
    """Each greedy completion in a batch of its own, where no other sequence can finish first."""
    together = in_process(llama).sample(PROMPTS, 1, Sampling(max_tokens=12), None)
    for prompt, [completion] in zip(PROMPTS, together, strict=True):
        [[alone]] = in_process(llama).sample([prompt], 1, Sampling(max_tokens=12), None)
        assert alone.ids == completion.ids
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-5)
    assert len({len(completion.ids) for [completion] in together}) > 1


@pytest.mark.parametrize("count", [1, 5])
def test_max_tokens_one(count: int, llama: Policy) -> None:
    drawn = draw(llama, count=count, max_tokens=1)
    assert [[len(completion.ids) for completion in row] for row in drawn] == [[1] * count] * len(PROMPTS)
    assert all(one.finished == (one.ids == (END,)) for row in drawn for one in row)


def test_changed_adapter_changes_samples(llama: Policy) -> None:
    before = draw(llama)
    randomise(llama, seed=77)
    after = draw(llama)
    assert abs(after[0][0].logprobs[0] - before[0][0].logprobs[0]) > 1e-3
    assert ids(after) != ids(before)


def test_sampler_uses_no_dropout(model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory("llama"), Lora(r=4, alpha=8, dropout=0.5))
    torch.manual_seed(1)
    first = draw(policy)
    torch.manual_seed(2)
    assert draw(policy) == first


def test_nothing_outside_the_nucleus_is_sampled(llama: Policy, model_directory: ModelDirectory) -> None:
    model = plain.plain_copy(model_directory("llama"), llama)
    for prompt, row in zip(PROMPTS, draw(llama, top_p=0.5, count=8), strict=True):
        for completion in row:
            _assert_in_nucleus(model, prompt, completion.ids, 0.5)


@torch.no_grad()
def _assert_in_nucleus(model: Any, prompt: tuple[int, ...], response: tuple[int, ...], top_p: float) -> None:
    whole = torch.tensor([[*prompt, *response]])
    p_R_V = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1].softmax(-1)
    assert p_R_V.shape[-1] == VOCABULARY
    chosen_R = p_R_V.gather(-1, torch.tensor(response).unsqueeze(-1))
    better_R = torch.where(p_R_V > chosen_R, p_R_V, 0.0).sum(-1)
    assert bool((better_R < top_p + 1e-5).all())


def test_generator_depends_on_every_argument() -> None:
    first = torch.rand(4, generator=generator(1, 2, 3))
    assert torch.equal(torch.rand(4, generator=generator(1, 2, 3)), first)
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not torch.equal(torch.rand(4, generator=generator(*other)), first)


def test_logprobs_ignore_top_p(llama: Policy, model_directory: ModelDirectory) -> None:
    model = plain.plain_copy(model_directory("llama"), llama)
    [[first, *_], *_] = draw(llama, top_p=0.3)
    with torch.no_grad():
        expected = plain.sequence_logprobs(model, PROMPTS[0], first.ids)
    assert first.logprobs == pytest.approx(expected.tolist(), abs=1e-5)
