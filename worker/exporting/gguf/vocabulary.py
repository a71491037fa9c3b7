"""Writes a tokenizer into a GGUF header so that llama.cpp makes the same tokens."""

import json
from dataclasses import dataclass
from typing import Any, Final

from gguf import GGUFWriter, TokenType

from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.export import ExportRefused

_QWEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3: Final = _QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_GPT2: Final = ("ByteLevel", True)
_BYTES: Final = ("ByteLevel", False)
_PRE_TOKENIZERS: Final = {
    (_GPT2,): "gpt-2",
    (("Digits", True), _GPT2): "smollm",
    (("Split", _QWEN), _BYTES): "qwen2",
    (("Split", _LLAMA3), _BYTES): "smaug-bpe",
}
"""llama.cpp's name of the rules that split a text before byte-pair merges, by the same rules in tokenizer.json."""
_WHOLE_WORDS: Final = {"smaug-bpe": "llama-bpe"}
"""Rules for a tokenizer with `ignore_merges`: a word that is a token stays one token."""
_SPACE: Final = "\u2581"
"""Stands for a space in SentencePiece's tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as llama.cpp reads it."""

    model: str
    """`gpt2` for byte-level BPE, `llama` for SentencePiece."""
    pre_tokenizer: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    """Pairs of byte-level BPE, the first to merge first."""
    scores: list[float]
    """Priority of each token of SentencePiece; the pair with the highest score is merged first."""
    space_prefix: bool
    """Whether SentencePiece writes a space before the first word."""

    def add_to(self, writer: GGUFWriter) -> None:
        """Add tokens and merges."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre_tokenizer)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.space_prefix)


def read_vocabulary(tokenizer: ChatTokenizer, size: int) -> Vocabulary:
    """Return the vocabulary with `size` tokens, one for each row of the embeddings.

    Raises `ExportRefused` for a tokenizer that llama.cpp does not have.
    """
    described: dict[str, Any] = json.loads(tokenizer.backend.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise _refused(f"a tokenizer of type {model['type']}")
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _refused("BPE with dropout, prefixes or suffixes")
    merges = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    is_sentencepiece = bool(model.get("byte_fallback"))
    tokens, types = _tokens(described, size, is_sentencepiece)
    return Vocabulary(
        model="llama" if is_sentencepiece else "gpt2",
        pre_tokenizer="default" if is_sentencepiece else _pre_tokenizer(described),
        tokens=tokens,
        types=types,
        merges=[] if is_sentencepiece else [" ".join(pair) for pair in merges],
        scores=_scores(tokens, types, merges) if is_sentencepiece else [],
        space_prefix=is_sentencepiece and _space_prefix(described),
    )


def _refused(what: str) -> ExportRefused:
    return ExportRefused(
        "export_unsupported_tokenizer",
        f"llama.cpp cannot reproduce the tokenizer of this model: it has {what}. Export the model as `merged` instead.",
    )


def _tokens(described: dict[str, Any], size: int, is_sentencepiece: bool) -> tuple[list[str], list[TokenType]]:
    """Return texts and types by id; ids without a token get a placeholder."""
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [TokenType.UNUSED] * size
    model = described["model"]
    for text, index in model["vocab"].items():
        if index < size:
            is_byte = is_sentencepiece and len(text) == 6 and text.startswith("<0x")
            tokens[index], types[index] = text, TokenType.BYTE if is_byte else TokenType.NORMAL
            if is_sentencepiece and text == model.get("unk_token"):
                types[index] = TokenType.UNKNOWN
    for added in described["added_tokens"]:
        index = added["id"]
        if index < size and types[index] is not TokenType.UNKNOWN:
            # llama.cpp looks for these in the text as it was written, before spaces are replaced.
            text = added["content"].replace(_SPACE, " ") if is_sentencepiece else added["content"]
            tokens[index] = text
            types[index] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    return tokens, types


def _pre_tokenizer(described: dict[str, Any]) -> str:
    """Return llama.cpp's name of the pre-tokenizer, from its rules."""
    if (described["normalizer"] or {}).get("type", "NFC") != "NFC":
        raise _refused(f"the normalizer {described['normalizer']['type']}")
    top = described["pre_tokenizer"] or {}
    rules = tuple(map(_rule, top["pretokenizers"] if top.get("type") == "Sequence" else [top]))
    name = _PRE_TOKENIZERS.get(rules)
    if name is not None and described["model"].get("ignore_merges"):
        name = _WHOLE_WORDS.get(name)
    if name is None:
        raise _refused(f"an unknown pre-tokenizer, {json.dumps(top)[:200]}")
    return name


def _rule(step: dict[str, Any]) -> tuple[str, Any]:
    kind = step.get("type", "none")
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return kind, step.get("use_regex", True)
    if kind == "Digits":
        return kind, step["individual_digits"]
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return kind, step["pattern"].get("Regex")
    return kind, json.dumps(step)


def _scores(tokens: list[str], types: list[TokenType], merges: list[tuple[str, ...]]) -> list[float]:
    """Return scores that make llama.cpp merge in the order of `merges`.

    tokenizer.json stores no scores. Its merges are sorted by the score of their result, so the rank of the first
    merge into a token orders the tokens as the scores did.
    """
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    unmerged = -float(len(merges) + 1)
    return [
        -float(ranks[token]) if kind is TokenType.NORMAL and token in ranks else unmerged
        for token, kind in zip(tokens, types, strict=True)
    ]


def _space_prefix(described: dict[str, Any]) -> bool:
    """Return whether a space is put before the text. Raises `ExportRefused` for other rules than SentencePiece's."""
    normalizer = described["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    kinds = {step["type"] for step in steps}
    top = described["pre_tokenizer"] or {}
    if kinds - {"Prepend", "Replace"} or top.get("type", "Split") not in ("Split", "Metaspace"):
        raise _refused("rules for spaces that SentencePiece does not have")
    return "Prepend" in kinds or top.get("prepend_scheme", "never") != "never"


def add_special_tokens(writer: GGUFWriter, tokenizer: ChatTokenizer) -> None:
    """Add the roles of special tokens, and the chat templates.

    `add_bos_token` is set if the chat template writes that token once, at the start: llama.cpp then adds it to raw
    texts, and not twice to chats.
    """
    named = {role: tokenizer.token_id(f"{role}_token") for role in ("bos", "eos", "unk", "pad")}
    for role, index in named.items():
        if index is not None:
            getattr(writer, f"add_{role}_token_id")(index)
    # llama.cpp stops at each of the three.
    ends = sorted(tokenizer.end_ids - {named["eos"]}, key=lambda end: end != tokenizer.end_id)
    if named["eos"] is None and ends:
        writer.add_eos_token_id(ends.pop(0))
    for add, end in zip((writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False):
        add(end)
    writer.add_add_bos_token(writes_bos_once(tokenizer))
    writer.add_add_eos_token(False)
    writer.add_chat_template(tokenizer.templates.source(False))


def writes_bos_once(tokenizer: ChatTokenizer) -> bool:
    """Return whether chats start with the `bos_token`, and have no other."""
    bos = tokenizer.token_id("bos_token")
    user, answer = ({"role": role, "content": "probe"} for role in ("user", "assistant"))
    try:
        ids = tokenizer.prompt([user, answer, user]).ids
    except TemplateRefused:
        ids = tokenizer.prompt([user]).ids
    return bos is not None and ids[0] == bos and ids.count(bos) == 1
