"""Dependencies that handlers declare by type: the database, the blob store, the settings.

They are async although they await nothing: FastAPI runs plain functions in the thread pool.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, Header, Request

from app.api.eval_run_checker import EvalRunChecker
from app.api.inference_threads import InferenceThreads
from app.api.job_reader import JobReader
from app.api.linter import Linter
from app.api.readiness import Readiness
from app.api.row_checker import RowChecker
from app.api.served_models import ServedModels
from app.api.slow_work import SlowPools
from app.api.sse import Hub
from app.api.token_lengths import LengthCache
from app.auth.bearer import Caller
from app.auth.id_tokens import IdTokens
from app.core.accounts.api_keys import Identity
from app.core.db import Database
from app.core.egress.client import Egress
from app.core.graders.toolbox import Toolbox
from app.core.inference.engines import Engines
from app.core.inference.usage import Recorder
from app.core.jobs.submission import SubmissionLimits
from app.core.lookup_cache import LookupCache
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore


def _from_state(name: str) -> Any:
    """Return a dependency on `app.state.NAME`, which `create_app` sets."""

    async def read(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(read)


Db = Annotated[Database, _from_state("database")]
Store = Annotated[BlobStore, _from_state("store")]
Config = Annotated[Settings, _from_state("settings")]
Secrets = Annotated[KeyRing, _from_state("secrets")]
Outgoing = Annotated[Egress, _from_state("egress")]
CachedKeys = Annotated[LookupCache[bytes, Identity], _from_state("cached_keys")]
"""Identities by the digest of their key. Clear it after a change of keys or projects."""
Models = Annotated[ServedModels, _from_state("served_models")]
Tokens = Annotated[IdTokens, _from_state("id_tokens")]
Graders = Annotated[Toolbox, _from_state("graders")]
Threads = Annotated[InferenceThreads, _from_state("inference_threads")]
InferenceEngines = Annotated[Engines, _from_state("engines")]
Jobs = Annotated[JobReader, _from_state("jobs")]
Lengths = Annotated[LengthCache, _from_state("lengths")]
EvalChecks = Annotated[EvalRunChecker, _from_state("eval_checks")]
Lints = Annotated[Linter, _from_state("linter")]
Ready = Annotated[Readiness, _from_state("readiness")]
RowChecks = Annotated[RowChecker, _from_state("row_checker")]
Slow = Annotated[SlowPools, _from_state("slow")]
Usage = Annotated[Recorder, _from_state("usage")]
Streams = Annotated[Hub, _from_state("hub")]


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
        alive_seconds=settings.lease_seconds,
        max_priority=caller.limits.priority,
        teacher_url=settings.teacher_url,
        judge_url=settings.judge_url,
        private_hosts=settings.private_hosts,
    )


JobLimits = Annotated[SubmissionLimits, Depends(_job_limits)]


async def _strict(
    caller: Caller,
    sent: Annotated[
        bool | None,
        Header(
            alias="x-grouptune-strict-enums",
            description="Use only OpenAI's enum values: gft is shown as reinforcement with an extra `gft`, paused as "
            "queued, the purpose evals as user_data, graders in the SDK's types. If absent, the project's "
            "`strict_enums` applies.",
        ),
    ] = None,
) -> bool:
    return caller.strict_enums if sent is None else sent


Strict = Annotated[bool, Depends(_strict)]
"""Whether the response uses only OpenAI's enum values, for clients that validate them."""
