"""The bytes that single tokens stand for: a token may be a part of a character."""

import re
from functools import lru_cache
from typing import Final

from tokenizers import Tokenizer

_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE: Final = "\u2581"
"""SentencePiece's sign for a space."""


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet: visible characters stand for themselves, the others for the code points from 256."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_ALPHABET: Final = _byte_alphabet()


class TokenBytes:
    """Reads the tokens of one tokenizer."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
        decoder = backend.decoder
        state = "" if decoder is None else decoder.__getstate__().decode()
        self._is_byte_level = '"ByteLevel"' in state
        self._falls_back = '"ByteFallback"' in state
        self._marks_spaces = _SPACE in state or '"Metaspace"' in state
        self.of = lru_cache(maxsize=65_536)(self._read)
        """Returns the bytes of a token id; empty for an id that the tokenizer does not know."""

    def _read(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._backend.id_to_token(token_id) or ""
        if self._is_byte_level and all(character in _ALPHABET for character in token):
            return bytes(_ALPHABET[character] for character in token)
        if self._falls_back and (byte := _BYTE.fullmatch(token)):
            return bytes.fromhex(byte[1])
        return (token.replace(_SPACE, " ") if self._marks_spaces else token).encode()
