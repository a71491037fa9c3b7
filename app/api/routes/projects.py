"""`/v1/projects`: administrators create, limit and archive projects."""

from fastapi import APIRouter

from app.api.deps import CachedKeys, Config, Db
from app.api.ids import ProjectId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.projects import CreateProject, ProjectObject, UpdateProject
from app.auth.bearer import Caller, default_limits
from app.auth.scopes import needs
from app.core.accounts import projects
from app.core.accounts.scopes import Scope
from app.core.jobs import quotas

router = APIRouter(prefix="/projects", tags=["Projects"], dependencies=[needs(Scope.admin)])


@router.post("")
def create_project(caller: Caller, body: CreateProject, database: Db, settings: Config) -> ProjectObject:
    """Create a project. Create a key for it next."""
    with database.transaction() as session:
        project = projects.create_project(session, caller.actor, body.name, body.columns())
        return ProjectObject.of(project, default_limits(settings), quotas.usage(session, project.id))


@router.get("")
def list_projects(database: Db, settings: Config, after: After = None, limit: Limit = 20) -> Page[ProjectObject]:
    """List projects, newest first, including archived ones."""
    with database.reading() as session:
        page_projects, more = projects.list_projects(session, after=after, limit=limit)
    return page([ProjectObject.of(project, default_limits(settings)) for project in page_projects], more)


@router.get("/{project_id}")
def retrieve_project(project_id: ProjectId, database: Db, settings: Config) -> ProjectObject:
    """Retrieve a project with its usage."""
    with database.reading() as session:
        project = projects.get_project(session, project_id)
        return ProjectObject.of(project, default_limits(settings), quotas.usage(session, project.id))


@router.post("/{project_id}")
def update_project(
    caller: Caller, project_id: ProjectId, body: UpdateProject, database: Db, settings: Config, cached_keys: CachedKeys
) -> ProjectObject:
    """Change a project's settings, archive it or restore it."""
    with database.transaction() as session:
        columns = body.columns()
        project = projects.update_project(session, caller.actor, project_id, archived=body.archived, settings=columns)
        answer = ProjectObject.of(project, default_limits(settings), quotas.usage(session, project.id))
    cached_keys.clear()
    return answer
