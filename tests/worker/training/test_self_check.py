"""The check that selects a policy's path: it must fail for every ingredient of attention that a path could miss."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, BertConfig, Gemma3TextConfig

from app.core.spec.reports import TrainerExit
from tests.worker.training.architectures import HEADS, LORA, SIZES, build, random_policy
from tests.worker.training.conftest import ModelDirectory
from worker.training import attention
from worker.training.lora import FusedLora
from worker.training.model import Policy, load_policy
from worker.training.self_check import select_path
from worker.training.types import JobFailure

Without = dict[str, None]
ReplaceAttention = Callable[[Any], None]
INGREDIENTS: Final[dict[str, tuple[str, Without]]] = {
    "sinks": ("gpt-oss", {"s_aux": None}),
    "window": ("mistral", {"sliding_window": None}),
    "soft cap": ("gemma2", {"softcap": None}),
    "scale": ("granite", {"scaling": None}),
}


@pytest.fixture
def replace_attention() -> Iterator[ReplaceAttention]:
    """Replaces the packed attention for the test."""
    yield lambda function: AttentionInterface.register(attention.IMPLEMENTATION, function)
    AttentionInterface.register(attention.IMPLEMENTATION, attention.attend)


@pytest.mark.parametrize(("name", "without"), INGREDIENTS.values(), ids=INGREDIENTS)
def test_check_fails_without_an_ingredient(
    name: str, without: Without, model_directory: ModelDirectory, replace_attention: ReplaceAttention
) -> None:
    directory = model_directory(name)
    assert load_policy(directory, LORA, seed=0).is_fast
    replace_attention(lambda *arguments, **options: attention.attend(*arguments, **(options | without)))
    policy = load_policy(directory, LORA, seed=0)
    assert not policy.is_fast
    assert policy.path.reason.startswith("log-probabilities of the fast path differ by ")


def test_check_sees_beyond_a_long_window(
    tmp_path: Path, model_directory: ModelDirectory, replace_attention: ReplaceAttention
) -> None:
    """The window of 4,096 tokens is longer than the sequences of the check, so the check shortens it."""
    directory = shutil.copytree(model_directory("mistral"), tmp_path / "long")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"sliding_window": 4096}))
    policy = load_policy(directory, LORA, seed=0)
    assert policy.is_fast
    assert policy.causal.config.sliding_window == 4096
    without = {"sliding_window": None}
    replace_attention(lambda *arguments, **options: attention.attend(*arguments, **(options | without)))
    assert not load_policy(directory, LORA, seed=0).is_fast


def test_check_fails_without_the_sparse_index(
    model_directory: ModelDirectory, replace_attention: ReplaceAttention
) -> None:
    directory = model_directory("deepseek-v3.2")
    assert load_policy(directory, LORA, seed=0).path.reason == "its attention uses 'indices'"

    def without_index(*arguments: Any, **options: Any) -> tuple[Tensor, None]:
        return attention.attend(*arguments, **(options | {"indices": None}))

    replace_attention(without_index)
    assert "log-probabilities of the fast path differ" in load_policy(directory, LORA, seed=0).path.reason


def test_check_fails_for_a_wrong_gradient(model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-probabilities are right; the gradient of B is twice the right one."""
    own = FusedLora._in_precision

    def doubled(*arguments: Any) -> tuple[Tensor, Tensor, float]:
        down, up, scaling = own(*arguments)
        return down, up, 2 * scaling

    monkeypatch.setattr(FusedLora, "_in_precision", doubled)
    reason = load_policy(model_directory("llama"), LORA, seed=0).path.reason
    assert reason.startswith("gradients of the fast path differ by ")


def test_check_fails_for_changed_logits(llama: Policy) -> None:
    """A head's hook, which the packed path does not call: as with an architecture that scales its logits."""
    assert llama.is_fast
    llama.causal.lm_head.register_forward_hook(lambda _, __, logits: 1.5 * logits)
    select_path(llama)
    assert not llama.is_fast


def test_check_refuses_a_plain_path_that_differs(llama: Policy) -> None:
    """A layer that the backward pass computes again with another result, and a head that the fast path does not use."""
    llama.causal.lm_head.register_forward_hook(lambda _, __, logits: 1.5 * logits)
    llama.causal.model.layers[0].self_attn.register_forward_hook(
        lambda _, __, output: output if torch._C._current_graph_task_id() < 0 else (2 * output[0], *output[1:])
    )
    with pytest.raises(ValueError, match=r"^gradients of the plain path differ by \d+% from transformers' own$"):
        select_path(llama)


def test_check_leaves_no_trace(model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory("gemma2"))
    before = {name: value.detach().clone() for name, value in policy.trained.items()}
    config = policy.causal.config.to_dict()
    select_path(policy)
    assert all(torch.equal(value, before[name]) for name, value in policy.trained.items())
    assert policy.causal.config.to_dict() == config
    assert policy.path.check_seconds > 0


def test_unknown_attention_argument_raises() -> None:
    query = torch.randn(1, 2, 3, 4)
    module = torch.nn.Module()
    attention.attend(module, query, query, query, None, position_bias=None)
    with pytest.raises(attention.UnknownArgument, match="uses 'position_bias'"):
        attention.attend(module, query, query, query, None, position_bias=torch.zeros(1))
    with pytest.raises(attention.UnknownArgument, match="is_causal"):
        attention.attend(module, query, query, query, None, is_causal=False)


def test_model_that_fails_is_refused(model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("rope_theta")

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaMLP.forward", fail)
    with pytest.raises(JobFailure, match=r"not supported because .* 'llama' fails: KeyError") as caught:
        load_policy(model_directory("llama"), LORA, seed=0)
    assert (caught.value.exit_code, caught.value.code) == (TrainerExit.bad_config, "unsupported_architecture")


@pytest.mark.parametrize(
    "config",
    [
        lambda: BertConfig(**SIZES, is_decoder=False),
        lambda: Gemma3TextConfig(**HEADS, use_bidirectional_attention=True),
    ],
    ids=["bert", "gemma3"],
)
def test_model_that_sees_later_tokens_is_refused(config: Callable[[], Any], tmp_path: Path) -> None:
    """transformers loads such encoders as causal language models."""
    directory = build(tmp_path / "encoder", "encoder", more={"encoder": config})
    with pytest.raises(JobFailure, match="its tokens depend on the tokens after them") as caught:
        load_policy(directory, LORA, seed=0)
    assert caught.value.code == "unsupported_architecture"


def test_out_of_memory_stays_out_of_memory(model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaMLP.forward", fail)
    with pytest.raises(MemoryError):
        load_policy(model_directory("llama"), LORA, seed=0)
