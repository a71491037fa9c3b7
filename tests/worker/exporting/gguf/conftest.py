"""Tiny models of each family, with an adapter, built once."""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from app.core.spec.export import ExportFormat, ExportSpec, Quantization
from tests import tiny_families


class TinyModel(NamedTuple):
    """A base model and an adapter of its linear layers."""

    base: Path
    adapter: Path

    def spec(self, format: ExportFormat, quantization: Quantization | None = None) -> ExportSpec:
        """Return the spec of an export."""
        return ExportSpec(
            model="ft:tiny:org::1",
            base_name=self.base.name,
            base_dir=self.base,
            base_hub_id=None,
            base_revision=None,
            adapter_dir=self.adapter,
            format=format,
            quantization=quantization,
            probe=None,
        )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    """Return a function that returns the tiny model of a family."""

    @cache
    def build(family: str) -> TinyModel:
        directory = tmp_path_factory.mktemp(family)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # PEFT reads a deprecated attribute
            base = tiny_families.build(directory / "base", family)
            return TinyModel(base, tiny_families.add_adapter(base, directory / "adapter"))

    return build
