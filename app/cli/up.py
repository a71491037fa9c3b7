"""`grouptune up`, and the stack as every command starts it."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from app.cli import configuration
from app.cli.dashboard import link
from app.cli.ui.console import Progress, Steps, err, note, write_line
from app.client import Client, is_loopback

if TYPE_CHECKING:
    from app.local.stack import Stack

InstallationDir = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Where the installation keeps its data.", file_okay=False),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; a free one if absent.", min=1, max=65535)]


def make_stack(state_dir: Path | None, host: str, port: int | None, progress: Progress) -> "Stack":
    """The installation in `state_dir` (the configured one if None), not started yet.

    On a `host` that other machines can reach it starts only once a key was minted for them.
    """
    config = configuration.load()
    # SQLAlchemy and psycopg take half a second to load, which the client commands need not pay.
    installation = import_module("app.cli.installation")
    stack: type[Stack] = import_module("app.local.stack").Stack
    return stack(
        state_dir or config.state_dir,
        migrate=installation.upgrade,
        bootstrap=installation.bootstrap if is_loopback(host) else installation.bootstrap_for_network,
        database_url=config.database_url,
        redis_url=config.redis_url,
        host=host,
        port=port,
        progress=progress,
    )


def up(state_dir: InstallationDir = None, host: Host = "127.0.0.1", port: Port = None) -> None:
    """Start Postgres, Valkey, the API and the workers; Ctrl-C stops them all."""
    with suppress(KeyboardInterrupt), Steps() as tell, make_stack(state_dir, host, port, tell) as stack:
        tell.settle()
        announce(stack)
        write_line(stack.base_url)
        stack.wait()
    note("Stopped.")


def announce(stack: "Stack") -> None:
    """Says where the API is and how a script reaches it."""
    err.print(f"[bold green]Grouptune is up.[/bold green] API: [bold]{escape(stack.base_url)}[/bold]")
    with Client(stack.base_url, stack.api_key) as client:
        err.print("The dashboard, signed in once, within ten minutes:")
        err.print(f"    [bold]{escape(link(client))}[/bold]\n", soft_wrap=True)
    key, logs = (escape(str(path)) for path in (stack.key_path, stack.state_dir / "logs"))
    err.print(f"The API key is in {key}, the logs are in {logs}.\n")
    for line in snippet(stack.base_url, stack.key_path).splitlines():
        err.print(f"    [cyan]{escape(line)}[/cyan]")
    err.print("\nCtrl-C stops everything.")


def snippet(base_url: str, key_path: Path) -> str:
    """Python lines that reach this server with OpenAI's SDK, to be copied."""
    return (
        "from pathlib import Path\n"
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url}",\n'
        f'                api_key=Path("{key_path}").read_text().strip())\n'
        'client.files.create(file=open("train.jsonl", "rb"), purpose="fine-tune")'
    )
