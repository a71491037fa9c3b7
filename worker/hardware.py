"""Detects the hardware of this machine or container. Queries the GPU driver, because workers never load torch."""

import os
import subprocess
from pathlib import Path
from typing import Final

import structlog

from app.core.settings import Settings
from app.core.spec.hardware import Hardware

log = structlog.get_logger(__name__)

QUERY: Final = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
"""Prints a line per GPU: its name, which is the one that torch reports, and its memory in MiB."""
QUERY_SECONDS: Final = 20.0
_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def detect(settings: Settings) -> Hardware:
    """Return the hardware that this worker gives to each job."""
    cores = len(os.sched_getaffinity(0))
    gpus = _gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Hardware(
        accelerator=gpus[0][0] if gpus else None,
        accelerators=len(gpus),
        accelerator_memory_bytes=min(memory for _, memory in gpus) if gpus else None,
        processor=processor(Path("/proc/cpuinfo")),
        cores=cores,
        threads=settings.trainer_threads or os.cpu_count() or 1,
        processes=settings.trainer_processes,
        memory_bytes=memory_bytes(),
    )


def _gpus(visible: str | None) -> list[tuple[str, int]]:
    """Return name and memory (bytes) of each GPU that a trainer would see; empty without a driver."""
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    chosen = () if visible is None else ("-i", visible)
    try:
        done = subprocess.run([*QUERY, *chosen], capture_output=True, text=True, timeout=QUERY_SECONDS, check=True)
        return parse_gpus(done.stdout)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("hardware.gpus_unknown", error=str(error))
        return []


def parse_gpus(lines: str) -> list[tuple[str, int]]:
    """Parse the driver's lines, such as `NVIDIA L4, 23034`. Raises `ValueError` for other lines."""
    pairs = [line.rpartition(",") for line in lines.splitlines() if line.strip()]
    return [(name.strip(), int(mebibytes) * 1024**2) for name, _, mebibytes in pairs]


def processor(cpuinfo: Path) -> str:
    """Return the model name of the CPU."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "CPU"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or "CPU"


def memory_bytes(limits: tuple[str, ...] = _CGROUP_LIMITS) -> int:
    """Return the machine's memory in bytes, or the container's limit if that is lower."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():  # `max` means no limit
            sizes.append(int(text))
    return min(sizes)
