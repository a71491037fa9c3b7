"""Composition root of the API: `uvicorn --factory app.main:create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import APIRouter, FastAPI

from app.api import errors, signals
from app.api.body_limit import BodyLimit
from app.api.idempotency import Idempotency
from app.api.live import Hub
from app.api.request_ids import RequestIds
from app.api.routes import (
    api_keys,
    audit_log,
    checkpoint_permissions,
    files,
    fine_tuning,
    health,
    model_aliases,
    models,
    projects,
    streams,
    uploads,
    validate_job,
)
from app.api.schemas.errors import ErrorEnvelope
from app.auth import scopes
from app.core import logging
from app.core import settings as configuration
from app.core.accounts.rate_limit import RateLimiter
from app.core.db import Database
from app.core.errors import BadSetup
from app.core.settings import Settings
from app.core.storage.opening import open_store

DESCRIPTION: Final = """Self-hosted fine-tuning, wire-compatible with OpenAI's fine-tuning API.

Point the `openai` SDK's `base_url` at `/v1` of this server and send one of its API keys as the bearer token.
"""
TAGS: Final = [
    {
        "name": "Files",
        "description": "Training and validation data: JSONL, validated line by line after the upload.",
    },
    {"name": "Uploads", "description": "Files that arrive in parts."},
    {"name": "Fine-tuning", "description": "Jobs, their events, checkpoints, metrics, groups and attempts."},
    {"name": "Checkpoint permissions", "description": "Which other projects may use a model or a checkpoint."},
    {"name": "Models", "description": "Base models and trained adapters."},
    {"name": "API keys", "description": "Mint, list, rotate and revoke keys; needs the scope `admin`."},
    {"name": "Projects", "description": "Projects and their limits; needs the scope `admin`."},
    {"name": "Audit log", "description": "Who changed what; needs the scope `admin`."},
    {"name": "Health", "description": "Liveness and readiness."},
]

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Paths that need no key. Every other route declares the scope that it needs."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API over the installation that `settings` (default: the environment) describes.

    Connects to nothing yet: it starts, and says so in `/readyz`, while Postgres is away. Raises `BadSetup`
    without a database URL, and for a route that declares no scope.
    """
    logging.configure()
    settings = settings or configuration.load()
    if settings.database_url is None:
        raise BadSetup("DATABASE_URL is not set. Set it, or start everything at once with `grouptune up`.")
    database = Database(settings.database_url)
    rate_limiter = RateLimiter(settings.redis_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with signals.calling(app.state.hub.close):
            yield
        database.dispose()
        rate_limiter.close()

    app = FastAPI(
        title="Grouptune",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        responses={"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}},
    )
    app.state.settings = settings
    app.state.database = database
    app.state.rate_limiter = rate_limiter
    app.state.hub = Hub(database)
    app.state.store = open_store(
        settings.storage_dir, settings.storage_url, settings.storage_address, settings.storage_region
    )
    v1 = APIRouter(prefix="/v1")
    for routes in (
        files,
        uploads,
        streams,
        validate_job,
        fine_tuning,
        checkpoint_permissions,
        models,
        model_aliases,
        api_keys,
        projects,
        audit_log,
    ):
        v1.include_router(routes.router)
    app.include_router(v1)
    app.include_router(health.router)
    scopes.check(app, PUBLIC)
    app.openapi = scopes.describe(app)  # type: ignore[method-assign] # FastAPI's way to extend its document
    errors.install(app)
    app.add_middleware(Idempotency, database=database)
    app.add_middleware(BodyLimit, max_file_bytes=settings.max_file_bytes)
    app.add_middleware(RequestIds)  # the last one added is the outermost
    return app
