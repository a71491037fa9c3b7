"""Converts chats to token ids with the model's chat template: the prompt, and what the model should write after it.

The trainer, the validation of rows and file previews share this tokenizer, so a preview shows exactly what is trained.
"""

import json
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenizers import Encoding, Tokenizer

from app.core.chat.answer_format import AnswerFormat
from app.core.chat.continuation import Continuation, continuation
from app.core.chat.templates import DEFAULT, ChatTemplates, TemplateRefused
from app.core.chat.token_bytes import TokenBytes
from app.core.chat.tokenizer_settings import last_change, read_settings
from app.core.deadline import check_deadline
from app.core.errors import InvalidRequest
from app.core.spec.answers import ParsedAnswer

Tools = Sequence[dict[str, Any]] | None
TOKENIZER_FILE: Final = "tokenizer.json"
SHORT_TEXT: Final = 4_096
"""Longer texts are tokenised while other threads run."""
_PROBE: Final = "probe"
_QUESTION: Final = {"role": "user", "content": _PROBE}
_TOOL_RESULT: Final = {"role": "tool", "content": _PROBE}


class UnusableTokenizer(InvalidRequest):
    """The base model's tokenizer cannot render chats."""

    code = "model_without_tokenizer"


@dataclass(frozen=True)
class Piece:
    """Token ids with their texts; a character that spans several tokens belongs to the first of them."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]


class RenderedPrompt(NamedTuple):
    """A chat up to and including the generation prompt."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    text: str
    ids: tuple[int, ...]
    offsets: Sequence[tuple[int, int]]
    """Start and end of each token in `text`."""

    @property
    def piece(self) -> Piece:
        return Piece(self.ids, _texts(self.offsets, self.text))


class Answer(NamedTuple):
    """What the model should write after a prompt: thoughts if any, the answer, and one token that ends the turn."""

    ids: tuple[int, ...]
    content_start: int
    """Index of the first token after the thoughts; 0 if the message has no content, or none that could be located."""
    text: str
    """What the tokens stand for, special tokens included."""
    offsets: Sequence[tuple[int, int]]
    """Start and end of each token in `text`."""
    unwritten: tuple[str, ...]
    """Parts of the message that the template does not write; see `Continuation`."""

    @property
    def piece(self) -> Piece:
        return Piece(self.ids, _texts(self.offsets, self.text))


class ChatTokenizer:
    """Produces prompts and answers for training. Thread-safe."""

    def __init__(
        self,
        backend: Tokenizer,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str],
        end_ids: Collection[int] = (),
    ) -> None:
        """`templates` by name, `special_tokens` by role (`eos_token`), `end_ids` as the model declares them.

        Raises `UnusableTokenizer` if no chat template works or if the token that ends a turn is unknown.
        """
        if DEFAULT not in templates:
            raise UnusableTokenizer(
                "The base model has no chat template, so chat rows cannot be rendered. Choose an instruct model.",
                param="model",
                code="model_without_chat_template",
            )
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self._lock = threading.Lock()
        self._ids = list(range(1 + max(backend.get_vocab().values(), default=0)))
        self._named = special_tokens
        self.templates = ChatTemplates(templates, special_tokens)
        added = backend.get_added_tokens_decoder()
        self._added = frozenset(added)
        self._special = {token.content: index for index, token in added.items() if token.special}
        self._special_text = _any_of(self._special)
        self._added_ids = {token.content: index for index, token in added.items()}
        self._added_text = _any_of(self._added_ids)
        eos = self.token_id("eos_token")
        declared = frozenset(end_ids) | ({eos} if eos is not None else set())
        self.end_id = self._find_end_id(frozenset(end_ids), eos)
        """Ends a turn as the template writes it."""
        self.end_ids = declared | {self.end_id}
        """All tokens that end a turn: a sampler stops at each of them."""
        pad = self.token_id("pad_token")
        self.pad_id = self.end_id if pad is None else pad

    def using(self, variables: Mapping[str, Any], now: datetime | None = None) -> "ChatTokenizer":
        """Return this tokenizer with the `chat_template_kwargs` of a job and the date that its template writes."""
        if not variables and now is None:
            return self
        other = object.__new__(ChatTokenizer)
        other.__dict__ |= self.__dict__
        other.templates = self.templates.using(variables, now)
        return other

    def prompt(
        self, messages: list[dict[str, Any]], tools: Tools = None, check: Callable[[str], None] = lambda _: None
    ) -> RenderedPrompt:
        """Render the chat up to and including the generation prompt. Only the template adds special tokens.

        `check` may refuse the text before it is tokenised. Raises `TemplateRefused`.
        """
        given = list(tools or ()) or None
        text = self.templates.render(messages, given, for_answer=True)
        check(text)
        encoding = self._encode(text)
        return RenderedPrompt(messages, given, text, self._shared(encoding.ids), encoding.offsets)

    def prompt_ids(self, messages: list[dict[str, Any]], tools: Tools = None) -> tuple[int, ...]:
        """Return the ids of `prompt`. Raises `TemplateRefused`."""
        return self.prompt(messages, tools).ids

    def answer(self, prompt: RenderedPrompt, message: dict[str, Any]) -> Answer:
        """Return the tokens that the model should write for an assistant message: those that are trained.

        They are the rendering with the message minus the rendering without, up to the first token that ends the turn.
        Special tokens spelled out in the message stay plain text: a demonstration about chat formats must not end
        early. Raises `TemplateRefused`.
        """
        rest = continuation(self.templates, prompt.messages, message, prompt.tools, prompt.text)
        ids, offsets = self._encode_rest(prompt, rest, message)
        end = next(
            (i for i, token in enumerate(ids) if token in self.end_ids and offsets[i][0] >= rest.content.stop), None
        )
        if end is None:
            ids, offsets = self._without_trailing_space(ids, offsets, rest)
            text = rest.text[: offsets[-1][1] if offsets else 0]
            end_id = self._next_turn_id(prompt, message)
            written = self.backend.id_to_token(end_id) or ""
            ids, offsets = [*ids, end_id], [*offsets, (len(text), len(text) + len(written))]
            text += written
        else:
            ids, offsets = ids[: end + 1], offsets[: end + 1]
            text = rest.text[: offsets[end][1]]
        start = next((i for i, (_, stop) in enumerate(offsets) if stop > rest.content.start), 0) if rest.content else 0
        return Answer(self._shared(ids), start, text, offsets, rest.unwritten)

    def count(self, text: str) -> int:
        """Return the number of tokens of an answer with this text, its end token included, without its thoughts."""
        return len(self._encode(text, as_text=True).ids) + 1

    @property
    def answer_format(self) -> AnswerFormat:
        """How the chat template writes thoughts, text and tool calls."""
        return _answer_format(self.templates)

    def parse(self, ids: Sequence[int], tools: Sequence[dict[str, Any]] = ()) -> ParsedAnswer:
        """Return the parts of an answer that the model wrote; `tools` are those of its prompt."""
        return self.answer_format.parse(self.text(ids), tools)

    def parts(self, message: dict[str, Any], tools: Tools = None) -> ParsedAnswer:
        """Return the parts of an assistant message, also if it has thoughts or calls in its text, as models write them.

        So graders read written answers as they read the model's own.
        """
        given = ParsedAnswer.of(message)
        if given.reasoning or given.tool_calls:
            return given
        parsed = self.answer_format.parse(given.text, tools, opened="")
        return parsed if parsed.reasoning or parsed.tool_calls else given

    def plain_ids(self, text: str) -> list[int]:
        """Return the token ids of a plain text; special tokens that it spells out stay text."""
        return self._encode(text, as_text=True).ids

    def size(self, text: str, end: int | None = None) -> int:
        """Return the number of tokens of a rendering, or of those that end at the character `end` or before."""
        offsets = self._encode(text).offsets
        return len(offsets) if end is None else sum(stop <= end for _, stop in offsets)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text that is no chat, with the special tokens that the tokenizer adds itself (BOS)."""
        with self._lock:
            self.backend.encode_special_tokens = False
            return tuple(self.backend.encode(text, add_special_tokens=True).ids)

    def spells_special_tokens(self, message: dict[str, Any]) -> bool:
        """Return whether the text of a message contains special tokens, which `answer` then keeps as plain text."""
        return bool(self._special) and self._special_text.search(_written(message)) is not None

    def split_added(self, text: str) -> list[int | str]:
        """Return the parts of a text: the ids of added tokens, special or not, and the plain text between them."""
        parts: list[int | str] = []
        at = 0
        for match in self._added_text.finditer(text):
            parts += [text[at : match.start()], self._added_ids[match[0]]]
            at = match.end()
        return [part for part in [*parts, text[at:]] if part != ""]

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of single tokens."""
        return TokenBytes(self.backend)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text for people: the answer as the model wrote it, without its end token."""
        kept = list(ids[:-1]) if ids and ids[-1] in self.end_ids else list(ids)
        return str(self.backend.decode(kept, skip_special_tokens=False))

    def _encode_rest(
        self, prompt: RenderedPrompt, rest: Continuation, message: dict[str, Any]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of the text behind a prompt, with their offsets in that text."""
        if self.spells_special_tokens(message):
            return self._encode_with_literals(rest, message)
        # Tokens depend on what precedes them, back to the last added token, which every tokenizer splits at.
        known = prompt.ids
        last = next((i for i in range(len(known) - 1, -1, -1) if known[i] in self._added), 0)
        begin = prompt.offsets[last][0] if known else 0
        tail = prompt.text[begin:]
        encoding = self._encode(tail + rest.text)
        skipped = len(known) - last
        if tuple(encoding.ids[:skipped]) != known[last:]:
            # A token would span the border, as "\n\n" does. The model gets the prompt's tokens, so they stay.
            tail = str(self.backend.id_to_token(known[last])) if known[last] in self._added else ""
            encoding, skipped = self._encode(tail + rest.text), int(bool(tail))
        size = len(tail)
        return encoding.ids[skipped:], [
            (max(0, start - size), max(0, stop - size)) for start, stop in encoding.offsets[skipped:]
        ]

    def _encode_with_literals(
        self, rest: Continuation, message: dict[str, Any]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode an answer that spells out special tokens: only those that the template wrote become special tokens."""
        own = [place for place in (rest.thoughts, rest.content) if place]
        located = "".join(rest.text[place.start : place.stop] for place in own)
        if len(self._special_text.findall(located)) != len(self._special_text.findall(_written(message))):
            shown = self._special_text.search(_written(message))
            raise TemplateRefused(
                f"the answer spells out the special token {shown[0] if shown else ''} where the chat template does not "
                "write it as it stands, so it would end or open a turn; rephrase it"
            )
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        begin = 0
        for match in [*self._special_text.finditer(rest.text), None]:
            if match is not None and any(place.start <= match.start() < place.stop for place in own):
                continue
            end = len(rest.text) if match is None else match.start()
            encoding = self._encode(rest.text[begin:end], as_text=True)
            ids += encoding.ids
            offsets += [(begin + start, begin + stop) for start, stop in encoding.offsets]
            if match is not None:
                ids.append(self._special[match[0]])
                offsets.append(match.span())
                begin = match.end()
        return ids, offsets

    def _without_trailing_space(
        self, ids: list[int], offsets: list[tuple[int, int]], rest: Continuation
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Drop the tokens behind the content, such as a line break between turns, where a template writes no end."""
        if not rest.content:
            return ids, offsets
        kept = sum(start < rest.content.stop for start, _ in offsets)
        return ids[:kept], offsets[:kept]

    def _next_turn_id(self, prompt: RenderedPrompt, message: dict[str, Any]) -> int:
        """Return the end token of a template that writes none: the model stops by opening the next turn."""
        following = _TOOL_RESULT if message.get("tool_calls") else _QUESTION
        chat = [*prompt.messages, message]
        try:
            whole = self.templates.render(chat, prompt.tools, for_answer=False)
            longer = self.templates.render([*chat, following], prompt.tools, for_answer=False)
        except TemplateRefused:
            return self.end_id
        opening = self._encode(longer[len(whole) :]).ids if longer.startswith(whole) else []
        return opening[0] if opening and opening[0] in self.end_ids else self.end_id

    def _shared(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the ids as objects that all rows share: 8 bytes a token instead of 36 in a file of a million rows."""
        return tuple(map(self._ids.__getitem__, ids))

    def _encode(self, text: str, *, as_text: bool = False) -> Encoding:
        check_deadline()
        with self._lock:  # the setting belongs to the shared tokenizer object, hence the lock
            if self.backend.encode_special_tokens != as_text:
                self.backend.encode_special_tokens = as_text
            if len(text) > SHORT_TEXT:  # unlike `encode`, this releases the interpreter's lock
                return self.backend.encode_batch([text], add_special_tokens=False)[0]
            return self.backend.encode(text, add_special_tokens=False)

    def token_id(self, role: str) -> int | None:
        """Return the id of a special token by its role, such as `bos_token`; None if the model has none."""
        token = self._named.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def _find_end_id(self, declared: frozenset[int], eos: int | None) -> int:
        """Return the token that the template writes after an answer; it may differ from the tokenizer's eos."""
        answer = {"role": "assistant", "content": _PROBE}
        try:
            prompt = self.templates.render([_QUESTION], None, for_answer=True)
            rest = continuation(self.templates, [_QUESTION], answer, None, prompt)
            whole = self.templates.render([_QUESTION, answer], None, for_answer=False)
        except TemplateRefused as error:
            message = f"The base model cannot be used: for a sample question and answer, {error.message}"
            raise UnusableTokenizer(message, param="model", code="model_without_chat_template") from error
        after = self._encode(rest.text[rest.content.stop :]).ids
        special = self._special.values()
        end = next((token for token in after if token in declared), None)
        end = next((token for token in after if token in special), None) if end is None else end
        if end is None:  # the next turn's first token, if the model declares that it ends turns
            try:
                longer = self.templates.render([_QUESTION, answer, _QUESTION], None, for_answer=False)
            except TemplateRefused:
                longer = ""
            opening = self._encode(longer[len(whole) :]).ids if longer.startswith(whole) else []
            end = opening[0] if opening and opening[0] in declared else eos
        if end is None:
            raise UnusableTokenizer(
                "Neither the chat template nor the tokenizer of the base model defines the token that ends a turn.",
                param="model",
                code="model_without_end_token",
            )
        return end


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _written(message: dict[str, Any]) -> str:
    """Return all texts of a message that its author wrote."""
    written = f"{message.get('content') or ''}\n{message.get('reasoning_content') or ''}"
    calls = message.get("tool_calls")
    return f"{written}\n{json.dumps(calls, ensure_ascii=False)}" if calls else written


@lru_cache(maxsize=128)
def _answer_format(templates: ChatTemplates) -> AnswerFormat:
    return AnswerFormat.derive(templates)


def _texts(offsets: Sequence[tuple[int, int]], text: str) -> tuple[str, ...]:
    """Return the text that each token adds to the tokens before it; the parts join to `text`."""
    starts: list[int] = []
    reached = 0
    for start, end in offsets:
        starts.append(reached if end > reached else max(start, reached))
        reached = max(reached, end)
    return tuple(text[start:end] for start, end in pairwise([*starts, len(text)]))


def load(directory: Path) -> ChatTokenizer:
    """Return the tokenizer of a base model's directory, cached in memory. Raises `UnusableTokenizer`."""
    return _load(directory, last_change(directory))


@lru_cache(maxsize=4)
def _load(directory: Path, _changed: int) -> ChatTokenizer:
    try:
        backend = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except Exception as error:  # tokenizers raises nothing more specific, even for a missing file
        raise UnusableTokenizer(
            f"The base model '{directory.name}' has no readable {TOKENIZER_FILE} ({str(error)[:200]}). Create it "
            "with transformers: AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY).",
            param="model",
        ) from error
    found = read_settings(directory, backend)
    return ChatTokenizer(backend, found.templates, found.special_tokens, found.end_ids)
