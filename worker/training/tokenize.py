"""Tokenisation: turns rows into prompts with the model's own tokenizer, within the job's length limits."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from transformers import AutoTokenizer

from app.core.chat import tokenizer as chat
from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer, UnusableTokenizer
from app.core.spec.job import Hyperparameters
from app.core.spec.reports import TrainerExit
from app.core.spec.rows import Row, RowError, parse_row
from app.core.spec.teacher_answers import Provenance
from worker.training.types import JobFailure, Prompt, UsableAnswer

FROM_FILE: Final = "file"
"""Provider name of teacher answers from the training file."""


def load_tokenizer(directory: Path) -> ChatTokenizer:
    """Returns the base model's tokenizer. Raises `JobFailure` if it cannot render chats."""
    try:
        if (directory / chat.TOKENIZER_FILE).is_file():
            return chat.load(directory)
        with tempfile.TemporaryDirectory(prefix="grouptune-tokenizer-") as converted:  # sentencepiece, tiktoken
            AutoTokenizer.from_pretrained(directory, local_files_only=True).save_pretrained(converted)
            return chat.load(Path(converted))
    except UnusableTokenizer as error:
        raise JobFailure(TrainerExit.bad_config, str(error.code), error.message, error.param) from error


def load_prompts(
    path: Path, tokenizer: ChatTokenizer, limits: Hyperparameters, max_new: int, warn: Callable[[str], None]
) -> list[Prompt]:
    """Returns all usable rows of a JSONL file.

    Drops a demonstration that exceeds `limits.max_length` with a line-numbered warning: cut off, it would lose its
    final answer, be graded 0 and be trained down. Drops a prompt that leaves no room for `max_new` tokens too. Raises
    `JobFailure` for an invalid row, and for a row that the model's chat template rejects.
    """
    prompts: list[Prompt] = []
    with path.open("rb") as lines:
        for line, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            try:
                prompt = _prompt(parse_row(raw, line), line, tokenizer, limits.max_length, max_new, warn)
            except RowError as error:
                raise JobFailure(TrainerExit.bad_data, "invalid_file", str(error), "training_file") from error
            except TemplateRefused as error:
                message = f"line {line}: {error.message}"
                raise JobFailure(TrainerExit.bad_data, "invalid_file", message, "training_file") from error
            if prompt is not None:
                prompts.append(prompt)
    return prompts


def _prompt(
    row: Row, line: int, tokenizer: ChatTokenizer, max_length: int, max_new: int, warn: Callable[[str], None]
) -> Prompt | None:
    messages = row.prompt_messages
    ids = tokenizer.prompt_ids(messages, list(row.tools) or None)
    if len(ids) + max_new > max_length:
        warn(
            f"line {line}: dropped, the prompt's {len(ids)} tokens plus {max_new} to generate exceed max_length "
            f"{max_length}; shorten the prompt or raise hyperparameters.max_length"
        )
        return None

    def fits(text: str, what: str) -> bool:
        length = len(ids) + len(tokenizer.response_ids(text))
        if length > max_length:
            warn(f"line {line}: {what} dropped, {length} tokens with its prompt exceed max_length {max_length}")
        return length <= max_length

    demonstration = row.expert if row.expert is not None and fits(row.expert, "the demonstration was") else None
    answers = tuple(
        UsableAnswer(answer.content, Provenance(model=answer.model, provider=FROM_FILE))
        for answer in row.teacher
        if fits(answer.content, "a teacher answer was")
    )
    text = next((m["content"] for m in reversed(messages) if m["role"] == "user" and isinstance(m["content"], str)), "")
    return Prompt(line, text, ids, demonstration, answers, row.item, tuple(messages), row.tools)
