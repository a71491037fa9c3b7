"""Fixtures: policies over tiny random fp32 models of two layers, with a non-zero adapter."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from app.core.chat.tokenizer import ChatTokenizer
from tests import tiny_model
from tests.worker.training import architectures
from tests.worker.training.architectures import LORA, random_policy
from worker.training.model import Policy, load_policy
from worker.training.tokenize import load_tokenizer

ModelDirectory = Callable[[str], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignores warnings that peft 0.21 causes with transformers 5. Remove with the peft release that fixes them."""
    for item in items:
        if item.nodeid.startswith("tests/worker/training/"):
            item.add_marker(
                pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
            )
            item.add_marker(pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"))


@pytest.fixture(autouse=True)
def _one_deterministic_thread() -> Iterator[None]:
    """Uses one thread, since tiny products gain nothing from more, and restores torch's settings after a run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """Returns the directory of a random model for an architecture name, built on first use."""
    root = tmp_path_factory.mktemp("architectures")
    return cache(lambda name: architectures.build(root / name, name))


@pytest.fixture
def llama(model_directory: ModelDirectory) -> Policy:
    """A fresh Llama with a random adapter."""
    return random_policy(model_directory("llama"))


@pytest.fixture(params=list(architectures.ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Each architecture's name in turn."""
    return str(request.param)


@pytest.fixture
def policy(architecture: str, model_directory: ModelDirectory) -> Policy:
    """A fresh policy of each architecture with a random adapter."""
    return random_policy(model_directory(architecture))


@pytest.fixture(scope="session")
def chat_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with its character tokenizer and chat template."""
    return tiny_model.build(tmp_path_factory.mktemp("chat") / "tiny")


@pytest.fixture(scope="session")
def chat_tokenizer(chat_directory: Path) -> ChatTokenizer:
    return load_tokenizer(chat_directory)


@pytest.fixture
def chat_policy(chat_directory: Path) -> Policy:
    """A fresh policy over the chat model."""
    return load_policy(chat_directory, LORA, seed=0)
