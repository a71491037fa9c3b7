"""What handlers ask for by type: the database, the blob store, the settings.

Async, though they wait for nothing: FastAPI sends plain functions through the thread pool.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import BackgroundTasks, Depends, Header, Request

from app.api.job_reader import JobReader
from app.api.lint_pool import LintPool
from app.auth.bearer import Caller
from app.auth.key_cache import KeyCache
from app.core.db import Database
from app.core.egress.client import Egress
from app.core.graders.toolbox import Toolbox
from app.core.jobs.submission import SubmissionLimits
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _store(request: Request) -> BlobStore:
    store: BlobStore = request.app.state.store
    return store


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _graders(request: Request) -> Toolbox:
    tools: Toolbox = request.app.state.graders
    return tools


async def _secrets(request: Request) -> KeyRing:
    ring: KeyRing = request.app.state.secrets
    return ring


async def _outgoing(request: Request) -> Egress:
    egress: Egress = request.app.state.egress
    return egress


async def _lint_pool(request: Request) -> LintPool:
    pool: LintPool = request.app.state.lint_pool
    return pool


async def _key_cache(request: Request) -> KeyCache:
    cache: KeyCache = request.app.state.key_cache
    return cache


async def _jobs(request: Request) -> JobReader:
    reader: JobReader = request.app.state.jobs
    return reader


Db = Annotated[Database, Depends(_database)]
Store = Annotated[BlobStore, Depends(_store)]
Config = Annotated[Settings, Depends(_settings)]
Secrets = Annotated[KeyRing, Depends(_secrets)]
Outgoing = Annotated[Egress, Depends(_outgoing)]
CachedKeys = Annotated[KeyCache, Depends(_key_cache)]
Graders = Annotated[Toolbox, Depends(_graders)]
Jobs = Annotated[JobReader, Depends(_jobs)]
Lints = Annotated[LintPool, Depends(_lint_pool)]


class WorkerNotifier:
    """Notifies workers after the response is sent, so that an unreachable broker delays no client."""

    def __init__(self, settings: Config, tasks: BackgroundTasks) -> None:
        self._url = settings.redis_url
        self._tasks = tasks

    def add(self, notify: Callable[[str], None]) -> None:
        """Call `notify`, one of `broker.notify_*`, after the response; without a broker do nothing."""
        if self._url is not None:
            self._tasks.add_task(notify, self._url)


Notifier = Annotated[WorkerNotifier, Depends()]


async def _job_limits(caller: Caller, settings: Config) -> SubmissionLimits:
    return SubmissionLimits(
        models_dir=settings.models_dir,
        model_aliases=settings.model_aliases,
        trackers=settings.trackers,
        max_priority=caller.limits.priority,
        teacher_url=settings.teacher_url,
        private_hosts=settings.private_hosts,
    )


JobLimits = Annotated[SubmissionLimits, Depends(_job_limits)]


async def _strict(
    caller: Caller,
    sent: Annotated[
        bool | None,
        Header(
            alias="x-grouptune-strict-enums",
            description="Keep to OpenAI's enums: gft as reinforcement plus extra `gft`, paused as queued, files for "
            "evals as user_data. As the project says (`strict_enums`) if absent.",
        ),
    ] = None,
) -> bool:
    return caller.strict_enums if sent is None else sent


Strict = Annotated[bool, Depends(_strict)]
"""Whether the caller checks answers against OpenAI's enums."""
