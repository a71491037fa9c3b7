"""The merged model as plain transformers loads it, and the merges that are rejected."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from app.core.spec.job import Lora
from tests.forked import Program
from tests.worker.training import architectures
from tests.worker.training.architectures import LORA, random_policy
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.runs import REPOSITORY
from worker.training.merge.layers import Rounding
from worker.training.merge.model import load, loader_name, logprobs, merge, probe_ids
from worker.training.merge.report import Comparison, Merged, MergeRefused

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Adapter = Callable[..., Path]


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """Writes a random adapter for a base model."""

    def write(base: Path, lora: Lora = LORA, scale: float = 0.15) -> Path:
        policy = architectures.randomise(random_policy(base, lora), scale=scale)
        policy.model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
        return tmp_path / "adapter"

    return write


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A bf16 Llama of its own."""
    return architectures.build(tmp_path / "tiny-1B", "llama", torch.bfloat16)


def run(adapter: Path, base: Path, tmp_path: Path) -> Merged:
    return merge(adapter, base, tmp_path / "merged", "ft:tiny-1B:mine", lambda _line: None)


def nothing_is_left(tmp_path: Path) -> bool:
    return {path.name for path in tmp_path.iterdir()} <= {"adapter", "tiny-1B"}


def unmerged(adapter: Path, base: Path, ids_B_T: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Log-probabilities of plain PEFT over plain transformers, computed in `dtype`."""
    return logprobs(PeftModel.from_pretrained(load(base).to(dtype), str(adapter)).eval(), ids_B_T)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_architecture_merges(architecture: str, precision: str, adapter: Adapter, tmp_path: Path) -> None:
    base = architectures.build(tmp_path / "tiny-1B", architecture, DTYPES[precision])
    source = adapter(base)
    merged = run(source, base, tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "merged" / "model.safetensors").values()} == {merged.dtype}
    assert merged.dtype == DTYPES[precision]
    found = load(tmp_path / "merged").float()
    # Other tokens than the merge looked at; computed in fp32, the rounding of the weights alone is left.
    ids_B_T = torch.arange(16).reshape(2, 8) + 3
    difference = logprobs(found, ids_B_T) - unmerged(source, base, ids_B_T)
    assert float(difference.square().mean().sqrt()) < (1e-4 if precision == "fp32" else 0.05)
    assert merged.comparison.effect > 0.3


@pytest.mark.parametrize("name", list(architectures.VISION_LANGUAGE))
def test_vision_language_model_merges(name: str, adapter: Adapter, tmp_path: Path) -> None:
    base = architectures.build(tmp_path / "tiny-1B", name)
    (base / "preprocessor_config.json").write_text("{}")
    source = adapter(base)
    merged = run(source, base, tmp_path)
    found = load(tmp_path / "merged")
    assert type(found) is type(load(base))
    ids_B_T = torch.arange(16).reshape(2, 8) + 3
    assert torch.allclose(logprobs(found, ids_B_T), unmerged(source, base, ids_B_T), atol=1e-4)
    assert merged.comparison.effect > 0.3
    assert (tmp_path / "merged" / "preprocessor_config.json").is_file()
    assert f"{loader_name(base)}.from_pretrained(" in (tmp_path / "merged" / "README.md").read_text()


@pytest.mark.parametrize(
    "lora",
    [
        Lora(r=4, alpha=8, use_dora=True),
        Lora(r=4, alpha=8, use_rslora=True),
        Lora(r=4, alpha=8, use_dora=True, use_rslora=True),
        Lora(r=4, alpha=8, dropout=0.5),
        Lora(r=4, alpha=8, target_modules=("embed_tokens", "q_proj")),
    ],
    ids=lambda lora: ",".join(lora.model_dump(exclude_defaults=True)),
)
def test_every_kind_of_adapter_merges(
    lora: Lora, adapter: Adapter, tmp_path: Path, model_directory: ModelDirectory
) -> None:
    base = model_directory("llama")
    source = adapter(base, lora)
    merged = run(source, base, tmp_path)
    ids_B_T = probe_ids(torch.arange(architectures.VOCABULARY))
    found = logprobs(load(tmp_path / "merged"), ids_B_T)
    assert torch.allclose(found, unmerged(source, base, ids_B_T), atol=1e-4)
    assert merged.comparison.effect > 0.1


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # what is tested here
def test_tied_embeddings_leave_the_head_unchanged(adapter: Adapter, tmp_path: Path) -> None:
    base = architectures.build(tmp_path / "tiny-1B", "gemma")
    assert load(base).config.tie_word_embeddings
    source = adapter(base, Lora(r=4, alpha=8, target_modules=("embed_tokens",)))
    run(source, base, tmp_path)
    model = load(tmp_path / "merged")
    assert torch.equal(model.lm_head.weight, load(base).lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    ids_B_T = probe_ids(torch.arange(architectures.VOCABULARY))
    assert torch.allclose(logprobs(model, ids_B_T), unmerged(source, base, ids_B_T), atol=1e-4)


def test_weights_are_rounded_once(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    source = adapter(base)
    run(source, base, tmp_path)
    exact: Any = PeftModel.from_pretrained(load(base).float(), str(source)).merge_and_unload()
    expected = {name: value.to(torch.bfloat16) for name, value in exact.state_dict().items()}
    found = load(tmp_path / "merged").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_merge_copies_tokenizer_and_writes_card(chat_directory: Path, adapter: Adapter, tmp_path: Path) -> None:
    merged = run(adapter(chat_directory), chat_directory, tmp_path)
    assert {path.name for path in (tmp_path / "merged").iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "merged" / name).read_bytes() == (chat_directory / name).read_bytes()
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "1+1="}], tokenize=False)
    assert "1+1=" in chat
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "# ft:tiny-1B:mine" in text
    assert all(line in text for line in merged.lines())
    assert str(tmp_path) not in text


def test_rounding_loss_is_reported(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    large = run(adapter(base, scale=0.15), base, tmp_path / "large")
    small = run(adapter(base, scale=0.002), base, tmp_path / "small")
    assert large.rounding.survival > 0.99
    assert small.rounding.survival < 0.1
    assert "Warning: rounding to bfloat16 loses 9" in "\n".join(small.lines())
    assert "Warning" not in "\n".join(large.lines())


def test_survival_by_hand() -> None:
    rounding = Rounding()
    weight = torch.tensor([1.0, 1.0])
    merged = torch.tensor([1.0 + 2**-7, 1.0 + 2**-9])  # one step of bf16, and a quarter of one
    rounding.add(weight, merged, merged.to(torch.bfloat16))
    assert rounding.survival == pytest.approx(16 / 17)
    assert rounding.relative_error == pytest.approx((1 / 17) ** 0.5)
    assert (Rounding().survival, Rounding().relative_error) == (1.0, 0.0)


def test_wrong_scaling_is_rejected(
    base: Path, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = LoraLinear.get_delta_weight
    monkeypatch.setattr(LoraLinear, "get_delta_weight", lambda layer, name: 1.01 * right(layer, name))
    with pytest.raises(MergeRefused, match=r"q_proj has a different output once merged"):
        run(adapter(base, scale=0.01), base, tmp_path)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("precision", list(DTYPES))
def test_wrong_scaling_differs_from_rounding(precision: str, adapter: Adapter, tmp_path: Path) -> None:
    dtype = DTYPES[precision]
    base = architectures.build(tmp_path / "tiny-1B", "qwen2", dtype)
    source = adapter(base)
    ids_B_T = probe_ids(torch.arange(architectures.VOCABULARY))
    expected, without = unmerged(source, base, ids_B_T, dtype), logprobs(load(base), ids_B_T)
    run(source, base, tmp_path)
    right = Comparison.of(logprobs(load(tmp_path / "merged"), ids_B_T), expected, without, dtype)
    right.check()
    config = json.loads((source / "adapter_config.json").read_text())
    (source / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 16}))
    merge(source, base, tmp_path / "wrong", "wrong", lambda _line: None)
    wrong = Comparison.of(logprobs(load(tmp_path / "wrong"), ids_B_T), expected, without, dtype)
    with pytest.raises(MergeRefused, match="log-probabilities differ"):
        wrong.check()
    assert right.relative < right.tolerance / 2
    assert wrong.relative > 2 * wrong.tolerance


def test_nan_model_is_rejected() -> None:
    one = torch.zeros(1, 2, 3).log_softmax(-1)
    spread = torch.tensor([0.0, 1.0, 2.0]) + one
    with pytest.raises(MergeRefused):
        Comparison.of(spread * float("nan"), spread, one, torch.float32).check()


def test_damaged_merge_is_rejected(
    base: Path, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is what lies on the disk: here transformers loses a norm."""
    model = type(load(base))
    right = model.save_pretrained

    def save(one: Any, directory: Path) -> None:
        one.model.norm.weight.data.zero_()
        right(one, directory)

    monkeypatch.setattr(model, "save_pretrained", save)
    with pytest.raises(MergeRefused, match="differs from the unmerged one"):
        run(adapter(base), base, tmp_path)
    assert nothing_is_left(tmp_path)


def test_quantised_base_is_rejected(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    source = adapter(base)
    config = json.loads((base / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (base / "config.json").write_text(json.dumps(config | quantised))
    with pytest.raises(MergeRefused, match=r"tiny-1B is quantised \(bitsandbytes\).* merge into the full-precision"):
        run(source, base, tmp_path)
    assert nothing_is_left(tmp_path)


def test_adapter_with_nan_is_rejected(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    path = adapter(base) / "adapter_model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(path).items()}, path)
    with pytest.raises(MergeRefused, match="NaN or infinite weights"):
        run(path.parent, base, tmp_path)
    assert nothing_is_left(tmp_path)


def test_existing_target_is_rejected(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    with pytest.raises(MergeRefused, match="exists already"):
        run(adapter(base), base, tmp_path)
    assert not list((tmp_path / "merged").iterdir())


def test_adapter_of_another_model_is_rejected(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    other = architectures.build(tmp_path / "other", "gpt2")
    with pytest.raises(MergeRefused, match="does not fit tiny-1B"):
        run(adapter(other), base, tmp_path)


def test_adapter_with_missing_tensor_is_rejected(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    path = adapter(base) / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.popitem()
    save_file(tensors, path)
    with pytest.raises(MergeRefused, match="1 tensors have no counterpart"):
        run(path.parent, base, tmp_path)
    assert nothing_is_left(tmp_path)


def start(*words: object, stdout: Path, stderr: Path) -> Program:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    module = "worker.training.merge"
    return Program(module, words, directory=REPOSITORY, environment=environment, stdout=stdout, stderr=stderr)


@pytest.mark.slow
def test_merge_prints_findings_or_one_error(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    source, out, err = adapter(base), tmp_path / "out", tmp_path / "err"
    with start(source, base, tmp_path / "merged", "--name", "mine", stdout=out, stderr=err) as process:
        assert process.wait(240) == 0, err.read_text()
    assert out.read_text().startswith("14 layers were merged in float32 and rounded once to bfloat16.\n")
    assert "# mine" in (tmp_path / "merged" / "README.md").read_text()
    with start(source, base, tmp_path / "merged", stdout=out, stderr=err) as process:
        assert (process.wait(240), out.read_text()) == (1, "")
    assert err.read_text().splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_sigterm_leaves_nothing(base: Path, adapter: Adapter, tmp_path: Path, short_dir: Path) -> None:
    progress = short_dir / "progress"
    os.mkfifo(progress)
    with start(adapter(base), base, tmp_path / "merged", stdout=short_dir / "out", stderr=progress) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Loading")
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 128 + signal.SIGTERM
    assert nothing_is_left(tmp_path)
