"""`/v1/model_aliases`: a project's own names for its models, such as `prod`."""

from fastapi import APIRouter

from app.api.deps import Config, Db, Models
from app.api.ids import AliasName, NewAlias
from app.api.schemas.model_aliases import AliasDeleted, AliasList, AliasObject, MoveAlias
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope
from app.core.models import aliases

router = APIRouter(prefix="/model_aliases", tags=["Models"])


@router.get("", dependencies=[needs(Scope.models_read)])
def list_aliases(caller: Caller, database: Db) -> AliasList:
    """List the project's aliases by name, each with its model."""
    with database.reading() as session:
        return AliasList(data=[AliasObject.of(alias) for alias in aliases.list_aliases(session, caller.project_id)])


@router.get("/{alias}", dependencies=[needs(Scope.models_read)])
def retrieve_alias(caller: Caller, alias: AliasName, database: Db) -> AliasObject:
    """Retrieve an alias."""
    with database.reading() as session:
        return AliasObject.of(aliases.get_alias(session, caller.project_id, alias))


# `:path`, so that a name with "/" is refused as a name, not as an unknown route.
@router.put("/{alias:path}", dependencies=[needs(Scope.models_write)])
def move_alias(
    caller: Caller, alias: NewAlias, body: MoveAlias, database: Db, settings: Config, models: Models
) -> AliasObject:
    """Point an alias to one of the project's models, creating the alias if needed. Jobs and downloads follow it."""
    aliases.check_name(alias, settings.models_dir, settings.model_aliases)
    with database.transaction() as session:
        current = aliases.find_alias(session, caller.project_id, alias)
        before = None if current is None else audit.snapshot(current, "model")
        moved = aliases.move(session, caller.project_id, alias, body.model)
        after = audit.snapshot(moved, "model")
        audit.record(session, caller.actor, Action.alias_move, alias, before=before, after=after)
        answer = AliasObject.of(moved)
    models.clear()
    return answer


@router.delete("/{alias}", dependencies=[needs(Scope.models_write)])
def delete_alias(caller: Caller, alias: AliasName, database: Db, models: Models) -> AliasDeleted:
    """Delete an alias. The model is not deleted."""
    with database.transaction() as session:
        removed = aliases.remove(session, caller.project_id, alias)
        before = audit.snapshot(removed, "model")
        audit.record(session, caller.actor, Action.alias_delete, alias, before=before)
    models.clear()
    return AliasDeleted(id=alias)
