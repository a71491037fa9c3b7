"""The chat templates that TRL and axolotl publish, each with a tokenizer that knows its special tokens."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from app.core.chat.tokenizer import ChatTokenizer

BOS: Final = "<s>"
EOS: Final = "</s>"
_FOLDERS: Final = {"trl": "chat_templates", "axolotl": "utils/chat_templates/templates"}
_SPECIAL: Final = re.compile(
    r"<\|[^\s<>|]*\|?>|<[a-z_]+\|>"  # <|im_end|>, <|tool_call>, <tool_call|>
    "|<\uff5c[^<>]+?\uff5c>"  # DeepSeek's, with wide bars
    r"|</?[a-z_]+>|\[/?[A-Z_]+\]|\[\|\w*\|\]"  # <think>, [INST], [|endofturn|]
)
"""What looks like a token of its own."""
_TAGS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Tokens that are not special in published tokenizers, because users read them."""


def _sources() -> dict[str, str]:
    """Read the templates from the installed packages without importing them: both import half a training stack."""
    sources = {}
    for package, folder in _FOLDERS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise RuntimeError(f"{package} is not installed; run `make setup`")
        for path in sorted((Path(spec.origin).parent / folder).glob("*.jinja")):
            sources[f"{package}/{path.stem}"] = path.read_text(encoding="utf-8")
    return sources


SOURCES: Final = _sources()
"""Template source by name, such as `trl/qwen3`."""


def as_read(name: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages as the template reads them: some vision-language models read lists of parts only."""
    if not any(model in name for model in ("idefics3", "smolvlm", "llava_next")):
        return messages
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


@cache
def tokenizer(name: str) -> ChatTokenizer:
    """Return a byte-level tokenizer with the named template and its special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokens = sorted({BOS, EOS, *_SPECIAL.findall(SOURCES[name])})
    backend.add_tokens([AddedToken(token, special=token not in _TAGS, normalized=False) for token in tokens])
    return ChatTokenizer(backend, {"default": SOURCES[name]}, {"bos_token": BOS, "eos_token": EOS})
