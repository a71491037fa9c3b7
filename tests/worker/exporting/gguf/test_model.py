"""GGUF files of each family in llama.cpp, against transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.chat import tokenizer as chat
from app.core.spec.export import ExportRefused
from tests import tiny_families
from tests.worker.exporting.gguf.conftest import TinyModel
from worker.exporting.gguf import check
from worker.exporting.gguf.adapter import write_adapter
from worker.exporting.gguf.llama_cpp import LlamaCpp
from worker.exporting.gguf.model import write_model
from worker.exporting.gguf.weights import read_adapter
from worker.training.merge.model import load_unmerged

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TEXTS = (
    "Hello w\u00f6rld, it's 1234.56 and we'll see: I'VE 7,000!",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002\u4e2d\u6587\uff0c\ud55c\uad6d\uc5b4",
    "\u043f\u0440\u0438\u0432\u0435\u0442  \u043c\u0438\u0440 \u0645\u0631\u062d\u0628\u0627",
    "def f(x):\n\treturn x  \n\n\n  # \U0001f999\U0001f680 \U0001f469\u200d\U0001f4bb  \n<think> a</think><|im_end|>",
)
QUESTIONS = ("What is 17 + 48? Answer with the number only. " * 2, "Name three primary colours.")
EXACT = 1e-5
ROUNDED = 2e-3
"""llama.cpp computes Gemma's activation from a table in 16 bits."""


def ignore(_share: float) -> None:
    pass


def answer_differences(model: TinyModel, directory: Path) -> tuple[float, float, float]:
    """Return the relative differences of the merged file, of base file and adapter file, and of the base file."""
    tokenizer, pairs = chat.load(model.base), read_adapter(model.adapter)
    merged, base, lora = (directory / f"{name}.gguf" for name in ("merged", "base", "lora"))
    write_model(model.base, pairs, merged, "tiny", None, ignore)
    write_model(model.base, {}, base, "tiny", None, ignore)
    write_adapter(model.base, pairs, lora, "tiny")
    prompts = [tokenizer.prompt([{"role": "user", "content": text}]).ids for text in QUESTIONS]
    unmerged = load_unmerged(model.adapter, model.base)

    def difference(engine: LlamaCpp) -> float:
        with engine:
            check.compare_tokens(engine, tokenizer, TEXTS)
            written = check.answers(engine, prompts)
        return check.compare(unmerged, prompts, written).relative

    return difference(LlamaCpp(merged)), difference(LlamaCpp(base, lora)), difference(LlamaCpp(base))


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_llama_cpp_answers_like_transformers(
    family: str, tiny_model: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    """Log-probabilities and tokens are equal, both merged and with the adapter apart."""
    merged, apart, base = answer_differences(tiny_model(family), tmp_path)
    allowed = ROUNDED if family.startswith("gemma") else EXACT
    assert merged < allowed
    assert apart < allowed
    assert base > 50 * allowed


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 3}},
        {"layers_to_transform": [1], "target_modules": ["k_proj", "up_proj"]},
    ],
)
def test_scaling_of_single_modules_is_kept(
    settings: dict[str, object], tiny_model: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    base = tiny_model("smollm2").base
    adapter = tiny_families.add_adapter(base, tmp_path / "adapter", scale=0.2, **settings)
    merged, apart, without = answer_differences(TinyModel(base, adapter), tmp_path)
    assert max(merged, apart) < 10 * EXACT < without


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_adapted_embeddings_are_untied(tiny_model: Callable[[str], TinyModel], tmp_path: Path) -> None:
    """PEFT changes the embeddings only, not the output head that shares their weight."""
    base = tiny_model("smollm2").base
    adapter = tiny_families.add_adapter(base, tmp_path / "adapter", scale=0.2, target_modules=["embed_tokens"])
    pairs, tokenizer = read_adapter(adapter), chat.load(base)
    write_model(base, pairs, tmp_path / "model.gguf", "tiny", None, ignore)
    prompts = [tokenizer.prompt([{"role": "user", "content": text}]).ids for text in QUESTIONS]
    with LlamaCpp(tmp_path / "model.gguf") as engine:
        written = check.answers(engine, prompts)
    assert check.compare(load_unmerged(adapter, base), prompts, written).relative < EXACT
    with pytest.raises(ExportRefused) as refused:
        write_adapter(base, pairs, tmp_path / "lora.gguf", "tiny")
    assert refused.value.code == "export_unsupported_adapter"


def test_untied_output_head_without_counterpart_is_refused(tmp_path: Path) -> None:
    base = tiny_families.build(tmp_path / "base", "gemma2", tie_word_embeddings=False)
    with pytest.raises(ExportRefused, match=r"lm_head\.weight has no counterpart"):
        write_model(base, {}, tmp_path / "model.gguf", "tiny", None, ignore)


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding"),
        ("gemma3", {"layer_types": ["full_attention"] * 6}, "sequence of sliding"),
        ("llama3", {"hidden_act": "gelu"}, "activation gelu"),
        ("llama3", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "position embeddings"),
    ],
)
def test_settings_without_counterpart_are_refused(
    family: str, settings: dict[str, object], reason: str, tmp_path: Path
) -> None:
    base = tiny_families.build(tmp_path / "base", family, **settings)
    with pytest.raises(ExportRefused, match=reason) as refused:
        write_model(base, {}, tmp_path / "model.gguf", "tiny", None, ignore)
    assert refused.value.code == "export_unsupported_architecture"


def test_other_families_are_refused_by_name(tiny_model: Callable[[str], TinyModel], tmp_path: Path) -> None:
    config = (tiny_model("smollm2").base / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        config.replace("LlamaForCausalLM", "MistralForCausalLM").replace('"llama"', '"mistral"')
    )
    with pytest.raises(ExportRefused, match=r"MistralForCausalLM .* Supported types: Gemma2ForCausalLM, Gemma3"):
        write_model(tmp_path, {}, tmp_path / "model.gguf", "tiny", None, ignore)


def test_no_plain_lora_is_refused(tiny_model: Callable[[str], TinyModel], tmp_path: Path) -> None:
    adapter = tiny_families.add_adapter(tiny_model("qwen3").base, tmp_path / "dora", use_dora=True)
    with pytest.raises(ExportRefused, match="lora_magnitude_vector") as refused:
        read_adapter(adapter)
    assert refused.value.code == "export_unsupported_adapter"


def test_adapter_of_another_model_is_refused(tiny_model: Callable[[str], TinyModel], tmp_path: Path) -> None:
    pairs = read_adapter(tiny_model("gemma3").adapter)
    with pytest.raises(ExportRefused, match="does not fit the base model"):
        write_model(tiny_model("smollm2").base, pairs, tmp_path / "model.gguf", "tiny", None, ignore)
