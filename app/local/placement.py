"""Decides which user runs an engine and where its files lie, so that this user reaches them. Knows no SQL.

Postgres refuses to run as root. Root therefore hands it to an unprivileged user, who may be unable to enter
the state directory (a clone under /root, mode 0700). Then the files go below `SYSTEM_DIR`, and a pointer file
leads back to them. Access control lists are not considered, only modes.
"""

import hashlib
import os
import pwd
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.local.process import Identity, LocalStackError

SYSTEM_DIR = Path("/var/lib/grouptune")
UNPRIVILEGED_USERS = ("postgres", "nobody")
FALLBACK_UID = 65534
POINTER_NAME = "postgres.location"
SOCKET_PATH_LIMIT_BYTES = 107  # sun_path of Linux, without the final NUL
LONGEST_SOCKET_NAME = "/.s.PGSQL.5432"
PLAIN_PATH = re.compile(r"[A-Za-z0-9._/+@-]+")
"""Paths that mean the same in libpq's host list, in Postgres' directory list and in a URL."""
PRIVATE_MODE = 0o700
PUBLIC_MODE = 0o755


@dataclass(frozen=True)
class Home:
    """An engine's own directory and the user that owns it (None: the user of this process)."""

    directory: Path
    identity: Identity | None


def short_hash(text: str) -> str:
    """Twelve hexadecimal digits that tell installations apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_root() -> bool:
    return os.geteuid() == 0


def unprivileged_identity() -> Identity:
    """The user that root lends to Postgres."""
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(entry.pw_uid, entry.pw_gid)
    return Identity(FALLBACK_UID, FALLBACK_UID)


def can_access(path: Path, identity: Identity, bits: int = 0o1) -> bool:
    """Whether the user may enter every directory above `path` and has `bits` (4 read, 1 enter) on it."""
    resolved = path.resolve()
    wanted = [(parent, 0o1) for parent in resolved.parents] + [(resolved, bits)]
    return all(_allows(entry, identity, need) for entry, need in wanted)


def _allows(path: Path, identity: Identity, need: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    if status.st_uid == identity.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == identity.gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & need == need


def make_state_dir(state_dir: Path) -> None:
    """Creates the state directory; an existing one keeps its mode. Secrets in it carry their own modes."""
    state_dir.mkdir(mode=0o711 if is_root() else PRIVATE_MODE, parents=True, exist_ok=True)


def postgres_home(state_dir: Path) -> Home:
    """The directory for Postgres, found again or made; raises `LocalStackError` when lost or not ours."""
    own = state_dir / "postgres"
    pointer = state_dir / POINTER_NAME
    if pointer.exists():
        return _existing_home(Path(pointer.read_text().strip()), pointer)
    if own.is_dir():
        return _existing_home(own, pointer)
    if not is_root():
        own.mkdir(PRIVATE_MODE)
        return Home(own, None)
    identity = unprivileged_identity()
    if can_access(state_dir, identity):
        own.mkdir(PRIVATE_MODE)
    else:
        own = _system_home(state_dir)
        # Before the first use: a crash in between leaves an empty directory, never data that nobody finds.
        write_atomically(pointer, f"{own}\n", mode=0o644)
    os.chown(own, identity.uid, identity.gid)
    return Home(own, identity)


def _existing_home(home: Path, pointer: Path) -> Home:
    if not home.is_dir():
        raise LocalStackError(f"{pointer} names {home}, which is gone: remove it to start anew")
    status = home.stat()
    if not is_root():
        if status.st_uid != os.geteuid():
            raise LocalStackError(f"{home} belongs to uid {status.st_uid}: start as the user who made it")
        return Home(home, None)
    if status.st_uid == 0:  # root died between mkdir and chown
        identity = unprivileged_identity()
        os.chown(home, identity.uid, identity.gid)
    else:
        identity = Identity(status.st_uid, status.st_gid)
    if not can_access(home, identity):
        raise LocalStackError(f"{home} belongs to uid {identity.uid}, which cannot enter it: start as that user")
    return Home(home, identity)


def make_system_dir() -> Path:
    """`SYSTEM_DIR`, made when missing; raises when this user may not write there."""
    try:
        SYSTEM_DIR.mkdir(PUBLIC_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalStackError(f"cannot make {SYSTEM_DIR} ({error}): set DATABASE_URL") from error
    return SYSTEM_DIR


def _system_home(state_dir: Path) -> Path:
    # The random part: a new state directory at an old path must not wake the data of the old one.
    name = tempfile.mkdtemp(prefix=f"{short_hash(str(state_dir.resolve()))}-", dir=make_system_dir())
    return Path(name)


def socket_directory(preferred: Path, identity: Identity | None) -> Path:
    """`preferred` made with mode 0700, or a short stand-in when its path is too long or not plain."""
    if _suits_sockets(preferred):
        return _private_directory(preferred, identity)
    name = f"grouptune-{os.geteuid()}-{short_hash(str(preferred.resolve()))}"
    # S108: its mode and owner are checked before use.
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if base and _usable_base(Path(base), identity) and _suits_sockets(Path(base) / name):
            return _private_directory(Path(base) / name, identity)
    raise LocalStackError(f"{preferred} is too long for a socket, and no temporary directory is usable")


def _usable_base(base: Path, identity: Identity | None) -> bool:
    return base.is_absolute() and os.access(base, os.W_OK) and (identity is None or can_access(base, identity))


def _suits_sockets(directory: Path) -> bool:
    text = str(directory)
    fits = len(os.fsencode(text + LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT_BYTES
    return fits and PLAIN_PATH.fullmatch(text) is not None


def _private_directory(path: Path, identity: Identity | None) -> Path:
    owner = identity or Identity(os.geteuid(), os.getegid())
    if not path.exists():
        path.mkdir(PRIVATE_MODE, parents=True)
        if identity is not None:
            os.chown(path, identity.uid, identity.gid)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != owner.uid or status.st_mode & 0o077:
        raise LocalStackError(f"{path} must be a directory of uid {owner.uid} with mode 0700: remove it")
    return path


def write_atomically(path: Path, text: str, *, mode: int) -> None:
    """Replaces a small file as a whole; a crash leaves the old one or the new one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
