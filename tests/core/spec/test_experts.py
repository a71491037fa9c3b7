"""Active parameters of mixtures of experts, counted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.core.models import weights
from app.core.models.weights import Sizes
from app.core.spec.experts import Experts, experts_of

STACKED = {
    "model.layers.0.mlp.experts.gate_up_proj": (4, 6, 5),  # 120 weights
    "model.layers.0.mlp.experts.down_proj": (4, 5, 3),  # 60
    "model.layers.0.mlp.shared_experts.up_proj.weight": (3, 5),  # 15
    "model.layers.0.mlp.gate.weight": (4, 5),  # 20
    "model.embed_tokens.weight": (7, 5),  # 35
}
SEPARATE = {
    **{f"model.layers.0.mlp.experts.{index}.gate_proj.weight": (3, 5) for index in range(4)},  # 60
    "model.layers.0.mlp.gate.weight": (4, 5),  # 20
}
UNNAMED = {"model.layers.0.block_sparse_moe.input_linear.weight": (4, 6, 5), "model.conv.weight": (4, 1, 3)}  # 120 + 12


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_experts": 128, "num_experts_per_tok": 8}, Experts(128, 8)),
        ({"num_local_experts": 32, "num_experts_per_tok": 4}, Experts(32, 4)),
        ({"n_routed_experts": 256, "num_experts_per_tok": 8}, Experts(256, 8)),
        ({"text_config": {"num_experts": 16, "top_k_experts": 2}}, Experts(16, 2)),
        ({"moe_num_experts": 64, "moe_k": 6}, Experts(64, 6)),
        ({"num_local_experts": 0, "num_experts_per_tok": 0}, None),
        ({"num_experts": None}, None),
        ({"hidden_size": 64}, None),
    ],
)
def test_experts_of_config(config: dict[str, Any], expected: Experts | None) -> None:
    assert experts_of(config) == expected


@pytest.mark.parametrize(
    ("shapes", "total", "experts"),
    [(STACKED, 250, 180), (SEPARATE, 80, 60), (UNNAMED, 132, 120)],
    ids=["stacked", "one by one", "unnamed"],
)
def test_half_of_the_experts_are_active(
    shapes: dict[str, tuple[int, ...]], total: int, experts: int, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_experts": 4, "num_experts_per_tok": 2}))
    assert weights.sizes(tmp_path) == Sizes(total, total - experts // 2, experts, 4 * total)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 5}))
    assert weights.sizes(tmp_path) == Sizes(total, total, 0, 4 * total)


def test_quantised_weights_count_as_they_are_loaded(tmp_path: Path) -> None:
    """A byte of MXFP4 blocks holds two weights, and scales are none. All are loaded in bf16."""
    experts = "model.layers.0.mlp.experts.down_proj"
    tensors = {
        f"{experts}_blocks": torch.zeros(4, 6, 2, 16, dtype=torch.uint8),  # 4 x 6 x 64 weights
        f"{experts}_scales": torch.zeros(4, 6, 2, dtype=torch.uint8),
        f"{experts}_bias": torch.zeros(4, 6, dtype=torch.bfloat16),
        "model.layers.0.self_attn.q_proj.weight": torch.zeros(8, 8, dtype=torch.float8_e4m3fn),
        "model.layers.0.self_attn.q_proj.weight_scale_inv": torch.zeros(1, 1),
        "model.norm.weight": torch.zeros(8, dtype=torch.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_local_experts": 4, "num_experts_per_tok": 1}))
    owned = 4 * 6 * 64 + 4 * 6
    total = owned + 64 + 8
    assert weights.sizes(tmp_path) == Sizes(total, total - owned * 3 // 4, owned, 2 * (owned + 64) + 4 * 8)
