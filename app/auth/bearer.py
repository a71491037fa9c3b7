"""Finds out who sends a request, from its bearer key."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth.principal import Principal
from app.core.accounts import api_keys
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.errors import AuthenticationFailed

_scheme = HTTPBearer(auto_error=False, description="An API key of this server, `gt_live_...`")


def principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)]
) -> Principal:
    """The caller. Raises `AuthenticationFailed`."""
    if credentials is None:
        raise AuthenticationFailed
    database: Database = request.app.state.database
    with database.transaction() as session:
        key = api_keys.authenticate(session, credentials.credentials)
        project = session.get_one(Project, key.project_id)
        return Principal(project_id=project.id, project_name=project.name, key_id=key.id)


Caller = Annotated[Principal, Depends(principal)]
"""Annotate a handler's parameter with it: the route then requires a key."""
