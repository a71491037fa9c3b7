"""Refuses halves of surrogate pairs in requests.

JSON may contain them (a JavaScript string that was cut within an emoji), but they are no text: neither tokenizers nor
responses can encode them. Pydantic refuses them in texts with a limit, and not within `dict[str, Any]`.
"""

from typing import Any

from pydantic import BaseModel

from app.core.errors import InvalidRequest


def check_characters(body: BaseModel) -> None:
    """Raises `InvalidRequest` with the path of a text that has half a surrogate pair."""
    left: list[tuple[str, Any]] = [("", body)]
    while left:
        place, value = left.pop()
        if isinstance(value, str):
            _check(value, place)
            continue
        for name, part in _parts(value):
            path = f"{place}.{name}" if place else str(name)
            if isinstance(name, str) and not name.isascii():
                _check(name, place)
            if isinstance(part, dict | list | BaseModel) or (isinstance(part, str) and not part.isascii()):
                left.append((path, part))


def _parts(value: Any) -> Any:
    """Return pairs of name and value; a field's name is the one that the client sends."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return [(fields[name].alias or name, part) for name, part in value]
    return value.items() if isinstance(value, dict) else enumerate(value)


def _check(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"'{place}' contains half a surrogate pair (a character such as an emoji was cut in two). Send whole "
            "characters.",
            param=place,
        ) from None
