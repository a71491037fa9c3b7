"""Errors of models and engines, through each of the three routes of inference."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from openai import APIError, InternalServerError, NotFoundError, OpenAI

from app.core import ids
from app.core.jobs import deletion
from app.core.models.tables import TrainedModel
from app.core.settings import Settings
from tests.api.conftest import LONG_CONTEXT
from tests.api.server import Server, new_project, serve, variant
from tests.core.inference.engine_process import KEY, EngineProcess, running
from tests.core.inference.test_models import publish

ENDLESS: Final[Any] = {str(token): -100 for token in range(4)}
"""Bias against the special tokens, so that a random model uses all of its tokens."""
MANY: Final = LONG_CONTEXT - 2000
ROUTES: Final[dict[str, Callable[..., Any]]] = {
    "chat/completions": lambda client, model, **options: client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "2+2="}], max_tokens=MANY, logit_bias=ENDLESS, **options
    ),
    "completions": lambda client, model, **options: client.completions.create(
        model=model, prompt="2+2=", max_tokens=MANY, logit_bias=ENDLESS, **options
    ),
    "responses": lambda client, model, **options: client.responses.create(
        model=model, input="2+2=", max_output_tokens=MANY, extra_body={"logit_bias": ENDLESS}, **options
    ),
}


def stored(server: Server, project_id: str) -> TrainedModel:
    with server.database.transaction() as session:
        return publish(session, project_id)


@pytest.mark.parametrize("route", ROUTES)
def test_names_of_models_that_are_not_there(inference: Server, route: str) -> None:
    client, ask = inference.client(), ROUTES[route]
    own, foreign = stored(inference, inference.project_id), stored(inference, new_project(inference.database, "b")[0])
    with inference.database.transaction() as session:
        removed = publish(session, inference.project_id, step=4)
        deletion.delete_model(session, inference.project_id, removed.id)
    for name, code in (
        (foreign.id, "model_not_found"),
        (ids.checkpoint_model(foreign.id, 4), "model_not_found"),
        (removed.id, "checkpoint_removed"),
        (ids.checkpoint_model(own.id, 4), "model_not_found"),
        (ids.checkpoint_model(own.id, 40), "model_not_found"),
    ):
        with pytest.raises(NotFoundError) as caught:
            ask(client, name)
        assert (caught.value.code, caught.value.param) == (code, "model")
    assert foreign.project_id not in str(caught.value)


@pytest.fixture(scope="module")
def engine(inference_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine that tests may kill."""
    with running(inference_models, tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
def mortal_url(engine: EngineProcess, inference_settings: Settings) -> Iterator[str]:
    """An API with that engine only."""
    with serve(variant(inference_settings, serve_url=(engine.url,), serve_api_key=KEY)) as url:
        yield url


@pytest.mark.parametrize("route", ROUTES)
def test_engine_dies_in_mid_stream(inference: Server, mortal_url: str, engine: EngineProcess, route: str) -> None:
    """The stream ends with an event that the SDK raises; further requests get 503 until the engine is back."""
    client = inference.clients.enter_context(
        OpenAI(base_url=f"{mortal_url}/v1", api_key=inference.api_key, max_retries=4)
    )
    ask = ROUTES[route]
    with ask(client, "tools", stream=True) as stream:  # the SDK retries until the API has found the engine
        chunks = iter(stream)
        assert next(chunks)
        engine.kill()
        with pytest.raises(APIError, match=r"^The inference engine does not answer") as broken:
            list(chunks)
    assert (broken.value.code, broken.value.type) == ("engine_unavailable", "server_error")
    for options in ({}, {"stream": True}):
        with pytest.raises(InternalServerError) as away:
            ask(client.with_options(max_retries=0), "tools", **options)
        assert (away.value.status_code, away.value.code) == (503, "engine_unavailable")
        assert float(away.value.response.headers["retry-after"]) > 0
        assert str(engine.port) not in f"{broken.value} {away.value}"
    engine.start()


@pytest.mark.parametrize("route", ROUTES)
def test_message_has_no_address(inference: Server, inference_settings: Settings, route: str) -> None:
    """What a connection's error says about the network is for the log."""
    with serve(variant(inference_settings, serve_url=("http://127.0.0.1:9",))) as url:
        client = inference.clients.enter_context(OpenAI(base_url=f"{url}/v1", api_key=inference.api_key, max_retries=0))
        with pytest.raises(InternalServerError) as away:
            ROUTES[route](client, "tools")
        warnings = httpx.get(f"{url}/readyz", trust_env=False).json()["warnings"]
    sentence = (
        "The inference engine does not answer: it may be starting, or it has crashed. Try again in a few seconds."
    )
    assert away.value.body["message"] == sentence  # type: ignore[index]
    assert int(away.value.response.headers["retry-after"]) > 0
    assert warnings == [f"Engine 1 of 1: {sentence}"]
