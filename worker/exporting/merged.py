"""The format `merged`: one plain transformers model."""

from collections.abc import Callable
from pathlib import Path

from app.core.spec.export import Check, ExportRefused, ExportSpec, Findings
from worker.exporting import probes
from worker.training.merge.model import merge
from worker.training.merge.report import MergeDiffers, MergeRefused


def merged(spec: ExportSpec, directory: Path, progress: Callable[[str, float], None]) -> Findings:
    """Merge the adapter into its base model; compare log-probabilities on the probe set."""
    sequences = probes.load(spec)
    stages = iter((0.05, 0.3, 0.7))

    def report(line: str) -> None:
        progress(line, next(stages, 0.7))

    try:
        done = merge(spec.adapter_dir, spec.base_dir, directory / "model", spec.model, report, sequences)
    except MergeDiffers as error:
        raise ExportRefused("export_check_failed", str(error)) from error
    except MergeRefused as error:
        raise ExportRefused("export_refused", str(error)) from error
    for path in (directory / "model").iterdir():
        path.rename(directory / path.name)
    (directory / "model").rmdir()
    comparison = done.comparison
    check = Check(
        compared="log-probabilities of every token",
        probes=len(sequences),
        tokens=comparison.positions,
        difference=comparison.relative,
        tolerance=comparison.tolerance,
        effect=comparison.effect / comparison.spread,
        unit="RMS difference as a share of the log-probabilities' standard deviation",
    )
    return Findings(check=check, notes=tuple(done.lines()))
