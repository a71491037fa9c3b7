"""The models that the engine answers for: base models on disk, and loaded adapters. No torch."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.models import registry
from worker.serving.errors import RequestError, invalid
from worker.serving.wire import CompletionBody


@dataclass(frozen=True)
class BaseFiles:
    """A complete base model on disk."""

    name: str
    directory: Path
    context: int | None
    """Tokens of prompt and completion together."""
    vocabulary: int

    @classmethod
    def read(cls, base: registry.BaseModel) -> "BaseFiles":
        config = json.loads((base.directory / "config.json").read_bytes())
        vocabulary = config.get("vocab_size") or config["text_config"]["vocab_size"]
        return cls(base.name, base.directory, base.context_length, int(vocabulary))

    def check(self, body: CompletionBody) -> None:
        """Raise `RequestError` for tokens outside the vocabulary, and for more tokens than the model supports."""
        if max(body.prompt) >= self.vocabulary:
            raise invalid(
                f"'prompt' contains token {max(body.prompt)}; the vocabulary has {self.vocabulary}.", "prompt"
            )
        if body.logit_bias and max(body.logit_bias) >= self.vocabulary:
            raise invalid(f"'logit_bias' has a token outside of the {self.vocabulary} tokens.", "logit_bias")
        total = len(body.prompt) + body.max_tokens
        if self.context is not None and total > self.context:
            raise invalid(
                f"The model supports {self.context} tokens, but the prompt has {len(body.prompt)} and max_tokens is "
                f"{body.max_tokens}.",
                "max_tokens",
                "context_length_exceeded",
            )


class Catalog:
    """Names of models. Thread-safe."""

    def __init__(self, models_dir: Path, adapters_dir: Path, max_adapters: int) -> None:
        self._models_dir = models_dir
        self._adapters_dir = adapters_dir
        self._max_adapters = max_adapters
        self._lock = threading.Lock()
        self._adapters: OrderedDict[str, Any] = OrderedDict()

    def base(self, name: str) -> BaseFiles:
        """Return a base model. Raises `RequestError` with status 404."""
        for base in registry.list_base_models(self._models_dir):
            if base.is_pulled and base.name == name:
                return BaseFiles.read(base)
        raise _unknown(name)

    def find(self, name: str) -> tuple[str, Any]:
        """Return the base model's name and the adapter, or None, of a model. Raises `RequestError` with status 404."""
        with self._lock:
            if name in self._adapters:
                self._adapters.move_to_end(name)
                adapter = self._adapters[name]
                return adapter.base, adapter
        return self.base(name).name, None

    def adapter_directory(self, path: str) -> Path:
        """Return the directory of an adapter. Raises `RequestError` if it is outside of the adapters' directory."""
        directory = Path(path).resolve()
        if not directory.is_relative_to(self._adapters_dir.resolve()):
            raise invalid(f"'lora_path' must be below {self._adapters_dir}.", "lora_path", "path_not_allowed")
        if not directory.is_dir():
            raise RequestError(404, "adapter_not_found", f"{directory} does not exist.", "lora_path")
        return directory

    def loaded(self, name: str, directory: Path) -> bool:
        """Return whether this adapter is loaded from this directory."""
        with self._lock:
            return name in self._adapters and self._adapters[name].path == directory

    def add(self, adapter: Any) -> list[Any]:
        """Add an adapter; returns those that were replaced or evicted. Their running requests keep them."""
        with self._lock:
            dropped = [self._adapters.pop(adapter.name)] if adapter.name in self._adapters else []
            self._adapters[adapter.name] = adapter
            while len(self._adapters) > self._max_adapters:
                dropped.append(self._adapters.popitem(last=False)[1])
            return dropped

    def remove(self, name: str) -> Any:
        """Remove an adapter and return it. Raises `RequestError` with status 404."""
        with self._lock:
            if name not in self._adapters:
                raise _unknown(name, "lora_name")
            return self._adapters.pop(name)

    def listing(self) -> list[dict[str, Any]]:
        """Return all models in the form of `GET /v1/models`."""
        pulled = [base for base in registry.list_base_models(self._models_dir) if base.is_pulled]
        bases = [_entry(base.name, base.directory, None, base.context_length) for base in pulled]
        with self._lock:
            adapters = list(self._adapters.values())
        return bases + [_entry(adapter.name, adapter.path, adapter.base, None) for adapter in adapters]


def _entry(name: str, root: Path, parent: str | None, context: int | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "owned_by": "grouptune",
        "root": str(root),
        "parent": parent,
        "max_model_len": context,
    }


def _unknown(name: str, param: str = "model") -> RequestError:
    return RequestError(404, "model_not_found", f"The engine has no model '{name}'.", param)
