"""`grouptune up`: starts the whole service on this machine."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from app.cli.connection import load_settings
from app.cli.dashboard import link
from app.cli.machine import require_stack
from app.cli.ui.console import ReportProgress, StatusLine, err, note, write_line
from app.cli.ui.options import Host, InstallationDir, Port
from app.client import Client, is_loopback
from app.core.errors import GrouptuneError

if TYPE_CHECKING:
    from app.local.stack import Stack


def make_stack(state_dir: Path | None, host: str, port: int | None, progress: ReportProgress) -> "Stack":
    """Build the stack of `state_dir` (None: the configured directory) without starting it.

    Raises `BadSetup`, before anything is created, if the platform or a package is missing.
    On a `host` that other machines can reach, it starts only if an operator has created an API key.
    """
    config = load_settings()
    require_stack("The service", config)
    # Imported here: SQLAlchemy and psycopg take half a second to load, which would slow down client commands.
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
    """Start Postgres, Valkey, the API and the workers. Ctrl-C stops them."""
    with suppress(KeyboardInterrupt), StatusLine() as progress, make_stack(state_dir, host, port, progress) as stack:
        progress.settle()
        announce(stack)
        write_line(stack.base_url)
        stack.wait()
    note("Stopped.")


def announce(stack: "Stack") -> None:
    """Print the addresses of the API and the dashboard, and a code snippet for clients."""
    err.print(f"[bold green]Grouptune is up.[/bold green] API: [bold]{escape(stack.base_url)}[/bold]")
    _announce_dashboard(stack)
    key, logs = (escape(str(path)) for path in (stack.key_path, stack.state_dir / "logs"))
    docs = f"{stack.base_url.removesuffix('v1')}docs/"
    err.print(f"API key: {key}\nLogs:    {logs}\nDocs:    {docs}\n", soft_wrap=True)
    for line in snippet(stack.base_url, stack.key_path).splitlines():
        err.print(f"    [cyan]{escape(line)}[/cyan]")
    err.print("\nPress Ctrl-C to stop.")


def _announce_dashboard(stack: "Stack") -> None:
    with Client(stack.base_url, stack.api_key) as client:
        try:
            address = link(client)
        except GrouptuneError:  # a part may have ended just now: it is restarted, and the service runs without a link
            err.print(f"For a link to the dashboard: grouptune dashboard --state-dir {escape(str(stack.state_dir))}\n")
            return
    err.print("Dashboard (the link signs in one browser, within ten minutes):")
    err.print(f"    [bold]{escape(address)}[/bold]\n", soft_wrap=True)


def snippet(base_url: str, key_path: Path) -> str:
    """Return Python code, to copy, that uploads a file to this server with OpenAI's SDK."""
    return (
        "from pathlib import Path\n"
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url}",\n'
        f'                api_key=Path("{key_path}").read_text().strip())\n'
        'client.files.create(file=open("train.jsonl", "rb"), purpose="fine-tune")'
    )
