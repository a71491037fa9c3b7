"""Log-probabilities of an answer: those of its text, without the tokens that were cut off."""

from collections.abc import Sequence
from typing import Final

import pytest
from tokenizers import Tokenizer

from app.core.inference.engine_answers import ChoiceDelta, TokenLogprob
from app.core.inference.returned_tokens import ReturnedTokens
from tests import chat_templates
from worker.serving.sequences import Request, TokenLogprobs
from worker.serving.sequences import Sequence as Decoded
from worker.serving.wire import CompletionBody

TOKENIZER: Final = chat_templates.tokenizer("trl/qwen2_5")
BACKEND: Final[Tokenizer] = TOKENIZER.backend
END: Final = min(TOKENIZER.end_ids)


def generate(ids: Sequence[int], stop: Sequence[str]) -> list[ChoiceDelta]:
    """Return what the embedded engine sends for these tokens."""
    body = CompletionBody(
        model="m", prompt=(0,), max_tokens=len(ids), stop=tuple(stop), stop_token_ids=frozenset([END])
    )
    decoded = Decoded(Request(body, "m", BACKEND, lambda _: None), 0)
    pieces = []
    for token in ids:
        chunk = decoded.accept(token, TokenLogprobs(token, -1.0))
        logprobs = (TokenLogprob(token, -1.0, ()),)
        pieces.append(ChoiceDelta(0, chunk.text, (token,), logprobs, chunk.finish_reason, chunk.stop_reason))
        if chunk.finish_reason:
            break
    return pieces


def whole(pieces: Sequence[ChoiceDelta]) -> ChoiceDelta:
    last = pieces[-1]
    found = tuple(token for piece in pieces for token in piece.logprobs or ())
    return ChoiceDelta(0, "".join(piece.text for piece in pieces), (), found, last.finish_reason, last.stop_reason)


def spelled(tokens: Sequence[TokenLogprob]) -> str:
    return b"".join(TOKENIZER.token_bytes.of(token.token_id) for token in tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "stop", "returned"),
    [
        ("2+2=4\n\nNext", ["\n\n"], "2+2=4"),
        ("2+2=4\nNext", ["\n\n"], "2+2=4\nNext"),
        ("ends with a half\n", ["\n\n"], "ends with a half\n"),
        ("a\U0001f999b", ["\U0001f999"], "a"),
        ("a\U0001f999b", ["b"], "a\U0001f999"),
        ("one<tool_call>two", ["call"], "one<tool_call>"),  # a token that the text contains in part
        ("one<tool_call>two", ["<tool"], "one"),
        ("one", ["one"], ""),
        ("one", [], "one"),
    ],
)
@pytest.mark.parametrize("ends", [False, True])
def test_tokens_of_a_stop_string_are_left_out(text: str, stop: list[str], returned: str, ends: bool) -> None:
    ids = BACKEND.encode(text, add_special_tokens=False).ids
    pieces = generate([*ids, END] if ends else ids, stop)
    in_pieces, at_once = (ReturnedTokens(TOKENIZER, has_stop=bool(stop)) for _ in range(2))
    found = [token for piece in pieces for token in in_pieces.take(piece)]
    assert spelled(found) == returned
    assert list(at_once.take(whole(pieces))) == found


def test_tokens_wait_for_their_text() -> None:
    """A stream contains no token whose text may turn out to be the start of a stop string."""
    reader, written, sent = ReturnedTokens(TOKENIZER, has_stop=True), "", ""
    for piece in generate(BACKEND.encode("ab\nc\n\nd", add_special_tokens=False).ids, ["\n\n"]):
        written += piece.text
        sent += spelled(reader.take(piece))
        assert sent == written
    assert sent == "ab\nc"
