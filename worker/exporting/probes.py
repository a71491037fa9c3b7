"""The probe set: prompts on which an export must agree with the unmerged model.

Held-out rows of the model's job if they are still stored, else fixed questions; both rendered with the chat template.
"""

from itertools import islice
from typing import Any, Final

from app.core.chat import tokenizer as chat
from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest
from app.core.spec.export import ExportRefused, ExportSpec
from app.core.spec.rows import RowError, read_rows

PROBES: Final = 8
MAX_TOKENS: Final = 96
"""Longer prompts lose their beginning."""
_QUESTIONS: Final = (
    "What is 17 + 48? Answer with the number only.",
    "Name three primary colours.",
    "Translate into French: The weather is fine today.",
    "Write a Python function that returns the square of a number.",
    "Summarise in one sentence: Water boils at 100 degrees Celsius at sea level, and at less on a mountain.",
    "Is a whale a fish? Explain briefly.",
    "List the months with 30 days.",
    "Write a polite reply to a customer whose parcel is late.",
)


def load(spec: ExportSpec) -> list[list[int]]:
    """Return the token ids of the probes. Raises `ExportRefused` if the base model's tokenizer is unusable."""
    try:
        tokenizer = chat.load(spec.base_dir)
    except InvalidRequest as error:
        raise ExportRefused(error.code or "export_refused", error.message) from error
    chats = [*_held_out(spec), *([{"role": "user", "content": text}] for text in _QUESTIONS)]
    found = (ids for messages in chats if (ids := _ids(tokenizer, messages)))
    return list(islice(found, PROBES))


def _held_out(spec: ExportSpec) -> list[list[dict[str, Any]]]:
    if spec.probe is None:
        return []
    try:
        return [row.prompt_messages for _, row in islice(read_rows(spec.probe), PROBES)]
    except RowError:  # validated by an older version
        return []


def _ids(tokenizer: ChatTokenizer, messages: list[dict[str, Any]]) -> list[int]:
    """Return the last tokens of a rendered chat; none if the template rejects it."""
    try:
        return list(tokenizer.prompt(messages).ids[-MAX_TOKENS:])
    except InvalidRequest:
        return []
