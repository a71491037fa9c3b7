"""The tokenizer of a model, with the variables of its chat template."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.chat import tokenizer
from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest
from app.core.inference.models import ServedModel
from app.core.jobs.tables import Job

OPENAIS_VARIABLE: Final = "reasoning_effort"
"""A variable that OpenAI's clients send as a field of its own."""


def tokenizer_of(session: Session, served: ServedModel, variables: Mapping[str, Any]) -> ChatTokenizer:
    """Return the tokenizer of a model with the variables of its job, which `variables` of the request replace.

    Templates that write a date write the current one. Raises `UnusableTokenizer`, and `InvalidRequest` for a variable
    of the request that the template does not read.
    """
    loaded = tokenizer.load(served.base.directory)
    if unread := set(variables).intersection(loaded.using(variables).templates.unread_variables):
        name = min(unread)
        raise InvalidRequest(
            f"The chat template of '{served.base.name}' does not read '{name}', so it would change nothing. Remove it.",
            param=name if name == OPENAIS_VARIABLE else f"chat_template_kwargs.{name}",
            code="unsupported_parameter",
        )
    return _with_variables(loaded, json.dumps({**_variables_of_job(session, served), **variables}, sort_keys=True))


def _variables_of_job(session: Session, served: ServedModel) -> dict[str, Any]:
    if served.adapter is None:
        return {}
    found = session.scalars(select(Job.spec["chat_template_kwargs"]).where(Job.id == served.adapter.job_id))
    variables: dict[str, Any] | None = found.one_or_none()
    return variables or {}


@lru_cache(maxsize=128)
def _with_variables(loaded: ChatTokenizer, variables: str) -> ChatTokenizer:
    """Return a tokenizer that requests share: it caches the format of the model's answers."""
    return loaded.using(json.loads(variables))
