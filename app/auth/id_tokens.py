"""ID tokens of CI systems (OpenID Connect): verifies the issuer's signature and returns the claims.

Keys are fetched only from issuers that an administrator trusts, never from an issuer that merely appears in a token.
"""

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import jwt

from app.core.deadline import Deadline
from app.core.egress.client import AddressRefused, Egress, EgressFailed
from app.core.errors import AuthenticationFailed, GrouptuneError

ALGORITHMS: Final = ("RS256", "ES256")
LEEWAY_SECONDS: Final = 30
REQUIRED: Final = ("iss", "aud", "sub", "exp", "iat", "jti")
MAX_LIFE_SECONDS: Final = 366 * 86_400.0
TIMEOUT_SECONDS: Final = 10.0
MAX_BYTES: Final = 256 * 1024
KEPT_SECONDS: Final = 3600.0
"""How long an issuer's keys are used before they are fetched again."""
REFETCH_SECONDS: Final = 30.0
"""An unknown key id triggers another fetch, but at most this often: anyone can invent key ids."""


class IssuerUnavailable(GrouptuneError):
    """The issuer's keys cannot be fetched. Try again later."""

    status = 503
    code = "oidc_issuer_unavailable"


@dataclass
class _IssuerKeys:
    fetched: float
    """Monotonic time in seconds."""
    by_id: dict[str, jwt.PyJWK] = field(default_factory=dict)


class IdTokens:
    """Verifies tokens and caches the keys of their issuers. Thread-safe."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._keys: dict[str, _IssuerKeys] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """By trusted issuer."""

    def issuer_of(self, token: str) -> str:
        """Return the issuer named in a token, unverified. Raises `AuthenticationFailed` if it is not a token."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError as error:
            raise _invalid(f"it cannot be read ({error})") from error
        return str(claims.get("iss", ""))

    def verify(self, token: str, issuer: str, deadline: Deadline) -> dict[str, Any]:
        """Return the claims of a token of this issuer. Raises `AuthenticationFailed` and `IssuerUnavailable`.

        A request for the issuer's keys ends at the deadline. The audience is returned as one string; the caller must
        check it.
        """
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise _invalid(f"its algorithm is {header.get('alg')!r}, but must be {' or '.join(ALGORITHMS)}")
        key = self._key(issuer, str(header.get("kid", "")), deadline)
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
            raise _invalid("it has expired; request a new one from the CI system") from error
        except (jwt.InvalidTokenError, OverflowError, TypeError, ValueError) as error:  # also for times like 1e999
            raise _invalid(str(error)) from error
        if not isinstance(claims["exp"], int | float) or claims["exp"] > time.time() + MAX_LIFE_SECONDS:
            raise _invalid("its claim 'exp' is not a time within a year from now")
        audience = claims["aud"]
        claims["aud"] = audience[0] if isinstance(audience, list) and len(audience) == 1 else audience
        for name in ("aud", "jti"):
            if not isinstance(claims[name], str) or not 0 < len(claims[name]) <= 255 or "\0" in claims[name]:
                raise _invalid(f"its claim '{name}' is not a string of 1 to 255 characters")
        return claims

    def _key(self, issuer: str, key_id: str, deadline: Deadline) -> jwt.PyJWK:
        with self._locks[issuer]:  # of concurrent requests, only one fetches
            keys = self._keys.get(issuer)
            age = float("inf") if keys is None else time.monotonic() - keys.fetched
            if keys is None or age > KEPT_SECONDS or (key_id not in keys.by_id and age > REFETCH_SECONDS):
                keys = self._keys[issuer] = _IssuerKeys(time.monotonic(), self._fetch(issuer, deadline))
        if key_id not in keys.by_id:
            raise _invalid(f"{issuer} has no key '{key_id[:64]}'")
        return keys.by_id[key_id]

    def _fetch(self, issuer: str, deadline: Deadline) -> dict[str, jwt.PyJWK]:
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        configuration = self._json(url, deadline)
        if configuration.get("issuer") != issuer or not isinstance(configuration.get("jwks_uri"), str):
            raise IssuerUnavailable(
                f"The `issuer` in {url} does not match {issuer}, or `jwks_uri` is missing. Check the trust's issuer."
            )
        keys = {}
        for item in self._json(configuration["jwks_uri"], deadline).get("keys", ()):
            try:
                key = jwt.PyJWK.from_dict(item)
            except (jwt.PyJWTError, ValueError, TypeError, AttributeError):  # an unsupported kind of key
                continue
            if key.key_id and key.key_type in ("RSA", "EC") and key.public_key_use in (None, "sig"):
                keys[key.key_id] = key
        return keys

    def _json(self, url: str, deadline: Deadline) -> dict[str, Any]:
        try:
            answer = self._egress.request(
                "GET", url, timeout_seconds=TIMEOUT_SECONDS, max_bytes=MAX_BYTES, deadline=deadline
            )
            content = json.loads(answer.body) if answer.status == 200 else None
        except (AddressRefused, EgressFailed, ValueError) as error:
            raise IssuerUnavailable(f"The keys of the token's issuer cannot be fetched: {error}") from error
        if not isinstance(content, dict):
            raise IssuerUnavailable(
                f"The keys of the token's issuer cannot be fetched: {url} returned status {answer.status}."
            )
        return content


def _invalid(reason: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"The ID token is rejected: {reason}.", code="oidc_token_invalid")
