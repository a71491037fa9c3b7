"""Usage of inference in OpenAI's shape: of all projects for administrators, and of the caller's own project."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query, Request

from app.api.deps import Db
from app.api.ids import MAX_ID, MAX_MODEL_NAME
from app.api.schemas.usage import UsageBucket, UsagePage
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.inference import usage
from app.core.inference.usage import UsageFilter

router = APIRouter(tags=["Usage"])

MAX_TIME: Final = 32_503_679_999
"""The end of the year 2999 in Unix seconds: Python's dates end with 9999, and a page reaches beyond its start."""
MAX_NAMES: Final = 100


class _Width(NamedTuple):
    length: timedelta
    default: int
    """Buckets per page."""
    maximum: int


WIDTHS: Final = {
    "1m": _Width(timedelta(minutes=1), 60, 1440),
    "1h": _Width(timedelta(hours=1), 24, 168),
    "1d": _Width(timedelta(days=1), 7, 31),
}
"""OpenAI's widths of buckets."""
Group = Literal["project_id", "api_key_id", "model"]
Ids = Annotated[list[Annotated[str, Query(max_length=MAX_ID)]], Query(max_length=MAX_NAMES)]


class UsageQuery(NamedTuple):
    """A report to make."""

    start: datetime
    """Where the page starts."""
    end: datetime
    width: _Width
    limit: int
    only: UsageFilter
    group_by: tuple[str, ...]


def _listed(name: str, kind: Any, description: str) -> Any:
    """Return a list parameter `name`. OpenAI's SDK writes `name[]=a&name[]=b`, people write `name=a&name=b`."""

    async def read(
        plain: Annotated[list[kind] | None, Query(alias=name, max_length=MAX_NAMES, description=description)] = None,
        bracketed: Annotated[
            list[kind] | None, Query(alias=f"{name}[]", max_length=MAX_NAMES, include_in_schema=False)
        ] = None,
    ) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(plain or ()), *(bracketed or ())]))

    return Depends(read)


_Id = Annotated[str, Query(max_length=MAX_ID)]
_Model = Annotated[str, Query(max_length=MAX_MODEL_NAME)]
_KNOWN: Final = {
    *("start_time", "end_time", "bucket_width", "limit", "page"),
    *("project_ids", "api_key_ids", "models", "group_by"),
}


async def _query(
    request: Request,
    start_time: Annotated[int, Query(ge=0, le=MAX_TIME, description="Unix seconds, inclusive.")],
    api_key_ids: Annotated[tuple[str, ...], _listed("api_key_ids", _Id, "Only usage by these keys.")],
    models: Annotated[tuple[str, ...], _listed("models", _Model, "Only usage of these models.")],
    group_by: Annotated[tuple[str, ...], _listed("group_by", Group, "Fields to group the usage by.")],
    project_ids: Annotated[tuple[str, ...], _listed("project_ids", _Id, "Only usage by these projects.")],
    end_time: Annotated[
        int | None, Query(ge=0, le=MAX_TIME, description="Unix seconds, exclusive; by default the current time.")
    ] = None,
    bucket_width: Annotated[
        Literal["1m", "1h", "1d"], Query(description="Buckets start at whole units in UTC.")
    ] = "1d",
    limit: Annotated[int | None, Query(ge=1, le=1440, description="Number of buckets per page.")] = None,
    page: Annotated[
        str | None,
        Query(pattern=r"^page_\d{1,12}$", max_length=MAX_ID, description="`next_page` of the previous page."),
    ] = None,
) -> UsageQuery:
    unknown = {name.removesuffix("[]") for name in request.query_params} - _KNOWN
    if unknown:
        name = min(unknown)
        raise InvalidRequest(
            f"The query parameter '{name}' is not supported. Use {', '.join(sorted(_KNOWN))}.", param=name
        )
    width = WIDTHS[bucket_width]
    if limit is not None and limit > width.maximum:
        raise InvalidRequest(f"'limit' is at most {width.maximum} for buckets of {bucket_width}.", param="limit")
    start = _moment(_start_of(page) if page else start_time)
    end = datetime.now(UTC) + timedelta(minutes=1) if end_time is None else _moment(end_time)
    if start >= end:
        raise InvalidRequest("'end_time' must be later than 'start_time' and than 'page'.", param="end_time")
    only = UsageFilter(project_ids, api_key_ids, models)
    return UsageQuery(start, end, width, limit or width.default, only, group_by)


Report = Annotated[UsageQuery, Depends(_query)]


def _start_of(page: str) -> int:
    if (start := int(page.removeprefix("page_"))) > MAX_TIME:
        raise InvalidRequest(f"'{page}' is no page. Send `next_page` of the previous page.", param="page")
    return start


def _moment(unix_seconds: int) -> datetime:
    # Usage is stored by minute, so an earlier second of the same minute asks for the same rows.
    return datetime.fromtimestamp(unix_seconds - unix_seconds % 60, UTC)


@router.get("/organization/usage/completions", dependencies=[needs(Scope.admin)])
def list_organization_usage(query: Report, database: Db) -> UsagePage:
    """Report requests and tokens of all projects: chat completions, completions and responses together."""
    return _page(database, query)


@router.get("/usage/completions", dependencies=[needs(Scope.models_read)])
def list_usage(caller: Caller, query: Report, database: Db) -> UsagePage:
    """Report requests and tokens of your own project, like `/organization/usage/completions` for all projects."""
    foreign = set(query.only.project_ids) - {caller.project_id}
    if foreign:
        raise InvalidRequest(
            f"'{min(foreign)}' is not the project of this key. GET /v1/organization/usage/completions reports all "
            "projects, with the scope `admin`.",
            param="project_ids",
        )
    return _page(database, query._replace(only=replace(query.only, project_ids=(caller.project_id,))))


def _page(database: Database, query: UsageQuery) -> UsagePage:
    width = query.width.length
    first = usage.bucket_start(query.start, width)
    starts = [first + number * width for number in range(query.limit)]
    starts = [start for start in starts if start < query.end]
    end = min(starts[-1] + width, query.end)
    with database.reading() as session:
        sums = usage.report(session, query.start, end, width, only=query.only, group_by=query.group_by)
    buckets = [
        UsageBucket.of(max(start, query.start), min(start + width, end), sums.get(start, [])) for start in starts
    ]
    has_more = end < query.end
    return UsagePage(data=buckets, has_more=has_more, next_page=f"page_{int(end.timestamp())}" if has_more else None)
