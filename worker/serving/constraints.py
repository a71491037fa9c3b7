"""Structured output: compiles a JSON schema, a regular expression or a grammar to a matcher of llguidance."""

import json
from functools import lru_cache
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer

from worker.serving.errors import invalid
from worker.serving.wire import StructuredOutputs


def compile_constraint(wanted: StructuredOutputs, tokenizer: LLTokenizer) -> LLMatcher:
    """Return a matcher at its start. Raises `RequestError` if the constraint is invalid or too complex."""
    matcher = LLMatcher(tokenizer, _grammar(wanted), log_level=0)
    if matcher.is_error():
        raise _refused(matcher.get_error())
    return matcher


def _grammar(wanted: StructuredOutputs) -> str:
    if wanted.regex is not None:
        return LLMatcher.grammar_from_regex(wanted.regex)
    if wanted.grammar is not None:
        return LLMatcher.grammar_from_lark(wanted.grammar)
    schema = wanted.json_schema
    try:
        return LLMatcher.grammar_from_json_schema(schema if isinstance(schema, str) else json.dumps(schema))
    except ValueError as error:
        raise _refused(str(error)) from error


def _refused(reason: str) -> Exception:
    return invalid(
        f"The constraint cannot be compiled: {reason.strip()}", "structured_outputs", "invalid_structured_output"
    )


@lru_cache(maxsize=8)
def load_tokenizer(tokenizer: Path, vocabulary: int, end_ids: frozenset[int]) -> LLTokenizer:
    """Return llguidance's form of a tokenizer file. A completed text may be followed by any of `end_ids`."""
    written = tokenizer.read_text(encoding="utf-8")
    try:
        return LLTokenizer(written, n_vocab=vocabulary, eos_token=sorted(end_ids) or None)
    except ValueError:  # llguidance reads byte-level and byte-fallback tokenizers only
        plain = _TextTokenizer(Tokenizer.from_str(written), vocabulary)
        return LLTokenizer(TokenizerWrapper(plain), n_vocab=vocabulary, eos_token=sorted(end_ids) or None)


class _TextTokenizer:
    """Any other tokenizer, in the form that llguidance accepts: each token is the text that it adds."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.special_token_ids = sorted(special)
        self.bos_token_id = None
        self.eos_token_id = 0
        """Replaced by the request's own end tokens."""
        anchor = next((index for index in range(vocabulary) if index not in special and self._text([index])), 0)
        skipped = len(self._text([anchor]))
        self.tokens = [
            (self._text([index]) if index in special else self._text([anchor, index])[skipped:]).encode()
            for index in range(vocabulary)
        ]

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of a text. llguidance tries bytes first, which raises `TypeError`."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))
