"""The context of a model: prompt and completion must fit into it together."""

from typing import Final

from app.core.errors import InvalidRequest

UNKNOWN_LIMIT: Final = 1 << 20
"""For a model whose config states no limit; its engine has the last word."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and completion are longer than the model's context."""

    code = "context_length_exceeded"


def room(limit: int | None, prompt_tokens: int, max_tokens: int | None, *, param: str) -> int:
    """Return the tokens that a completion may have: `max_tokens`, or else all that the context has left.

    `limit` is the length of the context, if it is known, and `param` the field with the prompt. Raises
    `ContextLengthExceeded` in OpenAI's words.
    """
    context = limit or UNKNOWN_LIMIT
    if prompt_tokens >= context:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens. However, your {param} resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the {param}.",
            param=param,
        )
    if max_tokens is not None and prompt_tokens + max_tokens > context:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} in the {param}, {max_tokens} in the completion). "
            f"Please reduce the length of the {param} or completion.",
            param=param,
        )
    return context - prompt_tokens if max_tokens is None else max_tokens
