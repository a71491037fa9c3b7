"""`/v1/evals`: criteria for the answers of models, in OpenAI's format."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from app.api.deps import Config, Db, Strict
from app.api.ids import EvalId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.evals import CreateEval, EvalDeleted, EvalObject, UpdateEval
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.evals import checks, records
from app.core.jobs.grader_services import check_services

router = APIRouter(prefix="/evals", tags=["Evals"])

Order = Annotated[Literal["asc", "desc"], Query(description="Oldest or newest first.")]
OrderBy = Annotated[Literal["created_at", "updated_at"], Query(description="The time to order by.")]


@router.post("", status_code=201, dependencies=[needs(Scope.jobs_write)])
def create_eval(caller: Caller, body: CreateEval, database: Db, settings: Config, strict: Strict = False) -> EvalObject:
    """Create an eval: graders, and the schema of the rows that they apply to. Its runs grade answers."""
    for index, grader in enumerate(body.testing_criteria):
        check_services(grader, f"testing_criteria.{index}", settings.judge_url, settings.private_hosts)
    checks.check_criteria(body.testing_criteria, body.data_source_config.item_schema)
    criteria = [grader.model_dump(mode="json", by_alias=True, exclude_none=True) for grader in body.testing_criteria]
    with database.transaction() as session:
        created = records.create(
            session,
            caller.actor,
            name=body.name,
            data_source_config=body.data_source_config.model_dump(mode="json"),
            testing_criteria=criteria,
            labels=body.metadata,
        )
    return EvalObject.of(created, strict=strict)


@router.get("", dependencies=[needs(Scope.jobs_read)])
def list_evals(
    caller: Caller,
    database: Db,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    order_by: OrderBy = "created_at",
    strict: Strict = False,
) -> Page[EvalObject]:
    """List the project's evals."""
    with database.reading() as session:
        found, more = records.list_evals(
            session, caller.project_id, after=after, limit=limit, order=order, order_by=order_by
        )
    return page([EvalObject.of(each, strict=strict) for each in found], more)


@router.get("/{eval_id}", dependencies=[needs(Scope.jobs_read)])
def retrieve_eval(caller: Caller, eval_id: EvalId, database: Db, strict: Strict = False) -> EvalObject:
    """Retrieve an eval."""
    with database.reading() as session:
        return EvalObject.of(records.get_eval(session, caller.project_id, eval_id), strict=strict)


@router.post("/{eval_id}", dependencies=[needs(Scope.jobs_write)])
def update_eval(caller: Caller, eval_id: EvalId, body: UpdateEval, database: Db, strict: Strict = False) -> EvalObject:
    """Rename an eval, or replace its metadata. Criteria never change: the results of its runs would not compare."""
    with database.transaction() as session:
        return EvalObject.of(records.update(session, caller.actor, eval_id, body.changes()), strict=strict)


@router.delete("/{eval_id}", dependencies=[needs(Scope.jobs_write)])
def delete_eval(caller: Caller, eval_id: EvalId, database: Db) -> EvalDeleted:
    """Delete an eval and its runs; unfinished runs stop."""
    with database.transaction() as session:
        records.delete(session, caller.actor, eval_id)
    return EvalDeleted(eval_id=eval_id)
