"""The extras of this distribution: which of their packages are missing, and the command that installs them."""

import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Collection, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from importlib.util import find_spec
from json import loads
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.core.errors import BadSetup

NAME: Final = "grouptune"
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
"""Index of PyTorch's builds without CUDA, which are gigabytes smaller than PyPI's."""
GPU_DEVICES: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Of Nvidia's driver, and of WSL's."""
SHOWN: Final = 6


class ExtraMissing(BadSetup):
    """Packages of an extra are not installed. The message contains the command that installs them."""

    code = "extra_missing"


def require(extra: str, user: str, *, without: Collection[str] = ()) -> None:
    """Raise `ExtraMissing` unless the packages of `extra`, except `without`, are installed.

    `user` is the command or the file that needs them, as the subject of a sentence.
    """
    names = [name for name in missing(extra) if name not in without]
    if names:
        raise ExtraMissing(
            f"{user} needs packages that are not installed: {_few(names)}. Run: {install_command(extra)}"
        )


def require_or_exit(extra: str, user: str) -> None:
    """Like `require`, for the start of a program: prints the message and exits."""
    try:
        require(extra, user)
    except ExtraMissing as error:
        sys.exit(f"Error: {error.message}")


def missing(extra: str) -> list[str]:
    """Return the names of the direct requirements of `extra` that are not installed, or only in an older version."""
    requirements = {canonicalize_name(each.name): each for each in _requirements(extra)}
    return sorted(name for name, requirement in requirements.items() if not _is_met(requirement))


def install_command(extra: str) -> str:
    """Return the command that adds `extra` to this environment, for the tool that created the environment.

    Without a GPU it selects PyTorch's build for the CPU.
    """
    prefix = Path(sys.prefix)
    lacks_torch = "torch" in missing(extra)
    needs_cpu_index = lacks_torch and sys.platform == "linux" and not any(device.exists() for device in GPU_DEVICES)
    backend = " --torch-backend=auto" if lacks_torch else ""
    index = f"--extra-index-url {CPU_INDEX}"
    if (prefix / "uv-receipt.toml").exists():
        return f"uv tool install{backend} {_reinstalled(extra)}"
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx install --force {_reinstalled(extra)}" + (f" --pip-args='{index}'" if needs_cpu_index else "")
    if find_spec("pip") is None:
        return f"uv pip install --python {shlex.quote(sys.prefix)}{backend} {_reinstalled(extra)}"
    return f"{_pip()} install {_quoted(f'{NAME}[{extra}]')}" + (f" {index}" if needs_cpu_index else "")


def _few(names: list[str]) -> str:
    """Join the names; of a long list only the first ones, and the number of the others."""
    others = len(names) - SHOWN
    return ", ".join(names) if others <= 1 else f"{', '.join(names[:SHOWN])} and {others} more"


def _requirements(extra: str) -> Iterator[Requirement]:
    """Yield the requirements of an extra, and of the extras of this distribution that it includes."""
    for requirement in _conditional():
        if requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
            if canonicalize_name(requirement.name) != NAME:
                yield requirement
            for included in requirement.extras if canonicalize_name(requirement.name) == NAME else ():
                yield from _requirements(included)


def _conditional() -> list[Requirement]:
    """Return the requirements that belong to an extra."""
    requirements = [Requirement(text) for text in _ourselves().requires or ()]
    return [each for each in requirements if each.marker is not None and not each.marker.evaluate({"extra": ""})]


def _is_met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _reinstalled(extra: str) -> str:
    """Return the requirement for a tool that replaces the whole environment: the extras that it has stay."""
    installed = [each for each in _ourselves().metadata.get_all("Provides-Extra") or () if not missing(each)]
    included = {name for each in [*installed, extra] for name in _included(each)}
    extras = ",".join(sorted({*installed, extra} - included))
    return _quoted(f"{NAME}[{extras}]{_source()}")


def _included(extra: str) -> set[str]:
    """Return the extras that `extra` includes, directly or through another one."""
    direct = {
        name
        for each in _conditional()
        if canonicalize_name(each.name) == NAME and each.marker is not None and each.marker.evaluate({"extra": extra})
        for name in each.extras
    }
    return direct.union(*(_included(name) for name in direct))


def _source() -> str:
    """Return ` @ URL` if this distribution was installed from a file, a directory or a repository, else nothing."""
    text = _ourselves().read_text("direct_url.json")
    if text is None:
        return ""
    origin = loads(text)
    revision = origin.get("vcs_info")
    return f" @ {revision['vcs']}+{origin['url']}@{revision['commit_id']}" if revision else f" @ {origin['url']}"


def _ourselves() -> Distribution:
    return distribution(NAME)


def _pip() -> str:
    """Return how to call this environment's pip: by its name if that is what PATH finds."""
    found = shutil.which("pip")
    if found and Path(found).parent == Path(sysconfig.get_path("scripts")):
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"


def _quoted(requirement: str) -> str:
    """Quote a requirement for a shell; the shells of Windows know double quotes only."""
    return f'"{requirement}"' if os.name == "nt" else f"'{requirement}'"
