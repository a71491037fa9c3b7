"""Structured output: compiles a JSON schema, a regular expression or a grammar to a matcher of llguidance."""

import json
from functools import lru_cache
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

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
    return LLTokenizer(tokenizer.read_text(encoding="utf-8"), n_vocab=vocabulary, eos_token=sorted(end_ids) or None)
