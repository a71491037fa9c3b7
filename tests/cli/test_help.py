"""Help texts, complete at 80 columns, and messages about a wrong use."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from app.cli.root import app
from app.cli.ui.exits import ExitCode

GROUPS = [name for name, command in get_command(app).commands.items() if hasattr(command, "commands")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("group", [None, *GROUPS])
def test_no_description_is_cut_at_80_columns(group: str | None) -> None:
    words = ["--help"] if group is None else [group, "--help"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert shown.exit_code == 0
    commands = shown.output.partition("Commands:")[2].splitlines()
    assert commands
    assert [line for line in commands if line.endswith("...")] == []


@pytest.mark.parametrize("words", [[], ["jobs"], ["jobs", "create"]])
def test_short_option_shows_the_help(words: list[str]) -> None:
    long, short = (CliRunner().invoke(app, [*words, option]) for option in ("--help", "-h"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert "Usage: " in short.output


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_wrong_choice_reads_without_prefix(flags: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, ["jobs", "list", "--status", "nope", *flags])
    assert shown.exit_code == ExitCode.usage
    assert "Invalid value for '--status': 'nope' is not one of" in shown.output
