"""The formats of exports. A format writes its files into an empty directory and checks them."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from app.core.spec.export import ExportFormat, ExportSpec, Findings
from worker.exporting.gguf.exports import gguf, gguf_lora, ollama
from worker.exporting.merged import merged
from worker.exporting.push import push

Progress = Callable[[str, float], None]
"""Gets what the process does now, in words, and how much is done, from 0 to 1."""
Format = Callable[[ExportSpec, Path, Progress], Findings]
"""Writes files below the empty directory and compares them with the unmerged model. Raises `ExportRefused`."""

FORMATS: Final[dict[ExportFormat, Format]] = {
    ExportFormat.merged: merged,
    ExportFormat.gguf: gguf,
    ExportFormat.gguf_lora: gguf_lora,
    ExportFormat.ollama: ollama,
    ExportFormat.push: push,
}
