"""Stores the servers of `grouptune login` with their API keys in a file of the user."""

import json
import os
from pathlib import Path
from typing import Any

from app.cli.ui.exits import NoCredentials
from app.core.errors import InvalidRequest


def find_profile() -> tuple[str, str] | None:
    """Return address and key of the profile GROUPTUNE_PROFILE, or of the one in use; None without profiles."""
    stored = read_profiles()
    wanted = os.environ.get("GROUPTUNE_PROFILE", "").strip() or stored["current"]
    if wanted is None:
        return None
    profile = stored["profiles"][known_profile(stored, wanted)]
    return profile["base_url"], profile["api_key"]


def known_profile(stored: dict[str, Any], name: str | None) -> str:
    """Return the name of a stored profile. Raises `InvalidRequest` if there is none of this name."""
    if name is None or name not in stored["profiles"]:
        known = ", ".join(sorted(stored["profiles"])) or "none"
        wanted = "No profile is in use." if name is None else f"There is no profile '{name}'."
        raise InvalidRequest(f"{wanted} Profiles: {known}. Add one with `grouptune login URL`.", param="profile")
    return name


def profiles_path() -> Path:
    """Return the path of the file, below XDG_CONFIG_HOME."""
    root = os.environ.get("XDG_CONFIG_HOME", "").strip()
    return (Path(root) if root else Path.home() / ".config") / "grouptune" / "profiles.json"


def read_profiles() -> dict[str, Any]:
    """Return `{"current": NAME, "profiles": {NAME: {"base_url", "api_key"}}}`.

    Raises `NoCredentials` for a damaged file.
    """
    try:
        stored: dict[str, Any] = json.loads(profiles_path().read_text(encoding="utf-8"))
        if not isinstance(stored["profiles"], dict) or "current" not in stored:
            raise KeyError
    except FileNotFoundError:
        return {"current": None, "profiles": {}}
    except (ValueError, KeyError, TypeError):
        raise NoCredentials(f"{profiles_path()} is damaged. Delete it, then run `grouptune login URL`.") from None
    return stored


def write_profiles(stored: dict[str, Any]) -> None:
    """Replace the file. Only its owner can read it, because it holds keys."""
    path = profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(stored, file, indent=2)
    new.replace(path)
