"""Encryption of the secrets in the database: webhook secrets, teachers' API keys and tokens of hubs.

Fernet (AES-128-CBC with HMAC-SHA256). The first key of the ring encrypts, all of them decrypt: to rotate, put a new
key first and keep the old ones.
"""

from pathlib import Path
from typing import Final, Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.core.errors import BadSetup, InvalidRequest

SETTING: Final = "GROUPTUNE_SECRET_KEYS"


def new_key() -> str:
    """Return a new key."""
    return Fernet.generate_key().decode()


class KeyRing:
    """The installation's keys, the same for all of its processes."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        """Raises `BadSetup` when a key is malformed (the error does not show the key)."""
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except ValueError as error:
            raise BadSetup(
                f"{SETTING} has a key that is not 32 bytes as URL-safe base64; make one with "
                "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'."
            ) from error

    @classmethod
    def load(cls, keys: str | None, path: Path | None) -> Self:
        """Load the keys from the two settings: separated by commas or white space, given directly or in a file.

        Raises `BadSetup` when the file cannot be read or a key is malformed.
        """
        text = keys or ""
        if path is not None:
            try:
                text += " " + path.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise BadSetup(f"{SETTING}_FILE cannot be read: {error}") from error
        return cls(tuple(text.replace(",", " ").split()))

    def encrypt(self, text: str) -> bytes:
        """Encrypt `text`. Raises `BadSetup` without a key."""
        return self._ring.encrypt(text.encode())

    def encrypt_for_client(self, text: str) -> bytes:
        """Encrypt a secret from a request. Raises `InvalidRequest` without a key: a retry would not help."""
        try:
            return self.encrypt(text)
        except BadSetup as error:
            raise InvalidRequest(error.message, code=error.code) from error

    def decrypt(self, token: bytes) -> str:
        """Decrypt `token`. Raises `BadSetup` when none of the keys encrypted it, or it was changed."""
        try:
            return self._ring.decrypt(token).decode()
        except InvalidToken as error:
            raise BadSetup(
                f"A stored secret cannot be decrypted: the key that encrypted it is missing from {SETTING}."
            ) from error

    @property
    def _ring(self) -> MultiFernet:
        if self._fernet is None:
            raise BadSetup(
                f"Secrets are stored encrypted: set {SETTING} or {SETTING}_FILE (SECURITY.md says how) "
                "for the API and the workers."
            )
        return self._fernet
