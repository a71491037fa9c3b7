"""The tokenizer of a model, with the variables of its chat template."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest
from app.core.inference.models import ServedModel

OPENAIS_VARIABLE: Final = "reasoning_effort"
"""A variable that OpenAI's clients send as a field of its own."""


def tokenizer_of(served: ServedModel, loaded: ChatTokenizer, variables: Mapping[str, Any]) -> ChatTokenizer:
    """Return `loaded`, the base model's tokenizer, with the variables of the model's job.

    `variables` of the request replace them. Templates that write a date write the current one. Raises `InvalidRequest`
    for a variable of the request that the template does not read.
    """
    if unread := set(variables).intersection(loaded.using(variables).templates.unread_variables):
        name = min(unread)
        raise InvalidRequest(
            f"The chat template of '{served.base.name}' does not read '{name}', so it would change nothing. Remove it.",
            param=name if name == OPENAIS_VARIABLE else f"chat_template_kwargs.{name}",
            code="unsupported_parameter",
        )
    return _with_variables(loaded, json.dumps({**served.variables, **variables}, sort_keys=True))


@lru_cache(maxsize=128)
def _with_variables(loaded: ChatTokenizer, variables: str) -> ChatTokenizer:
    """Return a tokenizer that requests share: it caches the format of the model's answers."""
    return loaded.using(json.loads(variables))
