"""Attention in blocks against plain products over whole rows, with gradients, in fp64."""

import pytest
import torch
from torch import Tensor

from worker.training.attention import CpuLimits, attend
from worker.training.blocked_attention import Kept, attend_by_blocks
from worker.training.layout import Layout, Segment, blocks_of, segment_level

CPU = torch.device("cpu")
PRODUCTS = CpuLimits(small_scores=10**9)
Places = list[tuple[int, int]]


def layout(head: int, prompts: dict[int, list[int]]) -> Layout:
    """A shared head, the rest of each prompt, and its responses, by their lengths."""
    place = head
    root = Segment((0, head))
    levels: list[list[Segment]] = [[root] if head else [], [], []]
    for length in prompts:
        levels[1].append(Segment((place, length), (root.span,) if head else ()))
        place += length
    for prompt, lengths in zip(levels[1], prompts.values(), strict=True):
        for length in lengths:
            levels[2].append(Segment((place, length), (*prompt.prefix, prompt.span)))
            place += length
    return tuple(segment_level(level, CPU) for level in levels if level)


def outcome(tree: Layout, limits: CpuLimits, heads: int, shared: int) -> list[Tensor]:
    """The output and the gradients of query, key and value."""
    tokens = 1 + max(int(level.index_N_L.max()) for level in tree)
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, tokens, 8, dtype=torch.float64, generator=random).requires_grad_()
        for count in (heads, shared, shared)
    )
    output, _ = attend(torch.nn.Module(), query, key, value, None, layout=tree, cpu_limits=limits)
    weights = torch.randn(output.shape, dtype=torch.float64, generator=random)
    return [output, *torch.autograd.grad((weights * output).sum(), (query, key, value))]


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (2, 2), (4, 1)])
@pytest.mark.parametrize(
    "tree",
    [
        layout(0, {40: [40, 40, 40]}),
        layout(0, {30: [33, 1, 17], 5: [2], 9: [50, 8]}),
        layout(12, {20: [25, 31], 1: [1, 64], 16: [16]}),
    ],
    ids=["equal", "ragged", "shared head"],
)
def test_blocks_equal_products(tree: Layout, heads: int, shared: int) -> None:
    blocks = CpuLimits(0, block_queries=8 * heads // shared)
    expected = outcome(tree, PRODUCTS, heads, shared)
    for found, right in zip(outcome(tree, blocks, heads, shared), expected, strict=True):
        assert torch.allclose(found, right, rtol=0, atol=1e-12)


def test_long_levels_are_computed_in_blocks() -> None:
    """By default: 512 answer tokens after a prompt of 512, with three query heads for each key head; not 128."""
    long, short = layout(0, {512: [512, 512]}), layout(0, {128: [128, 128]})
    for tree in (long, short):
        outcome(tree, CpuLimits(), 3, 1)
    assert [list(level._blocks) for level in long] == [[256], [256]]
    assert [list(level._blocks) for level in short] == [[], []]


@pytest.mark.parametrize(
    ("length", "sizes"), [(511, [256, 255]), (512, [256, 256]), (500, [256, 244]), (480, [480]), (100, [100])]
)
def test_blocks_have_the_least_size_that_is_fast(length: int, sizes: list[int]) -> None:
    made = blocks_of([Segment((0, length))], 256, CPU)
    assert [int((~row).sum()) for row in made.padding_B_Q] == sizes


def test_kept_output_is_not_computed_again() -> None:
    [level] = layout(0, {40: []})
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(40, heads, 8, generator=random) for heads in (4, 2, 2))
    kept: Kept = []
    first = attend_by_blocks(query, key, value, level.blocks(8), 0.5, kept)
    [(output, total)] = kept
    kept[:] = [(2 * output, total)]
    second = attend_by_blocks(query, key, value, level.blocks(8), 0.5, kept)
    assert torch.equal(second, 2 * first)
    assert kept == []


def test_blocks_by_hand() -> None:
    """Segments of 5 and 2 tokens that continue a prompt of 3, and one of 4 tokens that continues nothing."""
    segments = [Segment((3, 5), ((0, 3),)), Segment((8, 2), ((0, 3),)), Segment((10, 4))]
    made = blocks_of(segments, 2, CPU)
    assert made.index_B_Q.tolist() == [[3, 4, 5], [6, 7, 0], [8, 9, 0], [10, 11, 12], [13, 0, 0]]
    assert made.padding_B_Q.int().tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 1, 1]]
    assert made.slots.tolist() == [0, 1, 2, 3, 4, 6, 7, 9, 10, 11, 12]
    assert made.tokens == slice(3, 14)
    earlier, prefix = made.before
    assert (earlier.blocks.tolist(), earlier.index_B_K.tolist()) == ([1, 4], [[3, 4, 5], [10, 11, 12]])
    assert (prefix.blocks.tolist(), prefix.index_B_K.tolist()) == ([0, 1, 2], [[0, 1, 2]])
