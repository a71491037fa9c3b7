"""Rows to token ids: the model's own chat template for the prompt, plain text and one end token for a response."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from app.core.spec.job import Hyperparameters
from app.core.spec.reports import TrainerExit
from app.core.spec.rows import Row, RowError, parse_row
from app.core.spec.teaching import Provenance
from worker.training.types import JobFailure, Prompt, Taught

FROM_FILE: Final = "file"
"""Provider of the answers that rows bring."""
_PROBE = "probe"


class ChatTokenizer:
    """A transformers tokenizer with the two things that training needs: prompt ids and response ids."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises `JobFailure` for a tokenizer without a chat template."""
        if not tokenizer.chat_template:
            raise JobFailure(
                TrainerExit.bad_config,
                "model_without_chat_template",
                "The base model has no chat template, so chat rows cannot be rendered. Choose an instruct model.",
                "model",
            )
        self.tokenizer = tokenizer
        self.end_id = self._find_end_id()
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id

    def prompt_ids(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> tuple[int, ...]:
        """The chat up to and including the generation prompt; special tokens come from the template alone."""
        rendered = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def response_ids(self, text: str) -> tuple[int, ...]:
        """The text without special tokens inside, then the end of the turn exactly once.

        Special tokens that the text spells out stay text: a demonstration about chat formats must not end early.
        """
        plain = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return (*plain["input_ids"], self.end_id)

    def text(self, ids: tuple[int, ...] | list[int]) -> str:
        """What graders and people read: the response without its end token."""
        kept = list(ids[:-1]) if ids and ids[-1] == self.end_id else list(ids)
        decoded: str = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return decoded

    def _find_end_id(self) -> int:
        """The token that the template puts after an assistant's words; it may differ from the tokenizer's eos."""
        user = {"role": "user", "content": _PROBE}
        prompt = self.tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        whole = self.tokenizer.apply_chat_template(
            [user, {"role": "assistant", "content": _PROBE}], tokenize=False, add_generation_prompt=False
        )
        rest = whole[len(prompt) :] if whole.startswith(prompt) else whole[whole.rfind(_PROBE) :]
        after = self.tokenizer(rest.partition(_PROBE)[2], add_special_tokens=False)["input_ids"]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        found = next((token for token in after if token in special), self.tokenizer.eos_token_id)
        if found is None:
            raise JobFailure(
                TrainerExit.bad_config,
                "model_without_end_token",
                "Neither the chat template nor the tokenizer of the base model says which token ends a turn.",
                "model",
            )
        return int(found)


def load_prompts(
    path: Path, tokenizer: ChatTokenizer, limits: Hyperparameters, max_new: int, warn: Callable[[str], None]
) -> list[Prompt]:
    """All usable rows of a JSONL file.

    A demonstration that does not fit `limits.max_length` is dropped with a line-numbered warning: cut off it would
    lose its answer, be graded 0 and be trained down. A prompt that leaves no room for `max_new` tokens is dropped too.
    Raises `JobFailure` for a broken row.
    """
    prompts: list[Prompt] = []
    with path.open("rb") as lines:
        for line, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            try:
                row = parse_row(raw, line)
            except RowError as error:
                raise JobFailure(TrainerExit.bad_data, "invalid_file", str(error), "training_file") from error
            prompt = _prompt(row, line, tokenizer, limits.max_length, max_new, warn)
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

    expert = row.expert if row.expert is not None and fits(row.expert, "the demonstration was") else None
    teachers = tuple(
        Taught(answer.content, Provenance(model=answer.model, provider=FROM_FILE))
        for answer in row.teacher
        if fits(answer.content, "a teacher response was")
    )
    text = next((m["content"] for m in reversed(messages) if m["role"] == "user" and isinstance(m["content"], str)), "")
    return Prompt(line, text, ids, expert, teachers, row.item, tuple(messages), row.tools)
