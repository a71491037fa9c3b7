"""References to data sets on the hub."""

import pytest

from app.core.errors import InvalidRequest
from app.sources.hub_rows import HubReference


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:org/name", ("org/name", None, None)),
        ("hf:name", ("name", None, None)),
        ("hf:org/name:main", ("org/name", "main", None)),
        ("hf:org/name/test", ("org/name", None, "test")),
        ("hf:org/name:main/test", ("org/name", "main", "test")),
    ],
)
def test_parse_reference(text: str, parts: tuple[str, str | None, str | None]) -> None:
    assert HubReference.parse(text) == HubReference(*parts)
    for invalid in (f"{text} ", text.removeprefix("hf:"), "hf:", "hf:../x/y/z"):
        with pytest.raises(InvalidRequest, match="is not a data set"):
            HubReference.parse(invalid)
