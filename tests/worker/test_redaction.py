"""Secrets are found by their values and by their form."""

import json
import time
from urllib.parse import quote

import pytest

from app.core.accounts.api_keys import PREFIX
from app.core.settings import Settings
from worker.redaction import REDACTED, Redactor

NOTHING = Redactor(Settings.model_construct(), {})


def test_settings_and_variables_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "DATABASE_URL": "postgresql+psycopg://grouptune:pass%2Fword1@db:5432/grouptune",
        "REDIS_URL": "redis://:broker-pass@cache:6379/0",
        "GROUPTUNE_SECRET_KEYS": "fernet-key-one,fernet-key-two",
        "GROUPTUNE_JUDGE_API_KEY": 'judge "key" \\ 1',
        "AWS_SECRET_ACCESS_KEY": "aws/secret+key",
        "HTTPS_PROXY": "http://user:proxy-pass@proxy:3128",
        "PIP_INDEX_URL": "https://user:index-pass@pypi.example/simple",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    redactor = Redactor(Settings(), values)
    redactor.add("teacher-key")
    secrets = (
        *("pass%2Fword1", "pass/word1", "broker-pass", "fernet-key-one", "fernet-key-two", 'judge "key" \\ 1'),
        *("aws/secret+key", "proxy-pass", "index-pass", "teacher-key", values["DATABASE_URL"], values["REDIS_URL"]),
    )
    for secret in secrets:
        for form in (secret, repr(secret), json.dumps(secret), quote(secret, safe="")):
            text = redactor.redact(f"before|{form}|after")
            assert text.replace('"', "").replace("'", "") == f"before|{REDACTED}|after", secret


@pytest.mark.parametrize(
    "secret",
    [
        f"{PREFIX}abcdefgh_{'s' * 32}_0crc00",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "sk-proj-abcdefghijklmnop1234",
        "hf_abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwx",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    ],
)
def test_keys_of_others_are_redacted(secret: str) -> None:
    assert NOTHING.redact(f"got {secret}, retrying") == f"got {REDACTED}, retrying"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://a:b@c/d", f"postgresql://{REDACTED}"),
        ("redis+socket:///run/x.sock", f"redis+socket://{REDACTED}"),
        ("GET https://me:pw@host/x", f"GET https://{REDACTED}@host/x"),
        ("{'Authorization': 'Bearer abcdefgh1'}", f"{{'Authorization': 'Bearer {REDACTED}'}}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {REDACTED}"),
        ("api_key='abcdefgh'", f"api_key='{REDACTED}'"),
        ('"password": "hunter22"', f'"password": "{REDACTED}"'),
    ],
)
def test_credentials_in_context_are_redacted(text: str, shown: str) -> None:
    assert NOTHING.redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "pad_token='<|endoftext|>' num_tokens: 123456 tokenizer: LlamaTokenizer",
        "see https://huggingface.co/docs/transformers@v5 for basic training",
        'File "/srv/worker/training/trainer.py", line 12, in <module>',
    ],
)
def test_ordinary_lines_stay(text: str) -> None:
    assert NOTHING.redact(text) == text


def test_placeholders_stay() -> None:
    assert Redactor(Settings.model_construct(), {"GROUPTUNE_JUDGE_API_KEY": "EMPTY"}).redact("EMPTY set") == "EMPTY set"


@pytest.mark.parametrize("hostile", ["eyJ-", "://", "authorization:", "api_key=", "bearer ", "x", "sk-", "\x1b]"])
def test_hostile_text_takes_linear_time(hostile: str) -> None:
    text = hostile * (256 * 1024 // len(hostile))
    began = time.process_time()
    NOTHING.redact(text)
    assert time.process_time() - began < 5
