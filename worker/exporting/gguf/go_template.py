"""Translates a model's chat template into a Go template, which Ollama needs, and checks the translation.

Go templates have no functions for text, so only templates are translated that write the messages as they are, with
fixed text between them. That text is found by rendering sample chats with the model's own template.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer
from app.core.plurals import plural
from app.core.spec.export import ExportRefused
from worker.exporting.gguf.vocabulary import writes_bos_once

_SYSTEM, _QUESTION, _ANSWER, _NEXT = (f"\u00a7{name}\u00a7" for name in ("system", "question", "answer", "next"))
_SPACED: Final = "  \u00a7spaced\u00a7  "
_ANOTHER_DAY: Final = datetime(2001, 1, 1, tzinfo=UTC)

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Delimiters:
    """What a chat template writes between messages. `None` for the system message if the template rejects one."""

    start: str
    """Before the first question, in a chat without a system message."""
    system: tuple[str, str] | None
    """Before the system message, and between it and the first question."""
    answer: str
    """Between a question and its answer."""
    question: str
    """Between an answer and the next question."""
    end: str
    """After the last question: opens the answer that the model writes."""

    def render(self, messages: Messages) -> str:
        """Return a chat that ends with a question, as the Go template does."""
        has_system = messages[0]["role"] == "system"
        text = self.start
        if has_system and self.system:
            text = messages[0]["content"].join(self.system)
        for index, message in enumerate(messages[has_system:]):
            if message["role"] == "assistant":
                text += self.answer
            elif index:
                text += self.question
            text += message["content"]
        return text + self.end

    def go_template(self) -> str:
        """Return the Go template."""
        start = _literal(self.start)
        if self.system:
            before, after = map(_literal, self.system)
            start = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{start}{{{{ end }}}}"
        return (
            f'{start}{{{{ $previous := "" }}}}{{{{ range .Messages }}}}'
            '{{ if eq .Role "user" }}'
            f'{{{{ if eq $previous "assistant" }}}}{_literal(self.question)}{{{{ end }}}}'
            "{{ .Content }}{{ $previous = .Role }}"
            '{{ else if eq .Role "assistant" }}'
            f"{_literal(self.answer)}{{{{ .Content }}}}{{{{ $previous = .Role }}}}"
            "{{ end }}{{ end }}"
            f'{{{{ if ne $previous "assistant" }}}}{_literal(self.end)}{{{{ end }}}}'
        )


def _literal(text: str) -> str:
    """Return a text as a Go template writes it."""
    return text.replace("{{", '{{ "{{" }}')


def find_delimiters(tokenizer: ChatTokenizer) -> Delimiters:
    """Return what the model's template writes between messages.

    Raises `ExportRefused` if fixed text between messages does not reproduce the template.
    """
    system, question, answer, following = (
        {"role": role, "content": text}
        for role, text in (("system", _SYSTEM), ("user", _QUESTION), ("assistant", _ANSWER), ("user", _NEXT))
    )
    start, between, again, end = _split(tokenizer, [question, answer, following])
    try:
        before, after, _ = _split(tokenizer, [system, question])
        opening = (before, after)
    except TemplateRefused:
        opening = None
    found = Delimiters(start, opening, between, again, end)
    chats = [[question], [question, answer, following], [question, answer, following, answer, question]]
    if opening:
        chats += [[system, *chat] for chat in chats]
    for chat in chats:
        written = _render(tokenizer, chat)
        if found.render(chat) != written:
            raise _refused(f"a chat of {plural(len(chat), 'message')}", found.render(chat), written)
    return found


def without_bos(delimiters: Delimiters, tokenizer: ChatTokenizer) -> Delimiters:
    """Return the delimiters without the first token if llama.cpp adds it itself."""
    token = tokenizer.token_id("bos_token")
    if token is None or not writes_bos_once(tokenizer):
        return delimiters
    bos = tokenizer.backend.id_to_token(token) or ""
    system = delimiters.system and (delimiters.system[0].removeprefix(bos), delimiters.system[1])
    return replace(delimiters, start=delimiters.start.removeprefix(bos), system=system)


def differences(tokenizer: ChatTokenizer, delimiters: Delimiters) -> list[str]:
    """Return what the Go template does not do as the model's own template does, as sentences."""
    question = [{"role": "user", "content": _SPACED}]
    found = ["The Modelfile's template writes no tools and no thoughts of earlier answers."]
    if delimiters.system is None:
        found.append("The model's template accepts no system message. Ollama leaves it out.")
    if _SPACED not in _render(tokenizer, question):
        found.append("The model's template removes spaces around messages. Ollama keeps them.")
    if _render(tokenizer, question) != _render(tokenizer.using({}, _ANOTHER_DAY), question):
        found.append("The model's template writes the current date. The Modelfile has the date of the export.")
    return found


def _render(tokenizer: ChatTokenizer, messages: Messages) -> str:
    return tokenizer.templates.render(messages, None, for_answer=True)


def _split(tokenizer: ChatTokenizer, messages: Messages) -> list[str]:
    """Return the texts around the contents of the messages."""
    rest, parts = _render(tokenizer, messages), []
    for message in messages:
        part, found, rest = rest.partition(message["content"])
        if not found:
            raise _refused(f"the content of a message of the role {message['role']}", message["content"], part)
        parts.append(part)
    return [*parts, rest]


def _refused(where: str, ours: str, theirs: str) -> ExportRefused:
    return ExportRefused(
        "export_unsupported_template",
        f"The chat template cannot be translated for Ollama: {where} would become {ours[:200]!r}, but the template "
        f"writes {theirs[:200]!r}. Export the model as `gguf`, which contains the template itself.",
    )
