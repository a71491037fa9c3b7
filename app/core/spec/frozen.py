"""The base class of all contracts."""

from pydantic import ConfigDict

from app.core.spec.described import Described


class Frozen(Described):
    """Base of all contracts: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
