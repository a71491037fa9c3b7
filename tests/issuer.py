"""An OIDC issuer on 127.0.0.1, like that of a CI system, with its own keys."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.http_server import Received, Reply, http_server

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
AUDIENCE = "https://grouptune.example"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@dataclass
class Issuer:
    """An issuer with its signing keys. `key_requests` counts the requests for its public keys."""

    url: str = ""
    keys: dict[str, Key] = field(
        default_factory=lambda: {"k1": rsa_key(), "e1": ec.generate_private_key(ec.SECP256R1())}
    )
    key_requests: int = 0
    is_away: bool = False
    claims_to_be: str | None = None

    def answer(self, request: Received) -> Reply:
        if self.is_away:
            return Reply(b"", 500)
        if request.path.endswith("/.well-known/openid-configuration"):
            configuration = {"issuer": self.claims_to_be or self.url, "jwks_uri": f"{self.url}/jwks"}
            return Reply(json.dumps(configuration).encode())
        if request.path.endswith("/jwks"):
            self.key_requests += 1
            return Reply(json.dumps({"keys": [self._public(name) for name in self.keys]}).encode())
        query = parse_qs(urlsplit(request.path).query)  # the token service of a GitHub runner
        if query.get("api-version") != ["2.0"] or request.headers["authorization"] != "Bearer runner":
            return Reply(b"", 401)
        token = self.token(aud=query["audience"][0])
        return Reply(json.dumps({"value": token}).encode())

    def _public(self, name: str) -> dict[str, Any]:
        key = self.keys[name]
        if isinstance(key, rsa.RSAPrivateKey):
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return public | {"kid": name, "use": "sig"}

    def token(self, key: str = "k1", *, drop: str = "", **changed: Any) -> str:
        """Sign a token for a run of repository 1234 on main; `changed` replaces claims, `drop` removes one."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "repo:acme/models:ref:refs/heads/main",
            "jti": uuid.uuid4().hex,
            "iat": now,
            "exp": now + 300,
            "repository_id": "1234",
            "ref": "refs/heads/main",
        } | changed
        claims.pop(drop, None)
        signer = self.keys.get(key) or rsa_key()
        algorithm = "RS256" if isinstance(signer, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(claims, signer, algorithm=algorithm, headers={"kid": key})


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer that answers."""
    issuer = Issuer()
    with http_server(issuer.answer) as url:
        issuer.url = url.rstrip("/") + f"/{uuid.uuid4().hex}"  # keys are cached by URL, and ports are used again
        yield issuer
