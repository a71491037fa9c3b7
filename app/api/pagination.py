"""Cursor pagination: `after` is the id of the last item of the previous page."""

from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query

from app.api.ids import MAX_ID
from app.core.spec.described import Described

MAX_LIMIT = 100
After = Annotated[str | None, Query(max_length=MAX_ID, description="Id of the last item of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of items per page.")]


class Item(Described):
    """An item of a list."""

    id: str
    """Identifies the object."""


ItemT = TypeVar("ItemT", bound=Item)


class Page(Described, Generic[ItemT]):
    """One page of a list. While `has_more` is true, request the next page with `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[ItemT]
    """The items of this page."""
    has_more: bool
    """Whether more items follow."""
    first_id: str | None
    """Id of the first item of this page; null if the page is empty."""
    last_id: str | None
    """Id of the last item of this page, for `after`; null if the page is empty."""


def page(items: list[ItemT], has_more: bool) -> Page[ItemT]:
    """Return the page that contains these items."""
    first, last = (items[0].id, items[-1].id) if items else (None, None)
    return Page(data=items, has_more=has_more, first_id=first, last_id=last)
