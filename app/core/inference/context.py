"""The context of a model: prompt and completion must fit into it together."""

from typing import Final

from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest

UNKNOWN_LIMIT: Final = 1 << 20
"""For a model whose config states no limit; its engine has the last word."""
_READ_AHEAD: Final = 16
"""Characters for each token of the context that are tokenised first. Few texts have longer tokens on average."""
_BEYOND: Final = 256
"""Further characters that are tokenised but not counted: a word that is cut has other tokens, often more. The longest
tokens of published vocabularies have 128 characters."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and completion are longer than the model's context."""

    code = "context_length_exceeded"


def check_beginning(tokenizer: ChatTokenizer, limit: int | None, param: str, text: str) -> None:
    """Raises `ContextLengthExceeded` if the beginning of a text is too long: tokenising megabytes takes a minute."""
    if limit is None or len(text) <= _READ_AHEAD * limit:
        return
    counted = _READ_AHEAD * limit
    tokens = tokenizer.size(text[: counted + _BEYOND], counted)
    if tokens >= limit:
        raise _too_long(limit, f"at least {tokens}", param)


def room(limit: int | None, prompt_tokens: int, max_tokens: int | None, *, param: str) -> int:
    """Return the tokens that a completion may have: `max_tokens`, or else all that the context has left.

    `limit` is the length of the context, if it is known, and `param` the field with the prompt. Raises
    `ContextLengthExceeded` in OpenAI's words.
    """
    context = limit or UNKNOWN_LIMIT
    if prompt_tokens >= context:
        raise _too_long(context, str(prompt_tokens), param)
    if max_tokens is not None and prompt_tokens + max_tokens > context:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} in the {param}, {max_tokens} in the completion). "
            f"Please reduce the length of the {param} or completion.",
            param=param,
        )
    return context - prompt_tokens if max_tokens is None else max_tokens


def _too_long(context: int, tokens: str, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"This model's maximum context length is {context} tokens. However, your {param} resulted in "
        f"{tokens} tokens. Please reduce the length of the {param}.",
        param=param,
    )
