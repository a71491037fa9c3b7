"""Removes secrets from the output of an attempt's processes before clients can read it.

Two nets: the values of all secrets that this worker has, and patterns of secrets that others may have printed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote

from pydantic import SecretStr

from app.core.settings import Settings
from app.core.spec.subprocess_environment import is_secret

REDACTED: Final = "[redacted]"
SHORTEST: Final = 6
"""Shorter values are placeholders, such as `EMPTY` for a server without keys: they would be found in any text."""
_SEPARATORS: Final = re.compile(r"[,\s]+")
_PASSWORD: Final = re.compile(r"://[^\s/@:]*:([^\s/@]+)@")

_PATTERNS: Final = (
    # Addresses of databases and brokers, and the credentials in any other address.
    (
        re.compile(r"\b((?:postgres(?:ql)?|redis|rediss|valkey|amqp|amqps|mysql)(?:\+\w+)?://)[^\s'\"]+"),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"://[^\s/@'\"]+@"), f"://{REDACTED}@"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?\w+\s+)[^\s'\"]{8,}"), rf"\1{REDACTED}"),
    (
        re.compile(
            r"(?i)((?:api[_-]?key|secret|passwd|password|auth[_-]?token|access[_-]?token)['\"]?\s*[:=]\s*['\"]?)"
            r"[^\s'\",;)}\]]{6,}"
        ),
        rf"\1{REDACTED}",
    ),
    # Keys with a known beginning: Grouptune, Standard Webhooks, OpenAI, Hugging Face, GitHub, AWS, JSON Web Tokens.
    (
        re.compile(
            r"\b(?:gt_live_\w{8,}|whsec_[\w+/=-]{8,}|sk-[\w-]{16,}|hf_\w{16,}|gh[opsur]_\w{20,}|github_pat_\w{20,}"
            r"|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{8,1024}\.[\w-]{8,1024}\.[\w-]+)"
        ),
        REDACTED,
    ),
)


class Redactor:
    """Replaces secrets in text with `[redacted]`."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """The secrets are those of the settings, and of variables whose names look like a secret's."""
        self._values: set[str] = set()
        self._known: re.Pattern[str] | None = None
        own = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
        addresses = [url for url in (settings.database_url, settings.redis_url) if url]
        named = [value for name, value in environment.items() if is_secret(name)]
        in_urls = [word for text in (*addresses, *environment.values()) for word in _PASSWORD.findall(text)]
        self.add(*own, *addresses, *named, *in_urls, *map(unquote, in_urls))

    def add(self, *values: str) -> None:
        """Redact further values, and each part of a value that is a list."""
        parts = {part for value in values for part in (value, *_SEPARATORS.split(value)) if len(part) >= SHORTEST}
        self._values |= {form for part in parts for form in _forms(part)}
        self._known = _any_of(self._values)

    def redact(self, text: str) -> str:
        """Return `text` without secrets."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def _forms(secret: str) -> set[str]:
    """Return the secret as it is, as in a URL, and as in JSON or Python."""
    return {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}


def _any_of(values: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern of all values, the longest first, because one may begin with another."""
    alternatives = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
    return re.compile(alternatives) if alternatives else None
