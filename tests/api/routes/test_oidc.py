"""CI systems exchange ID tokens for keys: only trusted repositories, and each token once."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from sqlalchemy import text

from app.core.accounts.scopes import ALL
from tests.api.server import Server, new_key, new_project
from tests.issuer import AUDIENCE, Issuer, rsa_key, running_issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def admin(server: Server) -> Iterator[httpx.Client]:
    key = new_key(server.database, server.project_id, *ALL)
    with httpx.Client(base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {key}"}) as http:
        yield http


def trust(admin: httpx.Client, issuer: Issuer, **changed: Any) -> Any:
    wanted = {
        "name": "models",
        "provider": "github",
        "repository_id": "1234",
        "ref": "refs/heads/main",
        "audience": AUDIENCE,
        "issuer": issuer.url,
    } | changed
    return admin.post("/oidc/trusts", json=wanted)


def exchange(server: Server, token: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/oidc/exchange", json={"token": token})


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


@pytest.mark.parametrize("key", ["k1", "e1"])
def test_token_is_exchanged_for_a_key(server: Server, admin: httpx.Client, issuer: Issuer, key: str) -> None:
    made = trust(admin, issuer, scopes=["jobs:read"], key_seconds=120).json()
    answer = exchange(server, issuer.token(key)).json()
    assert (answer["project_id"], answer["scopes"]) == (server.project_id, ["jobs:read"])
    assert 60 < answer["expires_at"] - time.time() <= 121
    with httpx.Client(base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {answer['api_key']}"}) as http:
        assert http.get("/fine_tuning/jobs").status_code == 200
        assert http.get("/files").json()["error"]["code"] == "insufficient_scope"
    [entry, *_] = admin.get("/audit_log", params={"action": "api_key.create"}).json()["data"]
    assert (entry["after"]["trust"], entry["after"]["token"]["sub"]) == (
        made["id"],
        "repo:acme/models:ref:refs/heads/main",
    )


def test_gitlab_claims(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    assert trust(admin, issuer, provider="gitlab", repository_id="22").status_code == 200
    token = issuer.token(drop="repository_id", project_id="22", ref="main", ref_path="refs/heads/main")
    assert exchange(server, token).status_code == 200
    other = issuer.token(drop="repository_id", project_id="22", ref="refs/heads/main", ref_path="refs/heads/x")
    assert refusal(exchange(server, other))[:2] == (401, "oidc_not_trusted")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "https://other.example"}, "aud 'https://other.example'"),
        ({"repository_id": "12345"}, "repository_id '12345'"),
        ({"ref": "refs/heads/main2"}, "ref 'refs/heads/main2'"),
        ({"ref": "refs/pull/1/merge"}, "ref 'refs/pull/1/merge'"),
        ({"drop": "repository_id", "repository": "acme/models"}, "No project trusts this token"),
    ],
)
def test_token_with_other_claims_is_refused(
    server: Server, admin: httpx.Client, issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    trust(admin, issuer)
    status, code, message = refusal(exchange(server, issuer.token(**claims)))
    assert (status, code) == (401, "oidc_not_trusted")
    assert reason in message


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(time.time()) - 60}, "it has expired"),
        ({"exp": 10**18}, "'exp' is not a time within a year"),
        ({"exp": 253_402_300_800}, "'exp' is not a time within a year"),
        ({"exp": str(int(time.time()) + 86_400)}, "'exp' is not a time within a year"),
        ({"exp": float("inf")}, "must be an integer"),
        ({"iat": [1]}, "must be an integer"),
        ({"drop": "jti"}, '"jti"'),
        ({"drop": "exp"}, '"exp"'),
        ({"iat": int(time.time()) + 86_400}, "not yet valid"),
        ({"aud": [AUDIENCE, "https://other.example"]}, "'aud' is not a string"),
        ({"aud": 7}, "'aud' is not a string"),
        ({"jti": "x" * 256}, "'jti' is not a string"),
        ({"key": "unknown"}, "has no key 'unknown'"),
    ],
)
def test_invalid_token_is_refused_with_reason(
    server: Server, admin: httpx.Client, issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    trust(admin, issuer)
    status, code, message = refusal(exchange(server, issuer.token(**claims)))
    assert (status, code) == (401, "oidc_token_invalid")
    assert reason in message


def test_forged_signatures_are_refused(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    trust(admin, issuer)
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    public = issuer.keys["k1"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = [
        jwt.encode(claims, rsa_key(), algorithm="RS256", headers={"kid": "k1"}),
        jwt.encode(claims, "", algorithm="none", headers={"kid": "k1"}),
        # Uses the public key as an HMAC secret: only the check of the algorithm's name prevents this forgery.
        jwt.api_jws.PyJWS().encode(b"{}", pem.replace(b"-", b"+"), algorithm="HS256", headers={"kid": "k1"}),
        issuer.token() + "x",
        issuer.token("e1").rpartition(".")[0] + "." + issuer.token("k1").rpartition(".")[2],
        "no token",
        "",
    ]
    codes = [refusal(exchange(server, token))[1] for token in forged]
    assert codes[:2] == ["oidc_token_invalid"] * 2
    assert set(codes[2:]) <= {"oidc_token_invalid", "oidc_not_trusted", "invalid_request"}
    assert exchange(server, issuer.token()).status_code == 200


def test_concurrent_exchanges_create_one_key(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    trust(admin, issuer)
    token = issuer.token()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: exchange(server, token), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    assert {refusal(answer)[1] for answer in answers if answer.is_error} == {"oidc_token_replayed"}


def test_expired_tokens_are_removed(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    trust(admin, issuer)
    assert exchange(server, issuer.token()).status_code == 200
    with server.database.transaction() as session:
        session.execute(text("UPDATE oidc_tokens SET expires_at = now() - interval '1 second'"))
    assert exchange(server, issuer.token()).status_code == 200
    with server.database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM oidc_tokens")) == 1


def test_untrusted_issuer_gets_no_request(server: Server, issuer: Issuer) -> None:
    status, code, message = refusal(exchange(server, issuer.token()))
    assert (status, code) == (401, "oidc_not_trusted")
    assert message == (
        f"No project trusts tokens of '{issuer.url}'. An administrator can add a trust: grouptune trusts create."
    )
    assert issuer.key_requests == 0


def test_issuer_keys_are_fetched_once(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    trust(admin, issuer)
    for number in range(5):
        assert exchange(server, issuer.token()).status_code == 200
        assert refusal(exchange(server, issuer.token(f"invented{number}")))[1] == "oidc_token_invalid"
    assert issuer.key_requests == 1


def test_unusable_issuer_is_503(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    trust(admin, issuer)
    issuer.claims_to_be = "https://token.actions.githubusercontent.com"
    assert refusal(exchange(server, issuer.token()))[:2] == (503, "oidc_issuer_unavailable")
    issuer.claims_to_be, issuer.is_away = None, True
    assert refusal(exchange(server, issuer.token()))[:2] == (503, "oidc_issuer_unavailable")
    issuer.is_away = False
    assert exchange(server, issuer.token()).status_code == 200


def test_trusts_are_listed_and_deleted(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    first = trust(admin, issuer).json()
    assert refusal(trust(admin, issuer, name="again"))[:2] == (400, "trust_exists")
    wide = trust(admin, issuer, ref=None).json()
    assert refusal(trust(admin, issuer, ref=None))[:2] == (400, "trust_exists")
    assert [trust["id"] for trust in admin.get("/oidc/trusts").json()["data"]] == [wide["id"], first["id"]]
    assert admin.delete(f"/oidc/trusts/{wide['id']}").json()["deleted"] is True
    assert refusal(exchange(server, issuer.token(ref="refs/heads/x")))[1] == "oidc_not_trusted"
    assert exchange(server, issuer.token()).status_code == 200
    actions = [entry["action"] for entry in admin.get("/audit_log").json()["data"]]
    assert actions == ["api_key.create", "oidc_trust.delete", "oidc_trust.create", "oidc_trust.create"]


def test_trust_of_the_exact_ref_takes_precedence(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    trust(admin, issuer, ref=None, scopes=["jobs:read"])
    trust(admin, issuer, scopes=["files:read"])
    assert exchange(server, issuer.token()).json()["scopes"] == ["files:read"]
    assert exchange(server, issuer.token(ref="refs/tags/v1")).json()["scopes"] == ["jobs:read"]


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"repository_id": "acme/models"}, "repository_id"),
        ({"ref": "main"}, "ref"),
        ({"scopes": ["admin", "jobs:*"]}, "scopes"),
        ({"provider": "bitbucket"}, "provider"),
        ({"key_seconds": 100_000}, "key_seconds"),
        ({"project_id": "proj_none"}, "project_id"),
    ],
)
def test_invalid_trust_is_refused_with_its_field(
    admin: httpx.Client, issuer: Issuer, changed: dict[str, Any], param: str
) -> None:
    answer = trust(admin, issuer, **changed)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_private_issuer_must_be_allowed(admin: httpx.Client) -> None:
    answer = trust(admin, Issuer(url="https://10.0.0.1", keys={}))
    assert refusal(answer)[:2] == (400, "address_not_allowed")


def test_trust_of_an_archived_project(server: Server, admin: httpx.Client, issuer: Issuer) -> None:
    other, _ = new_project(server.database, "other")
    trust(admin, issuer, project_id=other)
    admin.post(f"/projects/{other}", json={"archived": True})
    assert refusal(exchange(server, issuer.token()))[1] == "oidc_not_trusted"
