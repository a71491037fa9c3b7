"""`grouptune chat`: asks a model one question, or holds a conversation in the terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.markup import escape

from app.cli.connection import connect
from app.cli.ui.console import err, fail, note, out
from app.cli.ui.options import StateDir
from app.client import Client, Json
from app.core.errors import GrouptuneError
from app.core.plurals import plural

SILENCE_SECONDS: Final = 600.0
"""The first answer of a model waits until its engine has loaded it."""
_CONTROLS: Final = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, which could move the cursor or change the terminal: a model may write any text."""
_HELP: Final = """\
/system TEXT   set the system prompt; without text, remove it
/retry         ask the last question again
/undo          forget the last question and its answer
/reset         forget the conversation
/quit          end (also Ctrl-D)
Ctrl-C stops an answer. \"\"\" starts and ends a message of several lines."""


class EmptyPrompt(GrouptuneError):
    """The prompt is empty. Give it as an argument or on standard input."""

    code = "empty_prompt"


class Answer(NamedTuple):
    """What a model has answered."""

    text: str
    finish_reason: str | None
    """None if the answer was stopped before its end."""
    tokens: int
    seconds: float


@dataclass
class Conversation:
    """The messages so far, and how answers are sampled."""

    client: Client
    model: str
    sampling: Json
    system: str | None = None
    messages: list[Json] = field(default_factory=list)

    def ask(self, question: str, show: "AnswerPrinter") -> Answer:
        """Send the question with the conversation, and show the answer while it arrives.

        An error leaves the conversation as it was. An interrupt ends the answer, and its first part is kept.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        answer = self._answer(messages, show)
        if answer.text or answer.finish_reason:
            self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer

    def undo(self) -> str | None:
        """Remove the last question and its answer; return the question, or None if there is none."""
        if not self.messages:
            return None
        question: str = self.messages[-2]["content"]
        del self.messages[-2:]
        return question

    def _answer(self, messages: list[Json], show: "AnswerPrinter") -> Answer:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {"model": self.model, "messages": system + messages, "stream": True, **self.sampling}
        body["stream_options"] = {"include_usage": True}
        started, finish_reason, tokens = time.monotonic(), None, 0
        chunks = self.client.post_stream("/chat/completions", body, silence_seconds=SILENCE_SECONDS)
        with closing(chunks), show:
            try:
                for chunk in chunks:
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
                    for choice in chunk["choices"]:
                        show.delta(choice["delta"])
                        finish_reason = choice.get("finish_reason") or finish_reason
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise  # in a script an interrupt ends the command
        return Answer(show.text, finish_reason, tokens, time.monotonic() - started)


class AnswerPrinter:
    """Prints an answer piece by piece: text on standard output, thoughts and tool calls dimmed on standard error."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._is_thinking = False

    def __enter__(self) -> "AnswerPrinter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end_thoughts()
        if not self.text.endswith("\n") and (self._parts or kind is None):
            self._write("\n")
        sys.stdout.flush()

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def delta(self, delta: Json) -> None:
        """Print one piece."""
        if thought := delta.get("reasoning_content"):
            self._is_thinking = True
            self._dim(thought)
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            self._is_thinking = True
            self._dim((f"\n{function['name']} " if function.get("name") else "") + (function.get("arguments") or ""))
        if text := delta.get("content"):
            self._end_thoughts()
            self._parts.append(text)
            self._write(text)

    def _write(self, text: str) -> None:
        sys.stdout.write(text.translate(_CONTROLS) if out.is_terminal else text)
        sys.stdout.flush()

    def _dim(self, text: str) -> None:
        err.print(f"[dim]{escape(text.translate(_CONTROLS))}[/dim]", end="")

    def _end_thoughts(self) -> None:
        if self._is_thinking:
            self._is_thinking = False
            err.print("\n")


def chat(
    model: Annotated[str, typer.Argument(help="Base model, fine-tuned model (ft:...), checkpoint or alias.")],
    prompt: Annotated[
        str | None, typer.Argument(help="Ask this one question and exit. Default: standard input, or a conversation.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.", metavar="TEXT")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 always takes the most probable token.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Share of the most probable tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum number of tokens in the answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; the same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; up to four times.")] = None,
    state_dir: StateDir = None,
) -> None:
    """Ask a model, or hold a conversation with it. Thoughts go to standard error, the answer to standard output."""
    sent = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed, "stop": stop or None}
    sampling = {name: value for name, value in sent.items() if value is not None}
    with connect(state_dir) as client:
        conversation = Conversation(client, model, sampling, system)
        if prompt is None and sys.stdin.isatty():
            _converse(conversation)
            return
        question = sys.stdin.read() if prompt in (None, "-") else prompt
        if not question or not question.strip():
            raise EmptyPrompt
        _report(conversation.ask(question, AnswerPrinter()))


def _report(answer: Answer) -> None:
    if answer.finish_reason == "length":
        note("The answer reached the token limit. Raise it with --max-tokens.")


def _converse(conversation: Conversation) -> None:
    """Read questions and commands until the end of the input."""
    with suppress(ImportError):  # line editing and history, where Python has it
        __import__("readline")
    err.print(f"[bold]{escape(conversation.model)}[/bold]  [dim]/help lists the commands[/dim]")
    for line in _lines():
        if line.startswith("/"):
            if not _command(conversation, line):
                return
        else:
            _turn(conversation, line)


def _lines() -> Iterator[str]:
    """Yield what the user enters; text between lines of triple quotes is one entry."""
    while True:
        try:
            line = input("> ").strip()
            if line.startswith('"""'):
                line = _block(line.removeprefix('"""'))
        except KeyboardInterrupt:
            err.print("\n[dim]Ctrl-D or /quit ends the conversation.[/dim]")
            continue
        except EOFError:
            err.print()
            return
        if line:
            yield line


def _block(first: str) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith('"""'):
        lines.append(input(". "))
    return "\n".join(lines).rstrip().removesuffix('"""').strip()


def _turn(conversation: Conversation, question: str) -> None:
    try:
        answer = conversation.ask(question, AnswerPrinter())
    except GrouptuneError as error:
        fail(str(error), param=error.param)
        return
    if answer.finish_reason is None:
        note("Stopped.")
    else:
        rate = answer.tokens / max(answer.seconds, 1e-3)
        err.print(f"[dim]{plural(answer.tokens, 'token')}, {rate:.0f} tokens/s, {answer.finish_reason}[/dim]")


def _command(conversation: Conversation, line: str) -> bool:
    """Run a command; return whether the conversation continues."""
    name, _, rest = line.partition(" ")
    if name in ("/quit", "/exit", "/bye"):
        return False
    commands: dict[str, Callable[[], Any]] = {
        "/help": lambda: note(_HELP),
        "/system": lambda: _set_system(conversation, rest.strip()),
        "/retry": lambda: _retry(conversation),
        "/undo": lambda: note("Nothing to forget." if conversation.undo() is None else "Forgotten."),
        "/reset": lambda: _reset(conversation),
    }
    if name in commands:
        commands[name]()
    else:
        note(f"There is no command {name}. /help lists the commands.")
    return True


def _reset(conversation: Conversation) -> None:
    conversation.messages = []
    note("The conversation is empty.")


def _set_system(conversation: Conversation, text: str) -> None:
    conversation.system = text or None
    note("The system prompt is set." if text else "There is no system prompt now.")


def _retry(conversation: Conversation) -> None:
    before = list(conversation.messages)
    question = conversation.undo()
    if question is None:
        note("There is no question yet.")
        return
    _turn(conversation, question)
    if len(conversation.messages) < len(before):  # the retry failed or was stopped at once
        conversation.messages = before
