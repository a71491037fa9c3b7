"""Exports: what the worker sends to the process that makes one, and what that process returns."""

from enum import StrEnum
from pathlib import Path
from typing import Final

from app.core.spec.frozen import Frozen


class ExportFormat(StrEnum):
    """The kinds of artefacts that can be made from a model."""

    merged = "merged"
    """One plain transformers model: the adapter merged into its base model."""
    gguf = "gguf"
    """One file for llama.cpp: the adapter merged into its base model."""
    gguf_lora = "gguf-lora"
    """One file for llama.cpp: the adapter alone."""
    ollama = "ollama"
    """A directory for `ollama create`: the merged model as GGUF, and a Modelfile."""


class Quantization(StrEnum):
    """Number formats of the weights in an export, as llama.cpp names them."""

    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    """8.5 bits a weight."""
    q4_k_m = "q4_k_m"
    """4.8 bits a weight: 4 bits, and 6 in the tensors that need them."""


_ALL: Final = (Quantization.q8_0, Quantization.q4_k_m, Quantization.f16, Quantization.bf16)
QUANTIZATIONS: Final[dict[ExportFormat, tuple[Quantization, ...]]] = {
    ExportFormat.merged: (),
    ExportFormat.gguf: _ALL,
    ExportFormat.gguf_lora: (),
    ExportFormat.ollama: _ALL,
}
"""The quantizations that a format can have, its default first; empty for a format that keeps the model's own."""


class ExportRefused(Exception):
    """The export cannot be made, or its result failed the check; another attempt would end the same way."""

    def __init__(self, code: str, message: str) -> None:
        """`message` says what is wrong and how to fix it, `code` is a stable word for programs."""
        super().__init__(message)
        self.code = code
        self.message = message


class ExportSpec(Frozen):
    """What an export is made from."""

    model: str
    """Name of the fine-tuned model."""
    base_name: str
    base_dir: Path
    base_hub_id: str | None
    base_revision: str | None
    adapter_dir: Path
    format: ExportFormat
    quantization: Quantization | None
    probe: Path | None
    """JSONL file with rows whose prompts the check uses; None for a fixed set of questions."""


class Check(Frozen):
    """How the result was compared with the unmerged model."""

    compared: str
    """What was compared, such as `log-probabilities`."""
    probes: int
    """Number of prompts."""
    tokens: int
    """Number of compared positions."""
    difference: float
    """The measured difference, in `unit`."""
    tolerance: float
    """The largest difference that is accepted, in `unit`."""
    unit: str
    """Unit of `difference`, `tolerance` and `effect`."""
    effect: float | None = None
    """The difference that the adapter makes to the base model, in `unit`."""


class Findings(Frozen):
    """What a format reports about its result."""

    check: Check
    notes: tuple[str, ...] = ()
    """Sentences for people, warnings included."""


class ExportedFile(Frozen):
    """One file of an export."""

    path: str
    bytes: int
    sha256: str


class ManifestBase(Frozen):
    """The base model of an export."""

    name: str
    hub_id: str | None
    revision: str | None


class Manifest(Frozen):
    """Describes an export; also stored in it as `manifest.json`."""

    model: str
    base: ManifestBase
    format: ExportFormat
    quantization: Quantization | None
    files: tuple[ExportedFile, ...]
    check: Check
    notes: tuple[str, ...]
    versions: dict[str, str]
    """Version by package, Grouptune's included."""
    created_at: int
    """Unix seconds."""


class ExportProgress(Frozen):
    """Progress of an export: a line of the process's standard output."""

    stage: str
    progress: float
    """From 0 to 1."""


class ExportRefusal(Frozen):
    """Why an export cannot be made."""

    code: str
    message: str


class ExportReport(Frozen):
    """A line of the process's standard output: exactly one field is set."""

    progress: ExportProgress | None = None
    manifest: Manifest | None = None
    refusal: ExportRefusal | None = None
