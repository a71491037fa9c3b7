"""Rows of a data set on the Hugging Face hub (or what `HF_ENDPOINT` names) as a stream. Runs no code of data sets."""

import datetime
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Self

from app.core.errors import GrouptuneError, InvalidRequest

MAX_ROWS: Final = 1_000_000
HUB_TIMEOUT_SECONDS: Final = 10
_REFERENCE: Final = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?(?:/([\w.-]+))?")
_NOT_TEXT: Final = ("Image", "Audio", "Video", "Pdf", "Nifti")


class HubUnavailable(GrouptuneError):
    """The hub did not give the data set."""

    code = "hub_unavailable"


@dataclass(frozen=True)
class Reference:
    """Which rows are meant."""

    id: str
    config: str | None
    split: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `hf:org/name[:config][/split]`. Raises `InvalidRequest`."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            message = f"'{text}' names no data set; write hf:org/name, hf:org/name:config or hf:org/name:config/split."
            raise InvalidRequest(message, param="source")
        return cls(*match.groups())


def find(asked: Reference) -> Reference:
    """The same with config and split decided: the only one, else `default` and `train`.

    Asks one bounded question first, so that a machine without a hub knows at once. Raises `HubUnavailable`, and
    `InvalidRequest` listing what there is.
    """
    try:
        from datasets import get_dataset_config_names, get_dataset_split_names  # noqa: PLC0415 - an extra, and slow
        from huggingface_hub import HfApi  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidRequest("This needs the library datasets: pip install 'grouptune[data]'.") from error
    try:
        HfApi().dataset_info(asked.id, timeout=HUB_TIMEOUT_SECONDS)
        configs = get_dataset_config_names(asked.id)
        config = _one(asked.config, configs, "default", "config", f"hf:{asked.id}:{{}}")
        splits = get_dataset_split_names(asked.id, config)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever the hub's client raises through the HTTP library of its version
        raise _unavailable(asked, error) from error
    split = _one(asked.split, splits, "train", "split", f"hf:{asked.id}:{config}/{{}}")
    return Reference(asked.id, config, split)


def rows(found: Reference, most: int, columns: Mapping[str, str], dropped: Collection[str]) -> Iterator[dict[str, Any]]:
    """The first `most` rows, each a training row; `columns` gives fields of ours a column of the data set.

    All other columns stay as they are called, for graders (`item.*`), but for those that are `dropped`. Raises
    `HubUnavailable`, and `InvalidRequest` for a column that is not there and for a row that is no training row.
    """
    from datasets import load_dataset  # noqa: PLC0415 - as above

    try:
        stream: Any = load_dataset(found.id, found.config, split=found.split, streaming=True)
        kinds: dict[str, str] = {name: _kind(kind) for name, kind in (stream.features or {}).items()}
        _check_columns(kinds, columns, dropped)
        if dropped:
            stream = stream.remove_columns(sorted(dropped))
        for number, raw in enumerate(islice(stream, most), start=1):
            yield _row(raw, number, columns, kinds)
    except (InvalidRequest, GeneratorExit):
        raise
    except Exception as error:  # as above
        raise _unavailable(found, error) from error


def _row(raw: Mapping[str, Any], number: int, columns: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, Any]:
    from app.core.spec.rows import RowError, parse_row  # noqa: PLC0415 - pydantic, for this command alone

    row = {name: _plain(value, f"row {number}, column '{name}'") for name, value in raw.items() if value is not None}
    row |= {field: row[column] for field, column in columns.items() if column in row}
    try:
        parse_row(json.dumps(row, ensure_ascii=False), number)
    except RowError as error:
        hint = "" if row.get("messages") or row.get("prompt") else f" {_suggestion(kinds)}"
        raise InvalidRequest(f"row {number} is no training row: {error.message}.{hint}", param=error.param) from None
    return row


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, place) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, place) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    column = place.rpartition(" ")[2].strip("'")
    raise InvalidRequest(f"{place}: {type(value).__name__} is neither text nor a number; leave it out: --drop {column}")


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if feature is not None else "unknown"


def _check_columns(kinds: Mapping[str, str], columns: Mapping[str, str], dropped: Collection[str]) -> None:
    for column in [*columns.values(), *dropped]:
        if kinds and column not in kinds:
            raise InvalidRequest(f"There is no column '{column}'; there are {', '.join(kinds)}.", param="column")
    if not {"messages", "prompt"} & {*columns, *(kinds.keys() - set(dropped))} and kinds:
        raise InvalidRequest(f"No column is called `messages` or `prompt`. {_suggestion(kinds)}", param="column")


def _suggestion(kinds: Mapping[str, str]) -> str:
    there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    texts = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
    fields = zip(("prompt", "completion"), texts, strict=False)
    example = " ".join(f"--column {field}={name}" for field, name in fields) or "--column messages=NAME"
    return f"The columns are {there}. Say which is which, as in: {example}"


def _one(asked: str | None, there: list[str], usual: str, what: str, form: str) -> str:
    if asked is None and len(there) == 1:
        return there[0]
    chosen = asked or usual
    if chosen in there:
        return chosen
    missing = f"There is no {what} '{asked}'" if asked else f"There are several {what}s"
    examples = ", ".join(form.format(name) for name in there[:10])
    raise InvalidRequest(f"{missing}; write one of {examples}{' ...' if len(there) > 10 else ''}.", param="source")


def _unavailable(asked: Reference, error: Exception) -> HubUnavailable:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return HubUnavailable(
        f"The data set '{asked.id}' could not be read from the hub: {first.removesuffix('.')}. Check the name and the "
        "network (HF_ENDPOINT; HF_TOKEN for private and gated ones), or download it elsewhere and upload its JSONL or "
        "Parquet file."
    )
