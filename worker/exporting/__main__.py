"""`python -m worker.exporting SPEC DIRECTORY`: makes one export in the empty DIRECTORY.

Writes `ExportReport`s as JSON lines to standard output: progress, and at the end the manifest or a refusal.
"""

import hashlib
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Final

from app.core.spec.export import (
    ExportedFile,
    ExportProgress,
    ExportRefusal,
    ExportRefused,
    ExportReport,
    ExportSpec,
    Findings,
    Manifest,
    ManifestBase,
)
from app.core.spec.subprocess_environment import PARENT_PID
from worker.parent_death import die_with

_PACKAGES: Final = ("grouptune", "torch", "transformers", "peft", "gguf", "huggingface_hub")
"""Packages whose versions a manifest lists, if they are installed."""
_LOWER_PRIORITY: Final = 10
"""Added to the niceness, so that a trainer on the same machine keeps its share of the cores."""


def main() -> int:
    """Make the export and return the exit code."""
    spec = ExportSpec.model_validate_json(Path(sys.argv[1]).read_bytes())
    directory = Path(sys.argv[2])
    try:
        # Nothing here quantises, and bitsandbytes, which peft would import, takes over a second and prints warnings.
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
        _progress("Loading libraries", 0.0)
        from worker.exporting.formats import FORMATS  # noqa: PLC0415 - imports torch

        findings = FORMATS[spec.format](spec, directory, _progress)
        _progress("Computing digests", 0.9)
        _send(ExportReport(manifest=_manifest(spec, directory, findings)))
    except ExportRefused as error:
        _send(
            ExportReport(refusal=ExportRefusal(code=error.code, message=error.message, is_temporary=error.is_temporary))
        )
    return 0


def _manifest(spec: ExportSpec, directory: Path, findings: Findings) -> Manifest:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return Manifest(
        model=spec.model,
        base=ManifestBase(name=spec.base_name, hub_id=spec.base_hub_id, revision=spec.base_revision),
        format=spec.format,
        quantization=spec.quantization,
        files=tuple(_file(path, path.relative_to(directory).as_posix()) for path in paths),
        check=findings.check,
        repository=findings.repository,
        notes=findings.notes,
        versions={name: version for name in _PACKAGES if (version := _version(name)) is not None},
        created_at=int(time.time()),
    )


def _file(path: Path, name: str) -> ExportedFile:
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return ExportedFile(path=name, bytes=path.stat().st_size, sha256=digest)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _progress(stage: str, progress: float) -> None:
    _send(ExportReport(progress=ExportProgress(stage=stage, progress=progress)))


def _send(report: ExportReport) -> None:
    sys.stdout.write(report.model_dump_json() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if parent := os.environ.get(PARENT_PID):
        die_with(int(parent))
    os.nice(_LOWER_PRIORITY)
    sys.exit(main())
