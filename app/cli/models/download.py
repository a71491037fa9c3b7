"""Downloads adapters of fine-tuned models and checkpoints into new directories."""

import re
import tarfile
import tempfile
from pathlib import Path

from app.cli.ui.console import ReportProgress
from app.client import Client
from app.core.errors import GrouptuneError

_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]+")
"""Characters of a model name that its default directory name replaces by `-`."""


class DownloadFailed(GrouptuneError):
    """The fine-tuned model could not be downloaded."""

    code = "download_failed"


def default_directory(name: str) -> Path:
    """Return the directory for the model called `name`, below the current one."""
    return Path(_FORBIDDEN.sub("-", name).strip("-."))


def download_adapter(client: Client, path: str, name: str, target: Path, progress: ReportProgress) -> None:
    """Download the archive at the API's `path` into the new directory `target`, which is complete or does not exist.

    Raises `DownloadFailed` if the directory exists.
    """
    if target.exists():
        raise DownloadFailed(f"{target} exists already. Name a new directory.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".grouptune-", dir=target.parent) as temporary:
        progress(f"Downloading {name}")
        archive, adapter = Path(temporary) / "adapter.tar", Path(temporary) / "adapter"
        client.download(path, archive)
        with tarfile.open(archive) as tar:
            tar.extractall(adapter, filter="data")
        adapter.rename(target)  # atomic
