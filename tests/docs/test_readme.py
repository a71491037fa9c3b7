"""README is short and answers a newcomer's questions in their order."""

import re
from typing import Final

from tests.docs.named_tests import TESTS

README: Final = (TESTS.parent / "README.md").read_text(encoding="utf-8")
MAX_WORDS: Final = 600


def test_readme_is_short() -> None:
    assert len(README.split()) <= MAX_WORDS


def test_readme_answers_in_order() -> None:
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert headings[:4] == ["Install", "Who it is for", "Why GFT", "Supported platforms"]
    assert README.index("docs/demo.svg") < README.index("## Install")
