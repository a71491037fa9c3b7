from pathlib import Path

import pytest

from app.core.errors import BadSetup
from app.core.secrets import KeyRing, new_key


def test_secret_round_trip() -> None:
    ring = KeyRing((new_key(),))
    token = ring.encrypt("whsec_canary-é")
    assert ring.decrypt(token) == "whsec_canary-é"
    assert b"canary" not in token
    assert token != ring.encrypt("whsec_canary-é")


def test_key_rotation_keeps_old_secrets_readable(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    token = KeyRing((old,)).encrypt("kept")
    (tmp_path / "keys").write_text(f"{old}\n")
    both = KeyRing.load(f"{new},", tmp_path / "keys")
    assert both.decrypt(token) == "kept"
    fresh = both.encrypt("newer")
    assert KeyRing((new,)).decrypt(fresh) == "newer"
    with pytest.raises(BadSetup, match="missing from GROUPTUNE_SECRET_KEYS"):
        KeyRing((new,)).decrypt(token)


def test_changed_token_is_rejected() -> None:
    ring = KeyRing((new_key(),))
    token = bytearray(ring.encrypt("secret"))
    token[20] ^= 1
    with pytest.raises(BadSetup):
        ring.decrypt(bytes(token))


def test_missing_key_error_names_the_setting() -> None:
    with pytest.raises(BadSetup, match="GROUPTUNE_SECRET_KEYS_FILE"):
        KeyRing.load(None, None).encrypt("x")


def test_malformed_key_is_rejected_and_not_shown() -> None:
    with pytest.raises(BadSetup) as caught:
        KeyRing.load("canary-canary", None)
    assert "canary" not in str(caught.value)


def test_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetup, match="nowhere"):
        KeyRing.load(None, tmp_path / "nowhere")
