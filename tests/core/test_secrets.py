from pathlib import Path

import pytest

from app.core.errors import BadSetup
from app.core.secrets import KeyRing, new_key


def test_a_secret_comes_back_and_does_not_show() -> None:
    ring = KeyRing((new_key(),))
    token = ring.encrypt("whsec_canary-é")
    assert ring.decrypt(token) == "whsec_canary-é"
    assert b"canary" not in token
    assert token != ring.encrypt("whsec_canary-é")


def test_a_new_key_in_front_encrypts_and_the_old_one_still_decrypts(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    token = KeyRing((old,)).encrypt("kept")
    (tmp_path / "keys").write_text(f"{old}\n")
    both = KeyRing.load(f"{new},", tmp_path / "keys")
    assert both.decrypt(token) == "kept"
    fresh = both.encrypt("newer")
    assert KeyRing((new,)).decrypt(fresh) == "newer"
    with pytest.raises(BadSetup, match="missing from GROUPTUNE_SECRET_KEYS"):
        KeyRing((new,)).decrypt(token)


def test_a_changed_token_is_refused() -> None:
    ring = KeyRing((new_key(),))
    token = bytearray(ring.encrypt("secret"))
    token[20] ^= 1
    with pytest.raises(BadSetup):
        ring.decrypt(bytes(token))


def test_without_a_key_the_message_names_the_setting() -> None:
    with pytest.raises(BadSetup, match="GROUPTUNE_SECRET_KEYS_FILE"):
        KeyRing.load(None, None).encrypt("x")


def test_a_malformed_key_is_refused_and_not_shown() -> None:
    with pytest.raises(BadSetup) as caught:
        KeyRing.load("canary-canary", None)
    assert "canary" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetup, match="nowhere"):
        KeyRing.load(None, tmp_path / "nowhere")
