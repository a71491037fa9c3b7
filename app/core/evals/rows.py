"""Reads the rows of a run's data source: OpenAI's lines `{"item": ..., "sample": ...}`, or the rows of training files.

Every row is checked before the run is accepted, so that a run never ends in errors that its creation could have named.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from pydantic import ValidationError

from app.core.deadline import check_deadline
from app.core.errors import InvalidRequest
from app.core.graders.types import Sample
from app.core.plurals import plural
from app.core.spec.json_lines import Refused, lines, load_object
from app.core.spec.teacher_answers import storable
from app.core.spec.templates import Variable

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 64 * 1024**2
"""Size of all rows of a run as JSON."""
_UNSTORABLE: Final = re.compile(r"\\u(0000|d[89a-f])")
"""JSON escapes of characters that Postgres may refuse. Nearly every row has none, which saves a walk."""
SAMPLE_FIELDS: Final = ("output_text", "output_tools", "output_reasoning", "choices")


@dataclass(frozen=True)
class SourceRow:
    """One row of a data source."""

    place: str
    """For messages: "Line 3", "Row 3"."""
    param: str
    """Field of the request that contains the row."""
    item: dict[str, Any]
    given: dict[str, Any] | None = None
    """The row's own `sample`."""

    def error(self, problem: str, code: str = "invalid_eval_row") -> InvalidRequest:
        """Return the error of this row; `problem` is a sentence that says how to fix it."""
        return InvalidRequest(f"{self.place}: {problem}", param=self.param, code=code)

    def lookup(self, variable: Variable) -> Any:
        """Return the value of an item's field. Raises `InvalidRequest` if it is missing or null."""
        value: Any = self.item
        for step in variable.path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                value = None
            if value is None:
                raise self.error(
                    f"the item has no field `{variable}`. Add it, or use one of: {', '.join(self.item) or 'none'}.",
                    "missing_item_field",
                )
        return value

    def sample(self) -> Sample | None:
        """Return the row's own answer. Raises `InvalidRequest` for a sample that graders cannot read."""
        if self.given is None:
            return None
        if unknown := sorted(set(self.given) - {*SAMPLE_FIELDS, "output_json"}):
            raise self.error(f"`sample.{unknown[0]}` is unknown. Use {', '.join(SAMPLE_FIELDS)}.")
        parts = {name: self.given[name] for name in SAMPLE_FIELDS if self.given.get(name) is not None}
        if "output_text" not in parts:
            parts["output_text"] = self._text()
        try:
            return Sample.model_validate(parts)
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(str(step) for step in first["loc"])
            raise self.error(f"`sample.{path}` is not valid: {first['msg']}.") from None

    def _text(self) -> str:
        """Return the answer's text from the other fields of a sample without `output_text`."""
        given = self.given or {}
        if given.get("output_json") is not None:
            return json.dumps(given["output_json"], ensure_ascii=False)
        try:
            content = given["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            content = None
        if not isinstance(content, str):
            raise self.error("`sample.output_text` is missing. Add the text of the answer.")
        return content


@dataclass(frozen=True)
class RowDigest:
    """Size and identity of all rows."""

    count: int
    bytes: int
    sha256: str
    """Over the items alone, so that runs of different models on the same items have the same digest."""


def of_file(stream: BinaryIO, param: str) -> Iterator[SourceRow]:
    """Yield the rows of a JSONL file, with blank lines skipped. Raises `InvalidRequest`."""
    for line in lines(stream):
        if not line.content.strip():
            continue
        place = f"Line {line.number}"
        try:
            written = load_object(line.content)
        except Refused as refused:
            raise InvalidRequest(f"{place}: {refused.message}.", param=param, code="invalid_eval_row") from None
        yield _row(written, place, param)


def of_content(content: Sequence[Mapping[str, Any]], param: str) -> Iterator[SourceRow]:
    """Yield the rows in a request; `param` is the path of the list."""
    for index, row in enumerate(content):
        yield SourceRow(f"Row {index + 1}", f"{param}.{index}.item", dict(row["item"]), row.get("sample"))


def _row(written: dict[str, Any], place: str, param: str) -> SourceRow:
    row = SourceRow(place, param, {})
    if others := sorted(set(written) - {"item", "sample"}):
        if isinstance(written.get("item"), dict) and not {"messages", "prompt", "input"} & set(written):
            raise row.error(f"`{others[0]}` stands next to `item`. Move it into `item`, or remove it.")
        return SourceRow(place, param, written)  # a row in the format of training files
    if "item" not in written:
        return SourceRow(place, param, written)
    for name in ("item", "sample"):
        if written.get(name) is not None and not isinstance(written[name], dict):
            raise row.error(f"`{name}` must be an object.")
    return SourceRow(place, param, written["item"] or {}, written.get("sample"))


def _is_storable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_storable(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return all(map(_is_storable, value))
    return not isinstance(value, str) or storable(value) == value


def collect(rows: Iterable[SourceRow], param: str) -> tuple[list[SourceRow], RowDigest]:
    """Return the rows and their digest.

    Raises `InvalidRequest` for none and for more than a run may have, and `TimeoutError` past the thread's deadline.
    """
    kept: list[SourceRow] = []
    size, digest = 0, hashlib.sha256()
    for row in rows:
        check_deadline()
        text = json.dumps(row.item, sort_keys=True, ensure_ascii=True)
        given = json.dumps(row.given or {})
        if _UNSTORABLE.search(text + given) and not (_is_storable(row.item) and _is_storable(row.given)):
            raise row.error("the row contains a NUL or half a surrogate pair, which cannot be stored. Remove it.")
        size += len(text) + len(given)
        digest.update(text.encode() + b"\n")
        kept.append(row)
        if len(kept) > MAX_ROWS:
            message = f"The data source has more than {plural(MAX_ROWS, 'row')}. Split it into several runs."
            raise InvalidRequest(message, param=param, code="too_many_rows")
        if size > MAX_BYTES:
            message = f"The rows have more than {MAX_BYTES // 1024**2} MiB. Split them into several runs."
            raise InvalidRequest(message, param=param, code="too_many_rows")
    if not kept:
        raise InvalidRequest("The data source has no rows. Add at least one.", param=param, code="no_rows")
    return kept, RowDigest(len(kept), size, digest.hexdigest())
