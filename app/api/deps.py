"""What handlers ask for by type: the database, the blob store, the settings.

Async, though they wait for nothing: FastAPI sends plain functions through the thread pool.
"""

from typing import Annotated

from fastapi import Depends, Header, Request

from app.core.db import Database
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


Db = Annotated[Database, Depends(_database)]
Store = Annotated[BlobStore, Depends(_store)]
Config = Annotated[Settings, Depends(_settings)]
Strict = Annotated[
    bool,
    Header(
        alias="x-grouptune-strict-enums",
        description="Keep to OpenAI's enums: gft as reinforcement plus extra `gft`, paused as queued, files for evals "
        "as user_data.",
    ),
]
