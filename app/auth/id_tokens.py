"""ID tokens of CI systems (OpenID Connect): whether one was signed by its issuer, and what it claims.

Keys are fetched from issuers that an administrator trusts, never from one that only a token names.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import jwt

from app.core.egress.client import AddressRefused, Egress, EgressFailed
from app.core.errors import AuthenticationFailed, GrouptuneError

ALGORITHMS: Final = ("RS256", "ES256")
LEEWAY_SECONDS: Final = 30
REQUIRED: Final = ("iss", "aud", "sub", "exp", "iat", "jti")
TIMEOUT_SECONDS: Final = 10.0
MAX_BYTES: Final = 256 * 1024
KEPT_SECONDS: Final = 3600.0
"""How long an issuer's keys are taken for its present ones."""
ASK_AGAIN_SECONDS: Final = 30.0
"""An unknown key id makes us ask again, but no oftener than this: anybody can invent key ids."""


class IssuerUnavailable(GrouptuneError):
    """The issuer's keys cannot be fetched; try again later."""

    status = 503
    code = "oidc_issuer_unavailable"


@dataclass
class _Keys:
    fetched: float
    """Monotonic."""
    by_id: dict[str, jwt.PyJWK] = field(default_factory=dict)


class IdTokens:
    """Verifies tokens, with a cache of their issuers' keys. Safe for threads."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._keys: dict[str, _Keys] = {}
        self._lock = threading.Lock()

    def issuer_of(self, token: str) -> str:
        """The issuer that a token names, not verified. Raises `AuthenticationFailed` for what is no token."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError as error:
            raise _invalid(f"it cannot be read ({error})") from error
        return str(claims.get("iss", ""))

    def verify(self, token: str, issuer: str) -> dict[str, Any]:
        """The claims of a token of this issuer. Raises `AuthenticationFailed` and `IssuerUnavailable`.

        Its audience is one text, and is for the caller to check.
        """
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise _invalid(f"it is signed by {header.get('alg')!r}, and must be by {' or '.join(ALGORITHMS)}")
        key = self._key(issuer, str(header.get("kid", "")))
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[header["alg"]],
                issuer=issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": list(REQUIRED), "verify_aud": False, "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError as error:
            raise _invalid("it has expired; ask the CI system for a new one") from error
        except jwt.InvalidTokenError as error:
            raise _invalid(str(error)) from error
        audience = claims["aud"]
        claims["aud"] = audience[0] if isinstance(audience, list) and len(audience) == 1 else audience
        for name in ("aud", "jti"):
            if not isinstance(claims[name], str) or not 0 < len(claims[name]) <= 255 or "\0" in claims[name]:
                raise _invalid(f"its claim '{name}' is not one text of at most 255 characters")
        return claims

    def _key(self, issuer: str, key_id: str) -> jwt.PyJWK:
        with self._lock:  # of those who ask at once, one fetches
            known = self._keys.get(issuer)
            age = float("inf") if known is None else time.monotonic() - known.fetched
            if known is None or age > KEPT_SECONDS or (key_id not in known.by_id and age > ASK_AGAIN_SECONDS):
                known = self._keys[issuer] = _Keys(time.monotonic(), self._fetch(issuer))
        if key_id not in known.by_id:
            raise _invalid(f"{issuer} has no key '{key_id[:64]}'")
        return known.by_id[key_id]

    def _fetch(self, issuer: str) -> dict[str, jwt.PyJWK]:
        about = self._json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != issuer or not isinstance(about.get("jwks_uri"), str):
            raise IssuerUnavailable(f"{issuer} does not say the same of itself in its openid-configuration.")
        keys = {}
        for one in self._json(about["jwks_uri"]).get("keys", ()):
            try:
                key = jwt.PyJWK.from_dict(one)
            except (jwt.PyJWTError, ValueError, TypeError, AttributeError):  # of a kind that we do not take
                continue
            if key.key_id and key.key_type in ("RSA", "EC") and key.public_key_use in (None, "sig"):
                keys[key.key_id] = key
        return keys

    def _json(self, url: str) -> dict[str, Any]:
        try:
            answer = self._egress.request("GET", url, timeout_seconds=TIMEOUT_SECONDS, max_bytes=MAX_BYTES)
            found = json.loads(answer.body) if answer.status == 200 else None
        except (AddressRefused, EgressFailed, ValueError) as error:
            raise IssuerUnavailable(f"The keys of the token's issuer cannot be fetched: {error}") from error
        if not isinstance(found, dict):
            raise IssuerUnavailable(
                f"The keys of the token's issuer cannot be fetched: {url} answered {answer.status}."
            )
        return found


def _invalid(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"The ID token is refused: {reason}.", code="oidc_token_invalid")
