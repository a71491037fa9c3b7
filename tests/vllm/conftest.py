"""One vLLM server for all tests, with a tiny base model, adapters with probes, and a gateway in front of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_model
from tests.api.conftest import api_settings, client, server  # noqa: F401
from tests.core.inference.adapters import write_adapters
from tests.vllm.server import START_SECONDS, VllmServer, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith("tests/vllm/"):
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(START_SECONDS + 300))  # the first test starts the server


@pytest.fixture(scope="session")
def vllm_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with `tiny`; vLLM's attention needs heads of at least 32 numbers."""
    directory = tmp_path_factory.mktemp("models")
    tiny_model.build(directory / "tiny", hidden=128, spread=0.1)
    return directory


@pytest.fixture(scope="session")
def vllm_adapters(vllm_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_adapters(vllm_models / "tiny", tmp_path_factory.mktemp("adapters"), "abc", scale=0.1)


@pytest.fixture(scope="session")
def vllm(vllm_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with running(vllm_models / "tiny", tmp_path_factory.mktemp("vllm") / "vllm.log") as found:
        yield found
