"""The base class of all contracts."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of all contracts: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
