"""Products with packed weights."""

import pytest
import torch

from worker.training.packed import PackedWeight


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bf16 products")
@pytest.mark.parametrize(("outputs", "inputs"), [(576, 1536), (32, 1536), (960, 576)])
def test_bf16_row_does_not_depend_on_the_others(outputs: int, inputs: int) -> None:
    """With SmolLM2's shapes. A row of 1,536 inputs alone gives other bits in oneDNN, once in 6,000 results."""
    generator = torch.Generator().manual_seed(1)
    weight_O_I = torch.randn(outputs, inputs, generator=generator).to(torch.bfloat16)
    bias_O = torch.randn(outputs, generator=generator).to(torch.bfloat16)
    x_N_I = torch.randn(512, inputs, generator=generator).to(torch.bfloat16)
    packed = PackedWeight(weight_O_I)
    expected_N_O = packed.product(x_N_I, bias_O)
    for rows in (1, 2, 3, 8, 64):
        found_N_O = torch.cat([packed.product(part, bias_O) for part in x_N_I.split(rows)])
        assert torch.equal(found_N_O, expected_N_O), rows
    assert torch.equal(packed.product(x_N_I[:1, None]), packed.product(x_N_I)[:1, None])
