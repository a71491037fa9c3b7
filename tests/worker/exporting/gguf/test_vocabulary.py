"""Tokenizers that llama.cpp lacks, and the roles of special tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from app.core.chat import tokenizer as chat
from app.core.spec.export import ExportRefused
from tests import tiny_model as word_level
from tests.worker.exporting.gguf.conftest import TinyModel
from worker.exporting.gguf.model import write_model
from worker.exporting.gguf.vocabulary import read_vocabulary


def header(path: Path) -> dict[str, Any]:
    """Return the header of a GGUF file, without the lists."""
    return {
        name.removeprefix("tokenizer.ggml."): field.contents()
        for name, field in GGUFReader(path).fields.items()
        if name.startswith("tokenizer") and "ARRAY" not in str(field.types)
    }


@pytest.mark.parametrize(
    ("family", "pre", "add_bos", "ends"),
    [
        ("smollm2", "smollm", False, ["<|im_end|>"]),
        ("llama3", "llama-bpe", True, ["<|eot_id|>"]),
        ("qwen3", "qwen2", False, ["<|im_end|>"]),
        ("gemma3", "default", True, ["<eos>", "<end_of_turn>"]),
    ],
)
def test_header_names_roles_and_rules(
    family: str, pre: str, add_bos: bool, ends: list[str], tiny_model: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    """A token at the start is only added if the template writes it once: SmolLM2 declares `<|im_start|>` as bos."""
    base = tiny_model(family).base
    write_model(base, {}, tmp_path / "model.gguf", "tiny", None, lambda _: None)
    found, backend = header(tmp_path / "model.gguf"), chat.load(base).backend
    assert (found["pre"], found["add_bos_token"], found["add_eos_token"]) == (pre, add_bos, False)
    stored = [found[key] for key in ("eos_token_id", "eot_token_id") if key in found]
    assert stored == [backend.token_to_id(end) for end in ends]
    assert found["tokenizer.chat_template"] == json.loads((base / "tokenizer_config.json").read_text())["chat_template"]


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("qwen3", {"pre_tokenizer": {"type": "Whitespace"}}, "unknown pre-tokenizer.*Whitespace"),
        ("qwen3", {"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
        ("gemma", {"normalizer": {"type": "NFKC"}}, "rules for spaces"),
    ],
)
def test_other_rules_are_refused(
    family: str, change: dict[str, Any], reason: str, tiny_model: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    base = tiny_model(family).base
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    described = json.loads((tmp_path / "tokenizer.json").read_text()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ExportRefused, match=reason) as refused:
        read_vocabulary(chat.load(tmp_path), 400)
    assert refused.value.code == "export_unsupported_tokenizer"


def test_word_level_tokenizer_is_refused(tmp_path: Path) -> None:
    word_level.write_tokenizer(tmp_path)
    with pytest.raises(ExportRefused, match="tokenizer of type WordLevel"):
        read_vocabulary(chat.load(tmp_path), 101)
