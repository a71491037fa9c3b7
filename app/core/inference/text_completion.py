"""Completes plain text: reads prompts as token ids, and writes log-probabilities in OpenAI's legacy shape."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from app.core.chat.token_bytes import TokenBytes
from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest
from app.core.inference.context import check_beginning
from app.core.inference.engine_answers import TokenLogprob

_UTF8: Final = codecs.getincrementaldecoder("utf-8")


class TextPrompt(NamedTuple):
    """A prompt as the engine gets it, and as an echo shows it."""

    ids: tuple[int, ...]
    text: str


def read_prompts(prompt: str | Sequence[Any], tokenizer: ChatTokenizer, limit: int | None) -> list[TextPrompt]:
    """Return the prompts in a request's `prompt`: a text, token ids, or a list of either.

    Texts get the special tokens that the tokenizer itself adds, such as BOS. `limit` is the number of tokens in the
    model's context, if it is known. Raises `InvalidRequest` for an empty prompt and for an unknown token id, and
    `ContextLengthExceeded` for a text whose beginning is already too long.
    """
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        return [_read(prompt, tokenizer, limit, "prompt")]
    return [_read(one, tokenizer, limit, f"prompt.{index}") for index, one in enumerate(prompt)]


def _read(prompt: str | Sequence[int], tokenizer: ChatTokenizer, limit: int | None, param: str) -> TextPrompt:
    if isinstance(prompt, str):
        check_beginning(tokenizer, limit, "prompt", prompt)
        read = TextPrompt(tokenizer.text_ids(prompt), prompt)
    else:
        unknown = next((token for token in prompt if tokenizer.backend.id_to_token(token) is None), None)
        if unknown is not None:
            raise InvalidRequest(f"'{param}' has the token id {unknown}, which this model does not have.", param=param)
        read = TextPrompt(tuple(prompt), tokenizer.backend.decode(list(prompt), skip_special_tokens=False))
    if not read.ids:
        raise InvalidRequest(f"'{param}' is empty, and this model's tokenizer starts no text by itself.", param=param)
    return read


class LegacyLogprobs:
    """Writes the log-probabilities of one completion, piece by piece."""

    def __init__(self, tokens: TokenBytes, offset: int) -> None:
        """`offset` is the number of characters before the first token: those of the prompt."""
        self._tokens = tokens
        self._offset = offset
        self._decoder = _UTF8("replace")

    def write(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the next tokens in OpenAI's shape."""
        return self._write([(each.token_id, each.logprob, dict(each.top)) for each in logprobs])

    def write_prompt(self, ids: Sequence[int], found: Sequence[Mapping[int, float] | None], count: int) -> Any:
        """Return the tokens of a prompt; `found` has log p by token id in each place, and None in the first one."""
        return self._write(
            [
                (token, None, None) if each is None else (token, each[token], _best(each, count))
                for token, each in zip(ids, found, strict=True)
            ]
        )

    def _write(self, entries: Sequence[tuple[int, float | None, Mapping[int, float] | None]]) -> dict[str, Any]:
        offsets = []
        for token, _, _ in entries:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._tokens.of(token)))
        return {
            "tokens": [self._shown(token) for token, _, _ in entries],
            "token_logprobs": [logprob for _, logprob, _ in entries],
            "top_logprobs": [
                None if top is None else {self._shown(token): value for token, value in top.items()}
                for _, _, top in entries
            ],
            "text_offset": offsets,
        }

    def _shown(self, token: int) -> str:
        """Return a token's text; a part of a character is written in hexadecimal, as OpenAI does."""
        written = self._tokens.of(token)
        try:
            return written.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)


def _best(found: Mapping[int, float], count: int) -> dict[int, float]:
    """Return the `count` most probable tokens of one place."""
    return dict(sorted(found.items(), key=lambda pair: -pair[1])[:count])
