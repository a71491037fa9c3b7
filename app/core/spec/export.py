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
    push = "push"
    """A repository on a Hugging Face hub with the adapter or the merged model."""


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
    ExportFormat.push: (),
}
"""The quantizations that a format can have, its default first; empty for a format that keeps the model's own."""


def is_hub_token(text: str) -> bool:
    """Return whether a text can be a token: errors of the hub's client quote one that a header cannot contain."""
    return text.isascii() and text.isprintable() and " " not in text and bool(text)


class ExportRefused(Exception):
    """The export cannot be made, or its result failed the check."""

    def __init__(self, code: str, message: str, *, is_temporary: bool = False) -> None:
        """`message` says what is wrong and how to fix it, `code` is a stable word for programs.

        `is_temporary`: another attempt may succeed.
        """
        super().__init__(message)
        self.is_temporary = is_temporary
        self.code = code
        self.message = message


class TrainingFacts(Frozen):
    """How the model was trained, for its card."""

    method: str
    steps: int
    trained_tokens: int | None
    seed: int
    hyperparameters: dict[str, int | float | str]
    before: dict[str, float | None]
    """Held-out results of the model that training started from."""
    after: dict[str, float | None]


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
    training: TrainingFacts | None = None
    """None for a model of another project."""
    hub_url: str | None = None
    """Hub to push to; the process gets its token in the environment."""
    repository: str | None = None
    """`owner/name`, to push to."""
    private: bool = True
    merged: bool = False
    """Whether to push the merged model instead of the adapter."""


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


class PushedRepository(Frozen):
    """A repository that an export was pushed to."""

    url: str
    """Address of the repository."""
    commit: str
    """The commit that the push made."""
    private: bool
    """Whether the repository is private."""


class Findings(Frozen):
    """What a format reports about its result."""

    check: Check
    repository: PushedRepository | None = None
    notes: tuple[str, ...] = ()
    """Sentences for people, warnings included."""


class ExportedFile(Frozen):
    """One file of an export."""

    path: str
    """Path inside the archive."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Digest of the file, hexadecimal."""


class ManifestBase(Frozen):
    """The base model of an export."""

    name: str
    """Name of the base model on the server."""
    hub_id: str | None
    """Its repository on the Hugging Face hub; null if known on the server only."""
    revision: str | None
    """The commit in that repository, if known."""


class Manifest(Frozen):
    """Describes an export; also stored in it as `manifest.json`."""

    model: str
    """The exported model."""
    base: ManifestBase
    """Its base model."""
    format: ExportFormat
    """The kind of artefact."""
    quantization: Quantization | None
    """Number format of the weights; null for formats that keep the model's own."""
    files: tuple[ExportedFile, ...]
    """The files of the export."""
    check: Check
    """How the result was compared with the unmerged model."""
    repository: PushedRepository | None = None
    """Set by `push`."""
    notes: tuple[str, ...]
    """Sentences for people, warnings included."""
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
    is_temporary: bool = False
    """Whether another attempt may succeed."""


class ExportReport(Frozen):
    """A line of the process's standard output: exactly one field is set."""

    progress: ExportProgress | None = None
    manifest: Manifest | None = None
    refusal: ExportRefusal | None = None
