"""What the adapter of a mixture of experts covers."""

from pathlib import Path

import pytest
import torch

from app.core.spec.job import Lora
from tests.worker.training import architectures
from tests.worker.training.architectures import LORA, random_policy
from tests.worker.training.families import MORE
from worker.training.export import save_adapter
from worker.training.model import load_policy
from worker.training.setup import expert_message


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-MoE: a dense layer, and one with 4 experts of which 2 compute a token."""
    return architectures.build(tmp_path_factory.mktemp("mixture") / "base", "qwen3-moe", more=MORE)


def test_experts_train_and_routers_do_not(mixture: Path) -> None:
    policy = load_policy(mixture, LORA, seed=0)
    names = [name.partition(".layers.")[2] for name in policy.trained]
    for trained in ("0.mlp.gate_proj", "0.mlp.down_proj", "1.mlp.experts", "1.mlp.experts.base_layer"):
        assert f"{trained}.lora_A.default.weight" in names
    assert not [name for name in names if "mlp.gate." in name]
    assert policy.path.expert_lora_coverage == 1.0
    message = expert_message(policy.path, LORA)
    assert (message.level, message.message[-33:]) == ("info", " and 100% of its experts' weights")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"dropout": 0.1}, "dropout and DoRA do not work on them"),
        ({"use_dora": True}, "dropout and DoRA do not work on them"),
        ({"target_modules": ("q_proj", "v_proj")}, "lora.target_modules leaves them out"),
    ],
)
def test_frozen_experts_are_reported(changes: dict[str, object], cause: str, mixture: Path) -> None:
    lora = LORA.model_copy(update=changes)
    path = load_policy(mixture, lora, seed=0).path
    assert path.expert_lora_coverage == 0
    message = expert_message(path, lora)
    assert message.level == "warn"
    assert "experts of this model carry no adapter, because " in message.message
    assert cause in message.message


def test_active_parameters_of_a_mixture(mixture: Path) -> None:
    """Half of the experts are idle: of 4, each with 2 x 16 rows of gate and up, and 32 rows of 16 of down."""
    policy = load_policy(mixture, LORA, seed=0)
    experts = 4 * (2 * 16 * 32 + 32 * 16)
    assert policy.base_parameters - policy.active_parameters == experts // 2


def test_warm_start_of_a_mixture(mixture: Path, tmp_path: Path) -> None:
    trained = random_policy(mixture)
    again = load_policy(mixture, Lora(), seed=0, adapter=save_adapter(tmp_path / "adapter", trained, "base"))
    assert again.path == trained.path.model_copy(update={"check_seconds": again.path.check_seconds})
    assert again.trained.keys() == trained.trained.keys()
    assert all(torch.equal(value, trained.trained[name]) for name, value in again.trained.items())
