"""The tiny models and settings of the training tests, for the engine."""

from pathlib import Path

import pytest

from tests.worker.training.conftest import _one_deterministic_thread, model_directory

__all__ = ["_one_deterministic_thread", "model_directory"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignores warnings that peft 0.21 causes with transformers 5."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
            )
            item.add_marker(pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"))
