"""Tokenisation: turns rows into prompts with the model's own tokenizer, within the job's length limits."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from transformers import AutoTokenizer

from app.core.chat import tokenizer as chat
from app.core.chat.encoding import REASONS, Drop, Dropped, EncodedRow, RowRules, encode
from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer, UnusableTokenizer
from app.core.plurals import are, plural
from app.core.scratch import scratch_directory
from app.core.spec.answers import ParsedAnswer
from app.core.spec.reports import TrainerExit
from app.core.spec.rows import Row, RowError, read_rows
from app.core.spec.teacher_answers import Provenance
from worker.training.types import JobFailure, Prompt, UsableAnswer

FROM_FILE: Final = "file"
"""Provider name of teacher answers from the training file."""
WARNINGS_SHOWN: Final = 3


def load_tokenizer(directory: Path) -> ChatTokenizer:
    """Returns the base model's tokenizer. Raises `JobFailure` if it cannot render chats."""
    try:
        if (directory / chat.TOKENIZER_FILE).is_file():
            return chat.load(directory)
        with scratch_directory("tokenizer") as converted:  # sentencepiece, tiktoken
            AutoTokenizer.from_pretrained(directory, local_files_only=True).save_pretrained(converted)
            return chat.load(converted)
    except UnusableTokenizer as error:
        raise JobFailure(TrainerExit.bad_config, str(error.code), error.message, error.param) from error


def load_prompts(
    path: Path,
    tokenizer: ChatTokenizer,
    rules: RowRules,
    warn: Callable[[str], None],
    *,
    param: str = "training_file",
    dropped: Counter[Drop] | None = None,
) -> list[Prompt]:
    """Returns all usable rows of a JSONL file.

    Drops what exceeds the limit or what the chat template rejects, with a line-numbered warning, and counts the rows
    lost in `dropped`. Raises `JobFailure` with `param` for an invalid row.
    """
    counts: Counter[Drop] = Counter() if dropped is None else dropped
    prompts: list[Prompt] = []
    try:
        for line, row in read_rows(path):
            try:
                encoded = encode(row, tokenizer, rules)
            except TemplateRefused as error:
                warn(f"line {line}: dropped, {error.message}")
                counts[Drop.template_refused] += 1
                continue
            for part in encoded.dropped:
                warn(f"line {line}: {_consequence(part)}{part.message}")
            if (lost := encoded.lost) is not None:
                counts[lost] += 1
            else:
                prompts.append(_prompt(row, line, encoded))
    except RowError as error:
        raise JobFailure(TrainerExit.bad_data, "invalid_file", str(error), param) from error
    return prompts


def _consequence(part: Dropped) -> str:
    if part.reason is Drop.not_written:
        return ""
    return "dropped, " if part.part == "prompt" else f"a {part.part.replace('_', ' ')} was dropped, "


def _prompt(row: Row, line: int, encoded: EncodedRow) -> Prompt:
    users = [message["content"] for message in row.prompt_messages if message["role"] == "user"]
    return Prompt(
        line,
        users[-1] if users else "",
        encoded.prompt.ids,
        tuple(
            UsableAnswer(turn, Provenance(model=response.model, provider=FROM_FILE))
            for response, turn in encoded.teacher
        ),
        row.item,
        tuple(row.prompt_messages),
        row.tools,
        encoded.turns,
        encoded.preference,
        None if row.demonstration is None else ParsedAnswer.of(row.demonstration),
    )


def loss_summary(name: str, used: int, dropped: Counter[Drop], warnings: list[str]) -> str:
    """Returns how many rows of a file are not used, with the first lines that are not used as a whole."""
    reasons = ", ".join(f"{count:,} {REASONS[reason]}" for reason, count in dropped.most_common())
    rows = f"{plural(used + dropped.total(), 'row')} of the {name}"
    what = (
        f"{dropped.total():,} of {rows} {are(dropped.total())} not used: {reasons}"
        if dropped
        else f"Parts of {rows} are not used"
    )
    more = len(warnings) - WARNINGS_SHOWN
    return "; ".join([f"{what}. For example, {warnings[0]}" if warnings else what, *warnings[1:WARNINGS_SHOWN]]) + (
        f"; and {more:,} more" if more > 0 else ""
    )
