"""Chooses the user that runs Postgres, and a place for its files that this user can access.

Postgres refuses to run as root. Root therefore runs it as an unprivileged user, who may be unable to enter the state
directory (for example a clone under /root, mode 0700). In that case the files go below `SYSTEM_DIR`, and a pointer
file in the state directory names their location. Only file modes are checked, not access control lists.
"""

import hashlib
import os
import pwd
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.core.paths import exists, is_directory
from app.local.errors import LocalStackError
from app.local.process import ProcessUser

SYSTEM_DIR = Path("/var/lib/grouptune")
OVERFLOW_UID = 65534  # the unprivileged user and group of every Linux distribution
POINTER_NAME = "postgres.location"
SOCKET_PATH_LIMIT_BYTES = 107  # sun_path of Linux, without the final NUL
LONGEST_SOCKET_NAME = "/.s.PGSQL.5432"
PLAIN_PATH = re.compile(r"[A-Za-z0-9._/+@-]+")
"""Paths that need no quoting in libpq's host list, in Postgres' directory list and in a URL."""
PRIVATE_MODE = 0o700
PUBLIC_MODE = 0o755


@dataclass(frozen=True)
class EngineHome:
    """Directory of an engine and the user that owns it (None: the user of this process)."""

    directory: Path
    user: ProcessUser | None


def short_hash(text: str) -> str:
    """Return twelve hexadecimal digits that distinguish installations."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_root() -> bool:
    return os.geteuid() == 0


def unprivileged_user() -> ProcessUser:
    """Return the user that runs Postgres on behalf of root."""
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        return ProcessUser(OVERFLOW_UID, OVERFLOW_UID)
    return ProcessUser(entry.pw_uid, entry.pw_gid)


def can_access(path: Path, user: ProcessUser, bits: int = 0o1) -> bool:
    """Whether the user can enter every directory above `path` and has `bits` (4 read, 1 enter) on `path`."""
    resolved = path.resolve()
    required = [(parent, 0o1) for parent in resolved.parents] + [(resolved, bits)]
    return all(_allows(entry, user, need) for entry, need in required)


def _allows(path: Path, user: ProcessUser, need: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    # As the kernel does: only the first class that matches counts, even if a later one allows more.
    if status.st_uid == user.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == user.gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & need == need


def make_state_dir(state_dir: Path) -> None:
    """Create the state directory; an existing one keeps its mode. Files with secrets have modes of their own."""
    # Mode 0711 for root: the unprivileged user of Postgres must be able to enter the directory.
    state_dir.mkdir(mode=0o711 if is_root() else PRIVATE_MODE, parents=True, exist_ok=True)


def postgres_home(state_dir: Path) -> EngineHome:
    """Find or create the directory of Postgres. Raises `LocalStackError` if it is lost or belongs to another user."""
    own = state_dir / "postgres"
    pointer = state_dir / POINTER_NAME
    if exists(pointer):
        return _existing_home(Path(pointer.read_text().strip()), pointer)
    if is_directory(own):
        return _existing_home(own, pointer)
    if not is_root():
        own.mkdir(PRIVATE_MODE)
        return EngineHome(own, None)
    user = unprivileged_user()
    if can_access(state_dir, user):
        own.mkdir(PRIVATE_MODE)
    else:
        own = _system_home(state_dir)
        # The pointer is written before the first use: a crash can leave an empty directory, but never lost data.
        write_atomically(pointer, f"{own}\n", mode=0o644)
    os.chown(own, user.uid, user.gid)
    return EngineHome(own, user)


def _existing_home(home: Path, pointer: Path) -> EngineHome:
    if not is_directory(home):
        raise LocalStackError(
            f"{pointer} points to {home}, which does not exist. Delete {pointer} to start with an empty database."
        )
    status = home.stat()
    if not is_root():
        if status.st_uid != os.geteuid():
            raise LocalStackError(f"{home} belongs to uid {status.st_uid}. Start as that user.")
        return EngineHome(home, None)
    if status.st_uid == 0:  # a crash between mkdir and chown
        user = unprivileged_user()
        os.chown(home, user.uid, user.gid)
    else:
        user = ProcessUser(status.st_uid, status.st_gid)
    if not can_access(home, user):
        raise LocalStackError(f"{home} belongs to uid {user.uid}, which cannot enter it. Start as that user.")
    return EngineHome(home, user)


def make_system_dir() -> Path:
    """Create `SYSTEM_DIR` if it is missing. Raises `LocalStackError` without permission."""
    try:
        SYSTEM_DIR.mkdir(PUBLIC_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalStackError(
            f"Cannot create {SYSTEM_DIR} ({error}). Set DATABASE_URL to use another Postgres."
        ) from error
    return SYSTEM_DIR


def _system_home(state_dir: Path) -> Path:
    # The random part keeps a new state directory from reusing the data of a deleted one at the same path.
    name = tempfile.mkdtemp(prefix=f"{short_hash(str(state_dir.resolve()))}-", dir=make_system_dir())
    return Path(name)


def socket_directory(preferred: Path, user: ProcessUser | None) -> Path:
    """Create `preferred` with mode 0700, or a directory with a short path if `preferred` is too long for a socket."""
    if _suits_sockets(preferred):
        return _private_directory(preferred, user)
    name = f"grouptune-{os.geteuid()}-{short_hash(str(preferred.resolve()))}"
    # S108: `_private_directory` checks mode and owner before use.
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if base and _usable_base(Path(base), user) and _suits_sockets(Path(base) / name):
            return _private_directory(Path(base) / name, user)
    raise LocalStackError(
        f"{preferred} is too long for a socket, and no temporary directory is usable. Choose a shorter --state-dir."
    )


def _usable_base(base: Path, user: ProcessUser | None) -> bool:
    return base.is_absolute() and os.access(base, os.W_OK) and (user is None or can_access(base, user))


def _suits_sockets(directory: Path) -> bool:
    text = str(directory)
    fits = len(os.fsencode(text + LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT_BYTES
    return fits and PLAIN_PATH.fullmatch(text) is not None


def _private_directory(path: Path, user: ProcessUser | None) -> Path:
    owner = user or ProcessUser(os.geteuid(), os.getegid())
    if not exists(path):
        path.mkdir(PRIVATE_MODE, parents=True)
        if user is not None:
            os.chown(path, user.uid, user.gid)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != owner.uid or status.st_mode & 0o077:
        raise LocalStackError(
            f"{path} must be a directory of uid {owner.uid} with mode 0700. Delete it and start again."
        )
    return path


def write_atomically(path: Path, text: str, *, mode: int) -> None:
    """Replace a small file atomically; a crash leaves either the old or the new content."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
