"""The formats `gguf`, `gguf-lora` and `ollama`: each writes its files and compares them with the unmerged model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch

from app.core.chat import tokenizer as chat
from app.core.spec.export import Check, ExportFormat, ExportRefused, ExportSpec, Findings, Quantization
from worker.exporting import probes
from worker.exporting.gguf import check
from worker.exporting.gguf.adapter import write_adapter
from worker.exporting.gguf.go_template import differences, find_delimiters, without_bos
from worker.exporting.gguf.llama_cpp import LlamaCpp, require_llama_cpp
from worker.exporting.gguf.model import Rounding, read_model_config, write_model
from worker.exporting.gguf.weights import LoraPair, read_adapter
from worker.hardware import memory_bytes
from worker.training.merge.model import load_unmerged
from worker.training.merge.report import MergeRefused

Progress = Callable[[str, float], None]

_ROUNDINGS: Final = 16
"""Tolerance in epsilons of a 16-bit format, as in a merge. A bf16 model in transformers differs by 3 to 5 of them from
llama.cpp; in float32 the same weights differ by one at most."""
_TOLERANCE: Final = {
    Quantization.f16: _ROUNDINGS * torch.finfo(torch.float16).eps,
    Quantization.bf16: _ROUNDINGS * torch.finfo(torch.bfloat16).eps,
    Quantization.q8_0: 0.25,
    Quantization.q4_k_m: 0.5,
}
"""Largest accepted difference as a share of the log-probabilities' spread. A 30-layer model of 135 million parameters
differs by 0.06 in q8_0 and 0.19 in q4_k_m; a wrong order of rows or a missing rotation exceeds 0.8."""
_FINER: Final = {Quantization.bf16: "f16", Quantization.q8_0: "f16", Quantization.q4_k_m: "q8_0 or f16"}
"""What to try after a quantization. Not bf16: after three steps of SmolLM2-135M, its rounding changed the
log-probabilities by 17 % of their spread, and that of f16 by 0.3 %."""
_SURVIVAL: Final = 0.9
_TEXTS: Final = (
    "Hello w\u00f6rld, it's 1234.56 and we'll see: I'VE 7,000!",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002\u4e2d\u6587\u6587\u672c\uff0c\ud55c\uad6d\uc5b4",
    "\u043f\u0440\u0438\u0432\u0435\u0442  \u043c\u0438\u0440 \u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "def f(x):\n\treturn x  \n\n\n  # \U0001f999\U0001f680 \U0001f469\u200d\U0001f4bb  \n",
)
"""Texts whose tokens are compared: scripts, contractions, digits, spaces, line breaks, emoji."""
_OLLAMA_CONTEXT: Final = 8192
"""Ollama reserves memory for the whole context, so it is not the model's full length."""


def gguf(spec: ExportSpec, directory: Path, progress: Progress) -> Findings:
    """Write one file with the merged model."""
    quantization = _quantization(spec)
    target = directory / f"model-{quantization}.gguf"
    require_llama_cpp()
    prompts = probes.load(spec)
    rounding = _write(spec, read_adapter(spec.adapter_dir), target, quantization, progress)
    return _checked(spec, LlamaCpp(target), prompts, quantization, _survival(rounding, quantization), progress)


def gguf_lora(spec: ExportSpec, directory: Path, progress: Progress) -> Findings:
    """Write one file with the adapter; it is checked on top of the base model in 16 bits."""
    target = directory / "adapter.gguf"
    require_llama_cpp()
    prompts = probes.load(spec)
    write_adapter(spec.base_dir, read_adapter(spec.adapter_dir), target, spec.model)
    with TemporaryDirectory(dir=directory.parent) as temporary:
        base = Path(temporary) / "base.gguf"
        _write(spec, {}, base, Quantization.bf16, progress)
        return _checked(spec, LlamaCpp(base, target), prompts, Quantization.bf16, (), progress)


def ollama(spec: ExportSpec, directory: Path, progress: Progress) -> Findings:
    """Write the merged model and a Modelfile for `ollama create`."""
    tokenizer = chat.load(spec.base_dir)
    delimiters = without_bos(find_delimiters(tokenizer), tokenizer)
    findings = gguf(spec, directory, progress)
    template = delimiters.go_template()
    if '"""' in template:
        raise ExportRefused(
            "export_unsupported_template", 'The chat template contains """, which ends a Modelfile text.'
        )
    ends = [token for end in sorted(tokenizer.end_ids) if (token := tokenizer.backend.id_to_token(end))]
    lines = [
        f"FROM ./model-{spec.quantization}.gguf",
        f'TEMPLATE """{template}"""',
        *(f'PARAMETER stop "{token}"' for token in ends if '"' not in token),
        f"PARAMETER num_ctx {min(read_model_config(spec.base_dir).max_position_embeddings, _OLLAMA_CONTEXT)}",
    ]
    (directory / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return findings.model_copy(update={"notes": (*findings.notes, *differences(tokenizer, delimiters))})


def _quantization(spec: ExportSpec) -> Quantization:
    if spec.quantization is None:
        raise ValueError("an export as GGUF has a quantization")
    return spec.quantization


def _write(
    spec: ExportSpec,
    adapter: Mapping[str, LoraPair],
    target: Path,
    quantization: Quantization,
    progress: Progress,
) -> Rounding:
    def report(share: float) -> None:
        progress("Writing weights", 0.05 + 0.45 * share)

    return write_model(spec.base_dir, adapter, target, spec.model, quantization, report)


def _survival(rounding: Rounding, quantization: Quantization) -> tuple[str, ...]:
    kept = f"{rounding.survival:.1%} of the adapter's change to the weights survives the rounding to {quantization}."
    if rounding.survival >= _SURVIVAL:
        return (kept,)
    return (kept, "Warning: a finer format, or the adapter alone (`gguf-lora`), keeps more of it.")


def _checked(
    spec: ExportSpec,
    engine: LlamaCpp,
    prompts: Sequence[Sequence[int]],
    quantization: Quantization,
    notes: tuple[str, ...],
    progress: Progress,
) -> Findings:
    """Run the file in llama.cpp. Raises `ExportRefused` if it differs by more than its number format explains."""
    with engine:
        progress("Comparing tokens in llama.cpp", 0.5)
        check.compare_tokens(engine, chat.load(spec.base_dir), _TEXTS)
        progress("Answering probes in llama.cpp", 0.55)
        written = check.answers(engine, prompts)
    progress("Comparing with the unmerged model", 0.75)
    model = _load(spec)
    found = check.compare(model, prompts, written)
    with model.disable_adapter():
        base = check.compare(model, prompts, written)
    tolerance = max(_TOLERANCE[quantization], _ROUNDINGS * torch.finfo(model.get_base_model().dtype).eps)
    if not found.relative <= tolerance:
        raise ExportRefused(
            "export_check_failed",
            f"The export answers differently in llama.cpp: its log-probabilities differ from the unmerged model's by "
            f"{found.rms:.2g} nats, {found.relative:.1%} of their spread, and {quantization} explains only "
            f"{tolerance:.1%}. {''.join(f'{note} ' for note in notes[:1])}The export was deleted. {_advice(spec)}",
        )
    return Findings(
        check=Check(
            compared="log-probabilities of greedy answers in llama.cpp",
            probes=len(prompts),
            tokens=found.positions,
            difference=found.relative,
            tolerance=tolerance,
            effect=base.relative,
            unit="RMS difference as a share of the log-probabilities' standard deviation",
        ),
        notes=(
            f"llama.cpp chooses the unmerged model's token at {found.agreement:.1%} of {found.positions} positions.",
            f"The log-probabilities differ from the unmerged model's by {found.rms:.2g} nats (RMS), and from those of "
            f"the base model without the adapter by {base.rms:.2g} nats.",
            *notes,
        ),
    )


def _advice(spec: ExportSpec) -> str:
    """Return what to export instead of a result that failed its check."""
    if spec.format is ExportFormat.gguf_lora:  # has no number format to choose
        return "Export the merged model instead: as `gguf`, or for transformers as `merged`."
    alone = "the adapter alone (`gguf-lora`), which loses nothing to rounding"
    if finer := _FINER.get(_quantization(spec)):
        return f"Choose the quantization {finer}, or {alone}."
    return f"No quantization is finer. Export {alone}."


def _load(spec: ExportSpec) -> Any:
    """Load the unmerged model: in float32 if that takes at most half of the memory, else in its own dtype.

    llama.cpp computes more exactly than bf16 in transformers. Of a short answer, the rounding of the latter alone may
    exceed the tolerance.
    """
    try:
        model = load_unmerged(spec.adapter_dir, spec.base_dir)
    except MergeRefused as error:
        raise ExportRefused("export_refused", str(error)) from error
    exact_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    return model.float() if exact_bytes <= memory_bytes() / 2 else model
