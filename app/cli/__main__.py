"""Runs the `grouptune` command: `python -m app.cli`."""

from app.cli import main

main()
