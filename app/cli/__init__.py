"""The `grouptune` command. It speaks to a server through the public API, and can start one on this machine."""

from app.cli.root import app


def main() -> None:
    """Entry point; exits with a code of `app.cli.ui.exits`."""
    app()


__all__ = ["main"]
