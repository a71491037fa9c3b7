"""Packed groups with a shared prompt against plain forward passes, for every architecture."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.worker.training import plain
from tests.worker.training.architectures import VOCABULARY, WINDOW, random_policy
from tests.worker.training.conftest import ModelDirectory
from worker.training import attention
from worker.training.attention import CPU_LIMITS, CpuLimits
from worker.training.batching import pack
from worker.training.layout import Segment, segment_level
from worker.training.model import Policy

CPU = torch.device("cpu")
LENGTHS = [(7, (5, 1, 9, 3)), (1, (2,)), (11, (1,)), (5, (6, 6)), (3, (12, 1))]
"""Prompt and responses of each group: ragged, single tokens, prompts longer and shorter than the window."""


def random_groups(lengths: list[tuple[int, tuple[int, ...]]] = LENGTHS, seed: int = 1) -> plain.Groups:
    random = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return [int(token) for token in torch.randint(3, VOCABULARY, (length,), generator=random)]

    return [(ids(prompt), [ids(length) for length in responses]) for prompt, responses in lengths]


def with_shared_head(length: int) -> plain.Groups:
    """The same groups, all prompts of which begin with the same tokens."""
    [(head, _)] = random_groups([(length, ())], seed=3)
    return [([*head, *prompt], responses) for prompt, responses in random_groups()]


def engine_logprobs(policy: Policy, groups: plain.Groups, temperature: float = 1.0) -> Tensor:
    return policy.logprobs(pack(plain.examples(groups), CPU), temperature)[0]


FUSED, BLOCKS = CpuLimits(0, block_queries=1_000_000), CpuLimits(0, block_queries=8)
each_way = pytest.mark.parametrize("limits", [CPU_LIMITS, FUSED, BLOCKS], ids=["products", "fused kernel", "blocks"])
"""The ways of multiplying scores; the products serve small batches on CPUs, blocks large ones."""


@each_way
@pytest.mark.parametrize("head", [0, 3, 9])
def test_packed_equals_single_forward_passes(
    head: int, limits: CpuLimits, policy: Policy, architecture: str, model_directory: ModelDirectory
) -> None:
    """Without and with a head that all prompts share, shorter and longer than the sliding window."""
    policy.cpu_limits = limits
    groups = with_shared_head(head)
    packed = pack(plain.examples(groups), CPU, worth_sharing=1)
    assert len(packed.layout) == (3 if head else 2)
    model = plain.plain_copy(model_directory(architecture), policy)
    found_N, expected_N = policy.logprobs(packed, 1.0)[0], plain.logprobs(model, groups)
    assert float((found_N - expected_N).detach().abs().max()) < 1e-5
    weights_N = torch.randn(len(found_N))
    found = plain.gradients(policy.model, (weights_N * found_N).sum())
    assert plain.distance(found, plain.gradients(model, (weights_N * expected_N).sum())) < 1e-5


def test_packed_logprobs_at_a_temperature(policy: Policy, architecture: str, model_directory: ModelDirectory) -> None:
    groups = random_groups()
    expected_N = plain.logprobs(plain.plain_copy(model_directory(architecture), policy), groups, 0.6)
    assert float((engine_logprobs(policy, groups, 0.6) - expected_N).detach().abs().max()) < 1e-5


def test_comparison_detects_window_and_cap(model_directory: ModelDirectory) -> None:
    """Guards the tests above: on these models and groups each of the three moves the log-probs."""

    def of(directory: Path, **changes: object) -> Tensor:
        return plain.logprobs(plain.plain_base(directory, **changes), groups).detach()

    groups = random_groups()
    directory = model_directory("gemma2")
    right = of(directory)
    shuffled = [(list(reversed(prompt)), responses) for prompt, responses in groups]
    others = [
        plain.logprobs(plain.plain_base(directory), shuffled).detach(),
        of(directory, sliding_window=WINDOW + 1),
        of(directory, attn_logit_softcapping=None),
        of(directory, final_logit_softcapping=None),
    ]
    assert all(float((other - right).abs().max()) > 0.01 for other in others)


@each_way
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_response_is_independent_of_the_batch(name: str, limits: CpuLimits, model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory(name))
    policy.cpu_limits = limits
    first, *rest = random_groups()
    others = [(first[0], [first[1][0], *random_groups(seed=9)[0][1]]), *random_groups(seed=7)[1:]]
    count = len(first[1][0])
    with torch.no_grad():
        alone = engine_logprobs(policy, [(first[0], [first[1][0]])])
        assert torch.allclose(engine_logprobs(policy, [first, *rest])[:count], alone, atol=1e-5, rtol=0)
        assert torch.allclose(engine_logprobs(policy, others)[:count], alone, atol=1e-5, rtol=0)


def visible(segments: list[Segment], window: int | None = None) -> list[list[list[int]]]:
    """1 is visible; columns are prefix, then own tokens."""
    mask: list[list[list[int]]] = segment_level(segments, CPU).mask(window)[:, 0].int().tolist()
    return mask


def test_masks_by_hand() -> None:
    """One prompt of 2 tokens with responses of 3 and 1 inputs."""
    prompt, responses = [Segment((0, 2))], [Segment((2, 3), ((0, 2),)), Segment((5, 1), ((0, 2),))]
    assert visible(prompt) == [[[1, 0], [1, 1]]]
    assert visible(responses)[0] == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert visible(prompt, 2) == [[[1, 0], [1, 1]]]
    assert visible(responses, 2)[0] == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    assert visible(responses, 2)[1][0] == [0, 1, 1, 0, 0]


def test_segment_continues_its_whole_prefix() -> None:
    """A head of 2 tokens, a prompt's rest of 1 at place 5, a response at places 9 and 10."""
    made = segment_level([Segment((9, 2), ((0, 2), (5, 1)))], CPU)
    assert made.prefix_index_N_P.tolist() == [[0, 1, 5]]
    assert made.index_N_L.tolist() == [[9, 10]]
    assert made.mask(None)[0, 0].int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_prompt_padding_is_invisible() -> None:
    """Prompts of 1 and 3 tokens: the first group's responses must not see the two padded places."""
    rows = visible([Segment((4, 1), ((0, 1),)), Segment((5, 1), ((1, 3),))])
    assert [row[0] for row in rows] == [[1, 0, 0, 1], [1, 1, 1, 1]]


def test_single_token_responses_need_no_rows(llama: Policy, model_directory: ModelDirectory) -> None:
    groups = random_groups([(4, (1, 1)), (6, (1,))])
    assert pack(plain.examples(groups), CPU).ids_1_T.shape == (1, 10)
    expected = plain.logprobs(plain.plain_copy(model_directory("llama"), llama), groups)
    assert torch.allclose(engine_logprobs(llama, groups), expected, atol=1e-5, rtol=0)


def test_both_paths_agree_without_a_layout() -> None:
    """Without a layout, as the sampler calls it: causal over the whole row, or one query over the cache."""
    module = torch.nn.Module()
    for queries in (6, 1):
        query, key, value = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
        products, kernel = (
            attention.attend(module, query, key, value, None, scaling=0.3, cpu_limits=limits)[0]
            for limits in (CPU_LIMITS, FUSED)
        )
        assert products.shape == (2, queries, 4, 8)
        assert torch.allclose(products, kernel, atol=1e-6)
