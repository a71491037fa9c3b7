"""Commands that messages suggest: they contain the --state-dir of the command that prints them."""

import shlex
from pathlib import Path


class _Given:
    """The options of this process that suggested commands repeat."""

    state_dir: Path | None = None


def remember_state_dir(state_dir: Path | None) -> Path | None:
    """Keep the value of --state-dir for `suggest`; return it. The callback of the option."""
    _Given.state_dir = state_dir
    return state_dir


def suggest(words: str) -> str:
    """Return the command `grouptune WORDS` that talks to the same installation, to be copied into a shell."""
    given = _Given.state_dir
    return f"grouptune {words}" if given is None else f"grouptune {words} --state-dir {shlex.quote(str(given))}"
