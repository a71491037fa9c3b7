"""Converts chats to token ids: the model's chat template for the prompt, plain text and one end token for a response.

The trainer and file previews share this tokenizer, so a preview shows exactly what is trained.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Encoding, Tokenizer

from app.core.chat.templates import DEFAULT, ChatTemplates, TemplateRefused
from app.core.errors import InvalidRequest

TOKENIZER_FILE: Final = "tokenizer.json"
_PROBE: Final = "probe"
_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")


class UnusableTokenizer(InvalidRequest):
    """The base model's tokenizer cannot render chats."""

    code = "model_without_tokenizer"


@dataclass(frozen=True)
class Piece:
    """Token ids with their texts; a character that spans several tokens belongs to the first of them."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]


class ChatTokenizer:
    """Produces prompt ids and response ids for training. Thread-safe."""

    def __init__(self, backend: Tokenizer, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """`templates` by name, `special_tokens` by role (`eos_token`).

        Raises `UnusableTokenizer` if no chat template works or if the token that ends a turn is unknown.
        """
        if DEFAULT not in templates:
            raise UnusableTokenizer(
                "The base model has no chat template, so chat rows cannot be rendered. Choose an instruct model.",
                param="model",
                code="model_without_chat_template",
            )
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self._lock = threading.Lock()
        self._special = special_tokens
        self._templates = ChatTemplates(templates, special_tokens)
        self.end_id = self._find_end_id()
        pad = self._id("pad_token")
        self.pad_id = self.end_id if pad is None else pad

    def prompt_ids(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> tuple[int, ...]:
        """Return the chat's ids up to and including the generation prompt. Only the template adds special tokens.

        Raises `TemplateRefused`.
        """
        return tuple(self._encode(self._templates.render(messages, tools, for_answer=True)).ids)

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of the text without special tokens, then the end-of-turn token exactly once.

        Special tokens spelled out in the text stay plain text: a demonstration about chat formats must not end early.
        """
        return (*self._encode(text, as_text=True).ids, self.end_id)

    def prompt_piece(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> Piece:
        """Return the tokens of `prompt_ids` with their texts."""
        rendered = self._templates.render(messages, tools, for_answer=True)
        encoding = self._encode(rendered)
        return Piece(tuple(encoding.ids), _texts(encoding, rendered))

    def response_piece(self, text: str) -> Piece:
        """Return the tokens of `response_ids` with their texts."""
        encoding = self._encode(text, as_text=True)
        end = self.backend.id_to_token(self.end_id) or ""
        return Piece((*encoding.ids, self.end_id), (*_texts(encoding, text), end))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text for graders and people: the response without its end token."""
        kept = list(ids[:-1]) if ids and ids[-1] == self.end_id else list(ids)
        return str(self.backend.decode(kept, skip_special_tokens=False))

    def _encode(self, text: str, *, as_text: bool = False) -> Encoding:
        with self._lock:  # the setting belongs to the shared tokenizer object, hence the lock
            if self.backend.encode_special_tokens != as_text:
                self.backend.encode_special_tokens = as_text
            return self.backend.encode(text, add_special_tokens=False)

    def _id(self, role: str) -> int | None:
        token = self._special.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def _find_end_id(self) -> int:
        """Return the token that the template writes after an answer; it may differ from the tokenizer's eos."""
        user, answer = {"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}
        try:
            prompt = self._templates.render([user], None, for_answer=True)
            whole = self._templates.render([user, answer], None, for_answer=False)
        except TemplateRefused as error:
            message = f"The base model cannot be used: for a sample question and answer, {error.message}"
            raise UnusableTokenizer(message, param="model", code="model_without_chat_template") from error
        rest = whole[len(prompt) :] if whole.startswith(prompt) else whole[whole.rfind(_PROBE) :]
        after = self._encode(rest.partition(_PROBE)[2]).ids
        special = self.backend.get_added_tokens_decoder()
        end = next((token for token in after if token in special), self._id("eos_token"))
        if end is None:
            raise UnusableTokenizer(
                "Neither the chat template nor the tokenizer of the base model defines the token that ends a turn.",
                param="model",
                code="model_without_end_token",
            )
        return end


def _texts(encoding: Encoding, text: str) -> tuple[str, ...]:
    """Return the text that each token adds to the tokens before it; the parts join to `text`."""
    starts: list[int] = []
    reached = 0
    for start, end in encoding.offsets:
        starts.append(reached if end > reached else max(start, reached))
        reached = max(reached, end)
    return tuple(text[start:end] for start, end in pairwise([*starts, len(text)]))


def load(directory: Path) -> ChatTokenizer:
    """Return the tokenizer of a base model's directory, cached in memory. Raises `UnusableTokenizer`."""
    try:
        changed = max(path.stat().st_mtime_ns for path in directory.iterdir() if path.suffix in (".json", ".jinja"))
    except (OSError, ValueError):
        changed = 0
    return _load(directory, changed)


@lru_cache(maxsize=4)
def _load(directory: Path, _changed: int) -> ChatTokenizer:
    try:
        backend = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except Exception as error:  # tokenizers raises nothing more specific, even for a missing file
        raise UnusableTokenizer(
            f"The base model '{directory.name}' has no readable {TOKENIZER_FILE} ({str(error)[:200]}). Create it "
            "with transformers: AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY).",
            param="model",
        ) from error
    config = _read_json(directory / "tokenizer_config.json")
    written = {**_read_json(directory / "special_tokens_map.json"), **config}
    named = {name: token for name in _NAMED if (token := _content(written.get(name))) is not None}
    _add_missing(backend, written, named)
    return ChatTokenizer(backend, _find_templates(directory, config), named)


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
    """Return tokens of the configuration that tokenizer.json lacks, in the order of transformers."""
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
