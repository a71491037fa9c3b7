"""Finds the models that inference requests name, through a cache."""

from dataclasses import dataclass
from functools import partial

from app.api.inference_threads import InferenceThreads
from app.core.chat import tokenizer
from app.core.chat.tokenizer import ChatTokenizer
from app.core.db import Database
from app.core.inference import models
from app.core.inference.models import ServedModel
from app.core.lookup_cache import LookupCache
from app.core.settings import Settings


@dataclass(frozen=True)
class LoadedModel:
    """A model and the tokenizer of its base model."""

    served: ServedModel
    tokenizer: ChatTokenizer


class ServedModels:
    """The models of all projects, by the names in requests. One event loop reads it; any thread may clear it."""

    def __init__(self, database: Database, settings: Settings, threads: InferenceThreads) -> None:
        self._database, self._settings = database, settings
        self._cache = LookupCache[tuple[str, str], LoadedModel](threads.run)

    async def get(self, project_id: str, name: str) -> LoadedModel:
        """Return the model that `name` stands for in this project. Raises as `models.resolve` and `tokenizer.load`."""
        return await self._cache.get((project_id, name), partial(self._find, project_id, name))

    def _find(self, project_id: str, name: str) -> LoadedModel:
        with self._database.reading() as session:
            served = models.resolve(session, project_id, name, self._settings)
        return LoadedModel(served, tokenizer.load(served.base.directory))

    def clear(self) -> None:
        """Call it after every change of models, aliases or permissions, once the change is committed."""
        self._cache.clear()
