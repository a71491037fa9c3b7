"""The messages that a run sends to its model for a row."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from app.core.errors import InvalidRequest
from app.core.evals.rows import SourceRow
from app.core.graders.templates import render
from app.core.graders.types import GraderFailure, Sample
from app.core.spec.evals import ItemReference, SamplerSpec, TemplateMessages
from app.core.spec.json_lines import Refused
from app.core.spec.messages import Conversation
from app.core.spec.rows import RowError, parse_row
from app.core.spec.templates import Variable, variables

INPUT_MESSAGES: Final = "data_source.input_messages"
_NO_SAMPLE: Final = Sample(output_text="")


@dataclass(frozen=True)
class Prompt:
    """What the model reads."""

    messages: list[dict[str, Any]]
    """In the form of rows."""
    tools: tuple[dict[str, Any], ...] = ()
    """The row's own tools."""


def template_variables(spec: SamplerSpec) -> Iterator[tuple[str, Variable]]:
    """Yield (path of the field, variable) for each variable of the input messages.

    Raises `InvalidRequest` for one that names the answer, which does not exist yet.
    """
    if not isinstance(spec.input_messages, TemplateMessages):
        return
    for index, message in enumerate(spec.input_messages.template):
        path = f"{INPUT_MESSAGES}.template.{index}.content"
        for text in message.texts():
            for variable in variables(text):
                if variable.namespace == "sample":
                    raise InvalidRequest(
                        f"'{path}' reads {variable}, but the answer does not exist before the model is asked. Use "
                        "fields of the item.",
                        param=path,
                    )
                yield path, variable


def prompt_of(spec: SamplerSpec, row: SourceRow) -> Prompt:
    """Return the prompt of a row. Raises `InvalidRequest` if the row does not have the messages."""
    if isinstance(spec.input_messages, TemplateMessages):
        return Prompt(_conversation(row, _rendered(spec.input_messages, row), INPUT_MESSAGES))
    if isinstance(spec.input_messages, ItemReference):
        return _referenced(spec.input_messages.item_reference, row)
    try:
        parsed = parse_row(json.dumps(row.item), 1)
    except RowError as error:
        raise InvalidRequest(
            f"{row.place}: the item is not a row of a training file: {error.message}. Say what to send to the model "
            "with `input_messages`.",
            param=INPUT_MESSAGES,
            code="invalid_eval_row",
        ) from None
    return Prompt(parsed.prompt_messages, parsed.tools)


def _rendered(template: TemplateMessages, row: SourceRow) -> list[dict[str, Any]]:
    try:
        return [
            {"role": message.role, "content": "".join(render(text, _NO_SAMPLE, row.item) for text in message.texts())}
            for message in template.template
        ]
    except GraderFailure as failure:
        raise row.error(f"{failure}.", "missing_item_field") from None


def _referenced(reference: str, row: SourceRow) -> Prompt:
    path = re.split(r"\.", reference.removeprefix("item."))
    messages = row.lookup(Variable("item", tuple(path)))
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list) or not messages:
        raise row.error(f"`{reference}` must be a list of messages or a text.")
    read = _conversation(row, messages, reference)
    if read[-1]["role"] == "assistant":
        raise row.error(
            f"`{reference}` ends with an assistant message, so the model would see an answer. Leave out "
            "`input_messages` to send the messages before it, or remove it from the row."
        )
    return Prompt(read)


def _conversation(row: SourceRow, messages: list[Any], param: str) -> list[dict[str, Any]]:
    conversation = Conversation(allows_empty=True)
    try:
        conversation.add(messages, param)
    except Refused as refused:
        raise row.error(f"{refused.message}.") from None
    if not conversation.messages:
        raise row.error(f"`{param}` has no text. Add at least one message of a user.")
    return conversation.messages
