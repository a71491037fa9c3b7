"""Composition root of the API: `uvicorn --factory app.main:create_app`."""

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from app.api import errors, examples, shutdown, static_pages
from app.api.eval_run_checker import EvalRunChecker
from app.api.inference_slots import InferenceSlots
from app.api.inference_threads import InferenceThreads
from app.api.job_reader import JobReader
from app.api.linter import Linter
from app.api.middleware.body_limit import BodyLimit
from app.api.middleware.caller_first import CallerFirst
from app.api.middleware.head_requests import HeadRequests
from app.api.middleware.http_metrics import HttpMetrics
from app.api.middleware.idempotency import Idempotency
from app.api.middleware.request_ids import RequestIds
from app.api.middleware.request_paths import RequestPaths
from app.api.middleware.tracing import Tracing
from app.api.readiness import Readiness
from app.api.routes import (
    api_keys,
    audit_log,
    base_models,
    chat_completions,
    checkpoint_permissions,
    completions,
    dashboard,
    estimate,
    eval_runs,
    evals,
    exports,
    files,
    fine_tuning,
    graders,
    health,
    job_logs,
    job_metrics,
    lint,
    model_aliases,
    models,
    oidc,
    projects,
    prometheus,
    regrade,
    responses,
    streams,
    teacher_keys,
    uploads,
    usage,
    validate_job,
    webhooks,
    workers,
)
from app.api.row_checker import RowChecker
from app.api.schemas.errors import ErrorEnvelope
from app.api.served_models import ServedModels
from app.api.slow_work import SlowPools
from app.api.sse import Hub
from app.api.token_lengths import LengthCache
from app.auth import scopes
from app.auth.id_tokens import IdTokens
from app.core import logging, tracing
from app.core import settings as configuration
from app.core.accounts.api_keys import Identity
from app.core.accounts.rate_limit import RateLimiter
from app.core.db import Database
from app.core.egress.client import Egress
from app.core.egress.ip_policy import PrivateHosts
from app.core.errors import BadSetup
from app.core.evals.services import external_services
from app.core.graders.toolbox import Toolbox
from app.core.inference.engines import Engines
from app.core.inference.usage import Recorder
from app.core.lookup_cache import LookupCache
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.storage.opening import open_store

DESCRIPTION: Final = """Self-hosted fine-tuning, wire-compatible with OpenAI's fine-tuning API.

Set the `base_url` of the `openai` SDK to `/v1` of this server, and use one of its API keys as the bearer token.
"""
TAGS: Final = [
    {
        "name": "Files",
        "description": "Training and validation data in JSONL, validated line by line after the upload.",
    },
    {"name": "Uploads", "description": "Files that are uploaded in parts."},
    {"name": "Fine-tuning", "description": "Jobs, their events, checkpoints, metrics, groups and attempts."},
    {"name": "Checkpoint permissions", "description": "Share a model or a checkpoint with other projects."},
    {"name": "Workers", "description": "The machines that train: their hardware, their state and their jobs."},
    {"name": "Graders", "description": "Test a grader before a job uses it."},
    {"name": "Evals", "description": "Grade the answers of models to the rows of a file, and compare models."},
    {"name": "Teachers", "description": "API keys for the servers that jobs use as teachers."},
    {"name": "Models", "description": "Base models and trained adapters."},
    {"name": "Exports", "description": "Finished artefacts made from fine-tuned models, as background jobs."},
    {"name": "API keys", "description": "Create, list, rotate and revoke keys. Requires the scope `admin`."},
    {
        "name": "CI systems",
        "description": "Exchange the ID tokens of CI systems for keys. Managing trust requires the scope `admin`.",
    },
    {"name": "Projects", "description": "Projects and their limits. Requires the scope `admin`."},
    {"name": "Audit log", "description": "Who changed what, and when. Requires the scope `admin`."},
    {"name": "Inference", "description": "Answers of base models and fine-tuned models, in OpenAI's form."},
    {"name": "Usage", "description": "Requests and tokens of inference, by time, project, key and model."},
    {"name": "Dashboard", "description": "Sign a browser in and out."},
    {"name": "Webhooks", "description": "Notifications about jobs: endpoints, deliveries and tests."},
    {"name": "Health", "description": "Liveness and readiness."},
]

PUBLIC: Final = frozenset(
    {
        *("/healthz", "/readyz", "/metrics", "/openapi.json"),
        *("/docs", "/docs/api", "/docs/api/", "/docs/{path:path}"),
        *("/", "/ui", "/ui/{path:path}", "/v1/dashboard/session", "/v1/dashboard/links", "/v1/oidc/exchange"),
    }
)
"""Paths that need no scope: documents, signing in, and `/metrics` with its own rule. All others declare a scope."""

# Routes are matched in this order: frequent requests come first, but `/jobs/validate` must precede `/jobs/{id}`, and
# `/models/{model}/exports` must precede `/models/{model}`.
V1: Final = (
    completions,
    chat_completions,
    responses,
    validate_job,
    fine_tuning,
    job_metrics,
    job_logs,
    streams,
    estimate,
    regrade,
    lint,
    eval_runs,
    evals,
    files,
    uploads,
    graders,
    teacher_keys,
    checkpoint_permissions,
    exports,
    base_models,
    models,
    model_aliases,
    api_keys,
    oidc,
    projects,
    audit_log,
    usage,
    webhooks,
    workers,
    dashboard,
)

GRADER_LIMIT_SECONDS: Final = 20.0
"""Limit for grading one answer while a client waits. The first use of a grader type also imports its libraries."""
GRADER_NICENESS: Final = 10
"""Requests of other callers come before the processes of graders."""
SWITCH_SECONDS: Final = 0.001
"""How long a thread that computes, such as a tokenizer's, may keep the event loop waiting."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the API of the installation that `settings` describe; by default they come from the environment.

    Opens no connections: the API starts even while Postgres is unavailable, and `/readyz` reports that. Raises
    `BadSetup` without a database URL and for a route that declares no scope.
    """
    logging.configure()
    settings = settings or configuration.load()
    if settings.database_url is None:
        raise BadSetup("DATABASE_URL is not set. Set it, or start everything at once with `grouptune up`.")
    database = Database(settings.database_url)
    rate_limiter = RateLimiter(settings.redis_url)
    tracer = tracing.load("grouptune-api")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()  # excludes all objects that exist now from garbage collection: they live as long as the process
        async with app.state.engines:
            with shutdown.calling(app.state.hub.close):
                yield
        gc.unfreeze()
        app.state.inference_threads.close()
        app.state.slow.close()
        app.state.usage.close()
        database.dispose()
        app.state.readiness.close()
        rate_limiter.close()
        app.state.graders.close()
        app.state.egress.close()
        tracer.close()

    app = FastAPI(
        title="Grouptune",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; `static_pages` serves one that does not
        redoc_url=None,
        responses={"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}},
    )
    app.state.settings = settings
    app.state.database = database
    app.state.rate_limiter = rate_limiter
    app.state.cached_keys = LookupCache[bytes, Identity](run_in_threadpool)
    app.state.jobs = JobReader(database)
    app.state.hub = Hub(database, app.state.jobs)
    app.state.secrets = KeyRing.load(
        settings.secret_keys.get_secret_value() if settings.secret_keys else None, settings.secret_keys_file
    )
    app.state.egress = Egress(PrivateHosts.parse(settings.allowed_private_hosts))
    app.state.inference_slots = InferenceSlots()
    app.state.inference_threads = InferenceThreads()
    app.state.served_models = ServedModels(database, settings, app.state.inference_threads)
    app.state.usage = Recorder(database)
    app.state.id_tokens = IdTokens(app.state.egress)
    app.state.graders = Toolbox(
        external_services(settings), limit_seconds=GRADER_LIMIT_SECONDS, niceness=GRADER_NICENESS
    )
    app.state.store = open_store(
        settings.storage_dir, settings.storage_url, settings.storage_endpoint, settings.storage_region
    )
    app.state.engines = Engines(settings, app.state.store)
    app.state.readiness = Readiness(settings.database_url, app.state.store)
    app.state.slow = SlowPools()
    app.state.lengths = LengthCache()
    app.state.linter = Linter(database, app.state.store, app.state.graders, app.state.slow)
    app.state.eval_checks = EvalRunChecker(database, app.state.store, settings, app.state.engines, app.state.graders)
    app.state.row_checker = RowChecker(database, app.state.store, settings.models_dir, app.state.slow)
    for routes in V1:
        app.include_router(routes.router, prefix="/v1")
    for router in (health.router, static_pages.router, prometheus.router):
        app.include_router(router)
    scopes.check(app, PUBLIC)
    app.openapi = examples.added(scopes.describe(app))  # type: ignore[method-assign] # FastAPI's way to extend its document
    errors.install(app)
    app.add_middleware(Idempotency, database=database)
    app.add_middleware(BodyLimit, max_file_bytes=settings.max_file_bytes, public=PUBLIC)
    app.add_middleware(CallerFirst, public=PUBLIC)
    app.add_middleware(HttpMetrics)
    if tracer.is_on:
        app.add_middleware(Tracing, tracer=tracer)
    app.add_middleware(RequestIds)
    app.add_middleware(RequestPaths, root_path=settings.root_path)
    app.add_middleware(HeadRequests)  # the last middleware added is the outermost one
    return app
