"""Names of base models: catalog, hub ids, directories and the operator's aliases."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.core.errors import InvalidRequest
from app.core.models.registry import list_base_models, resolve, resolve_alias
from app.core.settings import Settings


def test_alias_covers_dated_snapshots() -> None:
    aliases = {"gpt-4o-mini": "small", "gpt-4o-mini-2025-01-01": "other"}
    assert resolve_alias("gpt-4o-mini", aliases) == "small"
    assert resolve_alias("gpt-4o-mini-2024-07-18", aliases) == "small"
    assert resolve_alias("gpt-4o-mini-2025-01-01", aliases) == "other"
    for name in ("gpt-4o", "gpt-4o-mini-latest", "gpt-4o-mini-2024-07-18-x", ""):
        assert resolve_alias(name, aliases) == name


def test_aliases_resolve_to_all_kinds_of_names(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    aliases = {"a": "qwen3-0.6b", "b": "Qwen/Qwen3-0.6B", "c": "mine", "d": "../mine", "e": "a"}
    assert resolve("a", tmp_path, aliases).name == resolve("b", tmp_path, aliases).name == "qwen3-0.6b"
    assert resolve("c", tmp_path, aliases).directory == tmp_path / "mine"
    for name in ("d", "e"):
        with pytest.raises(InvalidRequest):
            resolve(name, tmp_path, aliases)


def test_linked_model_is_used(tmp_path: Path) -> None:
    """The model is kept elsewhere: on a shared disk, or in the hub client's cache, whose files are links again."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("kept", "kept-too"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.json").write_text("{}")
        (tmp_path / name / "config.json").symlink_to(tmp_path / f"{name}.json")
    (models / "linked").symlink_to(tmp_path / "kept")
    (models / "qwen3-0.6b").symlink_to(tmp_path / "kept-too")
    assert "linked" in [model.name for model in list_base_models(models)]
    linked = resolve("linked", models)
    assert (linked.directory, linked.is_pulled) == (models / "linked", True)
    assert resolve("Qwen/Qwen3-0.6B", models).is_pulled


@pytest.mark.parametrize("name", ["../kept", "x/../../kept", "/etc", ".", "", "..", "kept\0"])
def test_path_out_of_the_directory_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "config.json").write_text("{}")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").write_text("{}")
    with pytest.raises(InvalidRequest, match="Known here"):
        resolve(name, tmp_path / "models")


@pytest.mark.parametrize(
    ("config", "fitting"),
    [
        ('{"max_position_embeddings": 512}', 512),
        ('{"text_config": {"max_position_embeddings": 8192}}', 2048),
        ('{"text_config": {"max_position_embeddings": 1024}}', 1024),
        ('{"max_position_embeddings": "many"}', 2048),
        ("{}", 2048),
        ("[]", 2048),
        ("{", 2048),
    ],
)
def test_length_is_limited_by_the_context(tmp_path: Path, config: str, fitting: int) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(config)
    assert resolve("mine", tmp_path).fitting(2048) == fitting


def test_aliases_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPTUNE_MODEL_ALIASES", "gpt-4o-mini = smollm2-135m-instruct, x=Qwen/Qwen3-0.6B,")
    assert Settings().model_aliases == {"gpt-4o-mini": "smollm2-135m-instruct", "x": "Qwen/Qwen3-0.6B"}
    monkeypatch.delenv("GROUPTUNE_MODEL_ALIASES")
    assert Settings().model_aliases == {}
    for broken in ("gpt-4o-mini", "=x", "a=", "a=b,c"):
        monkeypatch.setenv("GROUPTUNE_MODEL_ALIASES", broken)
        with pytest.raises(ValidationError, match="alias=base-model"):
            Settings()
