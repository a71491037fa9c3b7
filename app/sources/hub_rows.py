"""Streams rows of a data set from the Hugging Face hub (or `HF_ENDPOINT`). Never runs code of a data set."""

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
    """The data set could not be read from the hub."""

    code = "hub_unavailable"


@dataclass(frozen=True)
class HubReference:
    """Reference to the rows of a data set; `config` and `split` are None until they are resolved."""

    id: str
    config: str | None
    split: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `hf:org/name[:config][/split]`. Raises `InvalidRequest`."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            message = f"'{text}' is not a data set. Write hf:org/name, hf:org/name:config or hf:org/name:config/split."
            raise InvalidRequest(message, param="source")
        return cls(*match.groups())


def resolve(reference: HubReference) -> HubReference:
    """Return the reference with its config and split: the only one, else `default` and `train`.

    Raises `HubUnavailable`, and `InvalidRequest` with the configs or splits to choose from.
    """
    try:
        from datasets import get_dataset_config_names, get_dataset_split_names  # noqa: PLC0415 - an extra, and slow
        from huggingface_hub import HfApi  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidRequest("This command needs the library datasets. Run pip install 'grouptune[data]'.") from error
    try:
        # The only request with a timeout goes first, so that a machine without access to the hub fails quickly.
        HfApi().dataset_info(reference.id, timeout=HUB_TIMEOUT_SECONDS)
        configs = get_dataset_config_names(reference.id)
        config = _choose(reference.config, configs, "default", "config", f"hf:{reference.id}:{{}}")
        splits = get_dataset_split_names(reference.id, config)
    except InvalidRequest:
        raise
    except Exception as error:  # the exception types depend on the HTTP library of the installed hub client
        raise _unavailable(reference, error) from error
    split = _choose(reference.split, splits, "train", "split", f"hf:{reference.id}:{config}/{{}}")
    return HubReference(reference.id, config, split)


def rows(
    reference: HubReference, limit: int, columns: Mapping[str, str], dropped: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Yield the first `limit` rows as training rows; `columns` maps fields of a row to columns of the data set.

    All other columns, except those in `dropped`, keep their names, so that graders can use them (`item.*`). Raises
    `HubUnavailable`, and `InvalidRequest` for an unknown column and for a row that is not a valid training row.
    """
    from datasets import load_dataset  # noqa: PLC0415 - as above

    try:
        stream: Any = load_dataset(reference.id, reference.config, split=reference.split, streaming=True)
        kinds: dict[str, str] = {name: _kind(kind) for name, kind in (stream.features or {}).items()}
        _check_columns(kinds, columns, dropped)
        if dropped:
            stream = stream.remove_columns(sorted(dropped))
        for number, raw in enumerate(islice(stream, limit), start=1):
            yield _row(raw, number, columns, kinds)
    except (InvalidRequest, GeneratorExit):
        raise
    except Exception as error:  # as above
        raise _unavailable(reference, error) from error


def _row(raw: Mapping[str, Any], number: int, columns: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, Any]:
    from app.core.spec.rows import RowError, parse_row  # noqa: PLC0415 - imports pydantic, which other commands do not need

    row = {name: _plain(value, f"row {number}, column '{name}'") for name, value in raw.items() if value is not None}
    row |= {field: row[column] for field, column in columns.items() if column in row}
    try:
        parse_row(json.dumps(row, ensure_ascii=False), number)
    except RowError as error:
        hint = "" if row.get("messages") or row.get("prompt") else f" {_suggestion(kinds)}"
        raise InvalidRequest(
            f"Row {number} is not a valid training row: {error.message}.{hint}", param=error.param
        ) from None
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
    raise InvalidRequest(f"{place}: {type(value).__name__} is neither text nor a number. Leave it out: --drop {column}")


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if feature is not None else "unknown"


def _check_columns(kinds: Mapping[str, str], columns: Mapping[str, str], dropped: Collection[str]) -> None:
    for column in [*columns.values(), *dropped]:
        if kinds and column not in kinds:
            raise InvalidRequest(f"No column is called '{column}'. The columns are {', '.join(kinds)}.", param="column")
    if not {"messages", "prompt"} & {*columns, *(kinds.keys() - set(dropped))} and kinds:
        raise InvalidRequest(f"The data set has no column `messages` or `prompt`. {_suggestion(kinds)}", param="column")


def _suggestion(kinds: Mapping[str, str]) -> str:
    columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    texts = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
    fields = zip(("prompt", "completion"), texts, strict=False)
    example = " ".join(f"--column {field}={name}" for field, name in fields) or "--column messages=NAME"
    return f"The columns are {columns}. Map columns to fields, for example: {example}"


def _choose(requested: str | None, available: list[str], default: str, what: str, form: str) -> str:
    if requested is None and len(available) == 1:
        return available[0]
    choice = requested or default
    if choice in available:
        return choice
    reason = f"The data set has no {what} '{requested}'" if requested else f"The data set has several {what}s"
    examples = ", ".join(form.format(name) for name in available[:10])
    more = " ..." if len(available) > 10 else ""
    raise InvalidRequest(f"{reason}. Write one of {examples}{more}.", param="source")


def _unavailable(reference: HubReference, error: Exception) -> HubUnavailable:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return HubUnavailable(
        f"The data set '{reference.id}' could not be read from the hub: {reason.removesuffix('.')}. Check the name and "
        "the network (HF_ENDPOINT; HF_TOKEN for private and gated data sets), or download its JSONL or Parquet file "
        "elsewhere and upload it."
    )
