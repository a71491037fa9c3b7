"""`python -m app.cli` is the `grouptune` command."""

from app.cli import main

main()
