"""The file of a backup: a tar whose last member lists the SHA-256 of all others, as `sha256sum` does.

Written and read in constant memory. Without the list the file is not complete. Knows nothing of what members mean.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Self, cast

from app.core.errors import GrouptuneError
from app.core.storage.blobs import CHUNK_BYTES, SUMS

MODE: Final = 0o600
"""Of the members too: they hold the hashes of keys and clients' data."""


class BackupDamaged(GrouptuneError):
    """The file is not a whole backup."""

    code = "backup_damaged"


class BackupWriter:
    """Appends members to `out`; `close` makes the file complete."""

    def __init__(self, out: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - `close` closes it
        self._digests: dict[str, str] = {}

    def add(self, name: str, size: int, content: BinaryIO) -> str:
        """Writes `size` bytes of `content`; returns their SHA-256. Raises `OSError` when it has fewer."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, MODE
        hashing = _Hashing(content)
        self._tar.addfile(info, hashing)
        _forget(self._tar)
        self._digests[name] = hashing.digest.hexdigest()
        return self._digests[name]

    def add_bytes(self, name: str, content: bytes) -> None:
        """The same for what is small."""
        self.add(name, len(content), io.BytesIO(content))

    def close(self) -> None:
        """Writes the list of digests."""
        self.add_bytes(SUMS, "".join(f"{digest}  {name}\n" for name, digest in self._digests.items()).encode())
        self._tar.close()


class _Hashing(io.RawIOBase):
    """A stream that is read once, and the digest of what was read."""

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
        """Known once `chunks` was read to its end."""
        self._tar = tar
        self._info = info

    def chunks(self) -> Iterator[bytes]:
        """The content; again from its start with every call. Raises `BackupDamaged` when the file ends before it."""
        content = self._tar.extractfile(self._info)
        if content is None:
            raise BackupDamaged(f"The backup has a member '{self.name}' that is no file.")
        digest = hashlib.sha256()
        with content:
            while chunk := _read(content):
                digest.update(chunk)
                yield chunk
        self.sha256 = digest.hexdigest()

    def content(self) -> bytes:
        """All of it, of a small one."""
        return b"".join(self.chunks())


def _forget(tar: tarfile.TarFile) -> None:
    """The module keeps a record of every member; from Python 3.13 on `stream=True` says not to."""
    cast("Any", tar).members.clear()


def _read(content: IO[bytes]) -> bytes:
    try:
        return content.read(CHUNK_BYTES)
    except tarfile.ReadError as error:
        raise BackupDamaged("The backup ends too early; make or copy it again.") from error


class BackupReader:
    """The members of the backup at `path`, in order; all of them are whole once the iteration ends."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Raises `BackupDamaged` for a file that is no tar, `OSError` for one that cannot be read."""
        try:
            tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed below; its errors are told apart from the block's
        except tarfile.ReadError as error:
            raise BackupDamaged(f"{path} is no backup of Grouptune ({error}).") from error
        with tar:
            yield cls(tar)

    def __iter__(self) -> Iterator[BackupMember]:
        """Raises `BackupDamaged` for what is missing, unexpected or changed: after the last member at the latest."""
        found: dict[str, str] = {}
        while (info := self._next()) is not None:
            member = BackupMember(self._tar, info)
            if info.name == SUMS:
                _compare(found, member.content().decode())
                return
            yield member
            if not member.sha256:
                for _ in member.chunks():
                    pass
            found[member.name] = member.sha256
        raise BackupDamaged(f"The backup is not complete: it does not end with {SUMS}. Make or copy it again.")

    def _next(self) -> tarfile.TarInfo | None:
        try:
            info = self._tar.next()
        except (tarfile.TarError, OSError) as error:
            raise BackupDamaged(f"The backup cannot be read on ({error}); make or copy it again.") from error
        _forget(self._tar)
        if info is not None and not info.isreg():
            raise BackupDamaged(f"The backup has a member '{info.name}' that is no file.")
        return info


def _compare(found: dict[str, str], sums: str) -> None:
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if wrong:
        raise BackupDamaged(f"The backup has changed since it was made: look at its member '{min(wrong)}'.")
