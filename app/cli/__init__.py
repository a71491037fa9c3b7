"""The `grouptune` command: a client of the public API that can also start a server on this machine."""

from app.cli.root import app


def main() -> None:
    """Run the command line; exits with a code of `app.cli.ui.exits`."""
    app()


__all__ = ["main"]
