"""The formats as the worker runs them: files, checks, refusals."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.core.spec.export import QUANTIZATIONS, ExportFormat, ExportRefused, Quantization
from tests import tiny_families
from tests.worker.exporting.gguf.conftest import TinyModel
from worker.exporting.formats import FORMATS

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

Models = Callable[[str], TinyModel]


def ignore(_stage: str, _share: float) -> None:
    pass


@pytest.mark.parametrize("quantization", QUANTIZATIONS[ExportFormat.gguf])
def test_quantized_model_passes_its_check(quantization: Quantization, tiny_model: Models, tmp_path: Path) -> None:
    stages: list[float] = []
    spec = tiny_model("qwen3").spec(ExportFormat.gguf, quantization)
    found = FORMATS[ExportFormat.gguf](spec, tmp_path, lambda _stage, share: stages.append(share))
    assert [path.name for path in tmp_path.iterdir()] == [f"model-{quantization}.gguf"]
    assert 0 < found.check.difference < found.check.tolerance
    assert found.check.probes == 8
    assert found.check.effect is not None
    assert found.check.effect > found.check.difference
    assert "survives the rounding" in found.notes[2]
    assert stages == sorted(stages)


def test_coarser_formats_keep_less_of_a_small_change(tiny_model: Models, tmp_path: Path) -> None:
    base = tiny_model("smollm2").base
    adapter = tiny_families.add_adapter(base, tmp_path / "adapter", scale=0.002)
    kept = []
    for quantization in (Quantization.f16, Quantization.bf16, Quantization.q4_k_m):
        directory = tmp_path / quantization
        directory.mkdir()
        spec = TinyModel(base, adapter).spec(ExportFormat.gguf, quantization)
        notes = FORMATS[ExportFormat.gguf](spec, directory, ignore).notes
        kept.append(float(notes[2].partition("%")[0]))
        assert ("Warning" in notes[-1]) == (kept[-1] < 90)
    assert kept[0] > 99
    assert kept[0] > kept[1] > kept[2]


def test_adapter_file_passes_its_check(tiny_model: Models, tmp_path: Path) -> None:
    directory = tmp_path / "export"
    directory.mkdir()
    found = FORMATS[ExportFormat.gguf_lora](tiny_model("llama3").spec(ExportFormat.gguf_lora), directory, ignore)
    assert [path.name for path in directory.iterdir()] == ["adapter.gguf"]
    assert not list(tmp_path.glob("*/base.gguf"))
    assert 0 < found.check.difference < found.check.tolerance


def test_bf16_model_is_compared_exactly(tiny_model: Models, tmp_path: Path) -> None:
    """In bf16 the unmerged model itself would be off by several roundings."""
    model = tiny_model("smollm2")
    base = shutil.copytree(model.base, tmp_path / "base")
    rounded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    rounded.save_pretrained(base)
    directory = tmp_path / "export"
    directory.mkdir()
    spec = TinyModel(base, model.adapter).spec(ExportFormat.gguf_lora)
    found = FORMATS[ExportFormat.gguf_lora](spec, directory, ignore)
    assert 0 < found.check.difference < 2 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(
    ("form", "quantization", "share", "advice"),
    [
        (
            ExportFormat.gguf,
            Quantization.f16,
            "f16 explains only 1.6%",
            "No quantization is finer. Export the adapter alone",
        ),
        (
            ExportFormat.gguf,
            Quantization.q8_0,
            "q8_0 explains only 25.0%",
            "Choose the quantization f16, or the adapter alone",
        ),
        (ExportFormat.gguf_lora, None, "bf16 explains only 12.5%", "Export the merged model instead: as `gguf`, or"),
    ],
)
def test_wrong_result_is_refused_with_numbers_and_advice(
    form: ExportFormat, quantization: Quantization | None, share: str, advice: str, tmp_path: Path
) -> None:
    """A model whose config lies about its rotations differs in llama.cpp, which has another default."""
    base = tiny_families.build(tmp_path / "base", "gemma2", query_pre_attn_scalar=1)
    adapter = tiny_families.add_adapter(base, tmp_path / "adapter")
    (tmp_path / "export").mkdir()
    with pytest.raises(ExportRefused, match=r"nats, [\d.]+% of their spread") as refused:
        FORMATS[form](TinyModel(base, adapter).spec(form, quantization), tmp_path / "export", ignore)
    assert refused.value.code == "export_check_failed"
    assert share in refused.value.message
    assert ("survives the rounding to" in refused.value.message) == (form is ExportFormat.gguf)
    assert advice in refused.value.message


def test_missing_llama_cpp_is_named(tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # as on a worker without the extra
    spec = tiny_model("qwen3").spec(ExportFormat.gguf, Quantization.q8_0)
    with pytest.raises(ExportRefused, match=r"grouptune\[export\]") as refused:
        FORMATS[ExportFormat.gguf](spec, tmp_path, ignore)
    assert refused.value.code == "export_engine_missing"
    assert not list(tmp_path.iterdir())


def test_ollama_directory_has_model_and_modelfile(tiny_model: Models, tmp_path: Path) -> None:
    spec = tiny_model("smollm2").spec(ExportFormat.ollama, Quantization.q8_0)
    found = FORMATS[ExportFormat.ollama](spec, tmp_path, ignore)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Modelfile", "model-q8_0.gguf"]
    text = (tmp_path / "Modelfile").read_text()
    assert text.startswith('FROM ./model-q8_0.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}')
    assert text.endswith('PARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 512\n')
    assert found.check.difference < found.check.tolerance
