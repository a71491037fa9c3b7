"""The backup file: a tar archive whose last member lists the SHA-256 of all others, in the format of `sha256sum`.

Written and read in constant memory. An archive without the list is incomplete.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Self, cast

from app.core.errors import GrouptuneError
from app.core.parse_errors import why_unreadable
from app.core.storage.blobs import CHUNK_BYTES, SUMS

MODE: Final = 0o600
"""Mode of the file and its members, because they contain hashes of keys and data of clients."""


class BackupDamaged(GrouptuneError):
    """The file is not a complete backup."""

    code = "backup_damaged"


class BackupWriter:
    """Appends members to `out`; `close` makes the file complete."""

    def __init__(self, out: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - `close` closes it
        self._digests: dict[str, str] = {}

    def add(self, name: str, size: int, content: BinaryIO) -> str:
        """Write `size` bytes of `content`; return their SHA-256. Raises `OSError` when `content` is shorter."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, MODE
        hashing = _Hashing(content)
        self._tar.addfile(info, hashing)
        _forget(self._tar)
        self._digests[name] = hashing.digest.hexdigest()
        return self._digests[name]

    def add_bytes(self, name: str, content: bytes) -> None:
        """Write a small member."""
        self.add(name, len(content), io.BytesIO(content))

    def close(self) -> None:
        """Write the list of digests and complete the archive."""
        self.add_bytes(SUMS, "".join(f"{digest}  {name}\n" for name, digest in self._digests.items()).encode())
        self._tar.close()


class _Hashing(io.RawIOBase):
    """Wraps a stream and hashes the bytes that are read from it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


class BackupMember:
    """One member of a backup that is being read."""

    def __init__(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        self.name = info.name
        self.size = info.size
        self.sha256 = ""
        """Set once `chunks` was read to its end."""
        self._tar = tar
        self._info = info

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, from the start with every call. Raises `BackupDamaged` when the archive is truncated."""
        content = self._tar.extractfile(self._info)
        if content is None:
            raise BackupDamaged(f"The backup has a member '{self.name}' that is not a file.")
        digest = hashlib.sha256()
        with content:
            while chunk := _read(content):
                digest.update(chunk)
                yield chunk
        self.sha256 = digest.hexdigest()

    def content(self) -> bytes:
        """Return the whole content; only for small members."""
        return b"".join(self.chunks())


def _forget(tar: tarfile.TarFile) -> None:
    """Free the records of members, which `tarfile` keeps; `stream=True` does that from Python 3.13 on."""
    cast("Any", tar).members.clear()


def _read(content: IO[bytes]) -> bytes:
    try:
        return content.read(CHUNK_BYTES)
    except tarfile.ReadError as error:
        raise BackupDamaged("The backup is truncated; make or copy it again.") from error


class BackupReader:
    """Reads the members of a backup in order; all of them are verified once the iteration has ended."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Open a backup. Raises `BackupDamaged` for a file that is not a tar archive, `OSError` if unreadable."""
        try:
            tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed below; only its own errors are translated
        except tarfile.ReadError as error:
            raise BackupDamaged(f"{path} is not a Grouptune backup: it is no tar archive.") from error
        with tar:
            yield cls(tar)

    def __iter__(self) -> Iterator[BackupMember]:
        """Yield the members. Raises `BackupDamaged`, at the end at the latest, if one is missing or changed."""
        digests: dict[str, str] = {}
        while (info := self._next()) is not None:
            member = BackupMember(self._tar, info)
            if info.name == SUMS:
                _compare(digests, member.content().decode())
                return
            yield member
            if not member.sha256:
                for _ in member.chunks():
                    pass
            digests[member.name] = member.sha256
        raise BackupDamaged(f"The backup is incomplete: it does not end with {SUMS}. Make or copy it again.")

    def _next(self) -> tarfile.TarInfo | None:
        try:
            info = self._tar.next()
        except (tarfile.TarError, OSError) as error:
            raise BackupDamaged(
                f"The backup cannot be read: {why_unreadable(error)}. Make or copy it again."
            ) from error
        _forget(self._tar)
        if info is not None and not info.isreg():
            raise BackupDamaged(f"The backup has a member '{info.name}' that is not a file.")
        return info


def _compare(digests: dict[str, str], sums: str) -> None:
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
    wrong = [name for name in expected.keys() | digests.keys() if expected.get(name) != digests.get(name)]
    if wrong:
        raise BackupDamaged(f"The backup has changed since it was made, for example its member '{min(wrong)}'.")
