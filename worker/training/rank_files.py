"""Files through which the launcher and the processes of a job that trains on several GPUs talk."""

from pathlib import Path


def report_file(run_dir: Path, rank: int) -> Path:
    """The file in which a process other than 0 reports why it failed."""
    return run_dir / f"rank-{rank}.jsonl"


def stop_file(run_dir: Path) -> Path:
    """The file that reports a stop request to processes that start after it."""
    return run_dir / "stop"
