"""Reads what a base model's files say about its tokenizer besides tokenizer.json, in the order of transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenizers import AddedToken, Tokenizer

from app.core.chat.templates import DEFAULT

_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")


class TokenizerSettings(NamedTuple):
    """The settings of one model."""

    templates: dict[str, str]
    """Chat templates by name."""
    special_tokens: dict[str, str]
    """By role, such as `eos_token`."""
    end_ids: set[int]
    """The ids at which servers stop generating."""


def read_settings(directory: Path, backend: Tokenizer) -> TokenizerSettings:
    """Return the settings in a model's directory, and add the tokens to `backend` that only they declare."""
    config = _read_json(directory / "tokenizer_config.json")
    written = {**_read_json(directory / "special_tokens_map.json"), **config}
    named = {name: token for name in _NAMED if (token := _content(written.get(name))) is not None}
    _add_missing(backend, written, named)
    return TokenizerSettings(_find_templates(directory, config), named, _declared_ends(directory))


def _declared_ends(directory: Path) -> set[int]:
    """Return the ids at which servers stop generating; generation_config.json takes precedence."""
    for name in ("generation_config.json", "config.json"):
        ends = _read_json(directory / name).get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends]
        if ids := {end for end in ends if isinstance(end, int)}:
            return ids
    return set()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _content(token: object) -> str | None:
    """Return a special token, which files store as its text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _add_missing(backend: Tokenizer, written: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Add the tokens of the configuration that tokenizer.json lacks."""
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    decoder = written.get("added_tokens_decoder") or {}
    added = [
        AddedToken(entry["content"], **{flag: bool(entry.get(flag, flag == "normalized")) for flag in _FLAGS})
        for _, entry in sorted(decoder.items(), key=lambda pair: int(pair[0]))
        if entry["content"] not in present
    ]
    extra = written.get("extra_special_tokens") or written.get("additional_special_tokens") or []
    present |= {token.content for token in added}
    for text in [*named.values(), *map(_content, extra if isinstance(extra, list) else extra.values())]:
        if text is not None and text not in present:
            present.add(text)
            added.append(AddedToken(text, special=True, normalized=False))
    if added:
        backend.add_tokens(added)


def _find_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Read the chat templates; template files take precedence over the configuration."""
    inline = config.get("chat_template")
    if isinstance(inline, list):
        templates = {entry["name"]: entry["template"] for entry in inline}
    else:
        templates = {DEFAULT: inline} if isinstance(inline, str) and inline else {}
    if (file := directory / "chat_template.jinja").is_file():
        templates = {DEFAULT: file.read_text(encoding="utf-8")}
        others = sorted((directory / "additional_chat_templates").glob("*.jinja"))
        templates |= {other.stem: other.read_text(encoding="utf-8") for other in others}
    return templates


def last_change(directory: Path) -> int:
    """Return when the tokenizer or the templates of a base model changed last, in nanoseconds; 0 without any."""
    try:
        return max(path.stat().st_mtime_ns for path in directory.iterdir() if path.suffix in (".json", ".jinja"))
    except (OSError, ValueError):
        return 0
