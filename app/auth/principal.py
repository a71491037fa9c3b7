"""The caller of a request, once known."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Principal:
    """On whose behalf a request acts; every query is scoped by `project_id`."""

    project_id: str
    project_name: str
    key_id: str
