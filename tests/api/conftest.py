"""One server for all API tests; each test has an empty database and a project of its own."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI

from app.core.db import Database
from app.core.secrets import new_key
from app.core.settings import Settings
from app.core.storage.local import LocalBlobStore
from tests import tiny_model
from tests.api.server import Server, new_project, serve, variant
from tests.chat_templates import SOURCES
from tests.inference import embedded_engine
from tests.setup_jobs import stored_file
from tests.tiny_model import write_rows, write_tokenizer

SECRET_KEY = new_key()
MAX_FILE_BYTES = 300_000
LONG_CONTEXT = 16_384
ENDLESS: Final[Any] = {"model": "tools", "max_tokens": LONG_CONTEXT - 2000, "n": 16, "logit_bias": {"2": -100}}
"""Asks for answers that take minutes, unless the client hangs up."""


@pytest.fixture(scope="session")
def api_settings(migrated_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation whose base model `tiny` counts as pulled: the API reads its config and tokenizer only."""
    root = tmp_path_factory.mktemp("api")
    models = root / "models"
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "config.json").write_text("{}")
    write_tokenizer(models / "tiny")
    return Settings.model_validate(
        {
            "DATABASE_URL": migrated_url,
            "state_dir": root / "state",
            "models_dir": models,
            "max_file_bytes": MAX_FILE_BYTES,
            "secret_keys": SECRET_KEY,
            "allowed_private_hosts": ("127.0.0.1",),
        }
    )


@pytest.fixture(scope="session")
def api_url(api_settings: Settings) -> Iterator[str]:
    with serve(api_settings) as url:
        yield url


@pytest.fixture
def server(api_url: str, api_settings: Settings, database: Database) -> Iterator[Server]:
    """The running server with a fresh project in an empty database."""
    project_id, key = new_project(database, "default")
    store = LocalBlobStore(api_settings.storage_dir)
    with ExitStack() as clients:
        yield Server(api_url, key, project_id, api_settings, database, store, clients)


@pytest.fixture(scope="session")
def inference_models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model `tiny`, and its weights with the chat templates of models that call tools and that think."""
    directory = tmp_path_factory.mktemp("inference-models")
    shutil.copytree(tiny_models / "tiny", directory / "tiny")
    for name, template in {"tools": "trl/qwen2_5", "thinker": "trl/qwen3_6"}.items():
        tiny_model.variant(directory / name, tiny_models / "tiny", SOURCES[template], LONG_CONTEXT)
    return directory


@pytest.fixture(scope="session")
def inference_settings(
    api_settings: Settings, inference_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """An installation with the embedded engine and the models of `inference_models`."""
    state_dir = tmp_path_factory.mktemp("inference")
    with embedded_engine(inference_models, state_dir) as url:
        yield variant(api_settings, models_dir=inference_models, state_dir=state_dir, serve_url=(url,))


@pytest.fixture(scope="session")
def inference_url(inference_settings: Settings) -> Iterator[str]:
    with serve(inference_settings) as url:
        yield url


@pytest.fixture
def inference(inference_url: str, inference_settings: Settings, database: Database) -> Iterator[Server]:
    """The running server with an engine, and a fresh project in an empty database."""
    project_id, key = new_project(database, "default")
    store = LocalBlobStore(inference_settings.storage_dir)
    with ExitStack() as clients:
        yield Server(inference_url, key, project_id, inference_settings, database, store, clients)


@pytest.fixture
def client(server: Server, request: pytest.FixtureRequest) -> OpenAI:
    """The official SDK as it is; under `lenient_and_strict` also with strict validation of every answer."""
    return server.client(strict=getattr(request, "param", False))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A valid training file."""
    return write_rows(tmp_path / "rows.jsonl", 20)


@pytest.fixture
def training_file(server: Server, tmp_path: Path) -> str:
    """A validated file of 20 rows; to upload it and validate it in a process of its own would be most of a test."""
    with server.database.transaction() as session:
        return stored_file(session, server.store, server.project_id, tmp_path, rows=20).id
