"""Asks base model and fine-tuned model one held-out question, over the API that clients use."""

from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.ui.formatting import one_line
from app.client import Client

MAX_TOKENS: Final = 64
SILENCE_SECONDS: Final = 600.0
"""The first answer waits until the engine has loaded the model."""


class AskedQuestion(NamedTuple):
    """A question, its reference answer, and the answers of both models."""

    question: str
    reference: str
    base_model: str
    before: str
    model: str
    after: str

    def to_json(self) -> dict[str, Any]:
        """Return the part of `--json FILE`."""
        return self._asdict()

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=8, style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row("", f"[bold]{escape(self.question)}[/bold]  [dim]{escape(self.reference)}[/dim]")
        table.add_row("before", f"{escape(one_line(self.before))}  [dim]{escape(self.base_model)}[/dim]")
        table.add_row("after", f"{escape(one_line(self.after))}  [dim]{escape(self.model)}[/dim]")
        return table


def ask_both(client: Client, question: str, reference: str, base_model: str, model: str) -> AskedQuestion:
    """Ask both models for their most probable answer. Raises `ApiError` and `ServerUnreachable`."""
    before, after = (_ask(client, name, question) for name in (base_model, model))
    return AskedQuestion(question, reference, base_model, before, model, after)


def print_asked(asked: AskedQuestion, console: Console) -> None:
    """Print the question and both answers."""
    console.print()
    console.print("[bold]One held-out question, asked over POST /v1/chat/completions[/bold]")
    console.print(asked, soft_wrap=False)
    console.print()


def _ask(client: Client, model: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS, "stream": True}
    chunks = client.post_stream("/chat/completions", body, silence_seconds=SILENCE_SECONDS)
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
