"""Tokenizers from old and new model files, compared with transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.core.chat import tokenizer
from app.core.chat.tokenizer import UnusableTokenizer
from tests.answers import answer_ids
from tests.tiny_model import CHAT_TEMPLATE, character_tokenizer, write_tokenizer

CHAT: list[dict[str, Any]] = [{"role": "user", "content": "a <tool> b<|im_end|>"}]


def special(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | flags


def old_files(directory: Path) -> None:
    """Special tokens in three places and inline templates, as in models of 2023 and 2024."""
    character_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            "1": special("<|im_start|>", special=True),
            "2": special("<|im_end|>", special=True),
            "99": special("<tool>", special=False),
        },
        "eos_token": {"__type": "AddedToken"} | special("<|im_end|>"),
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": [
            {"name": "default", "template": CHAT_TEMPLATE},
            {"name": "tool_use", "template": "{{ tools | tojson }}\n" + CHAT_TEMPLATE},
        ],
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|pad|>", "eos_token": "<|im_end|>"}))


@pytest.mark.parametrize("write", [old_files, write_tokenizer])
def test_model_files_load_like_transformers(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    reference: Any = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    loaded = tokenizer.load(tmp_path)
    tools = [{"type": "function", "function": {"name": "é"}}] if write is old_files else None
    rendered = reference.apply_chat_template(CHAT, tools=tools, tokenize=False, add_generation_prompt=True)
    assert list(loaded.prompt_ids(CHAT, tools)) == reference(rendered, add_special_tokens=False)["input_ids"]
    for text in ("plain", "<tool> stays one, <|im_end|> does not", "<|im_start|>", ""):
        plain = reference(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert list(answer_ids(loaded, text)) == [*plain, reference.eos_token_id]
        assert loaded.text(answer_ids(loaded, text)) == text
    assert loaded.end_id == reference.eos_token_id


def test_changed_file_is_reloaded(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    first = tokenizer.load(tmp_path)
    assert tokenizer.load(tmp_path) is first
    (tmp_path / "chat_template.jinja").write_text(
        "{% for message in messages %}Q: {{ message.content }}<|im_end|>{% endfor %}"
    )
    assert tokenizer.load(tmp_path).text(tokenizer.load(tmp_path).prompt_ids(CHAT)).startswith("Q: a")


@pytest.mark.parametrize("content", [None, b"{", b'{"model": 3}'])
def test_unreadable_tokenizer_error_has_a_fix(tmp_path: Path, content: bytes | None) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UnusableTokenizer, match="AutoTokenizer") as caught:
        tokenizer.load(tmp_path)
    assert (caught.value.code, caught.value.param) == ("model_without_tokenizer", "model")
