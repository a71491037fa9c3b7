"""Gates and model aliases through the official SDK."""

from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.api.jobs import create, gft, refused
from tests.api.routes.test_models import publish
from tests.api.server import Server, lenient_and_strict

ACCURACY = "eval/accuracy >= 0.8"


def move(client: OpenAI, alias: str, model: str) -> Any:
    return client.put(f"/model_aliases/{alias}", body={"model": model}, cast_to=object)


@lenient_and_strict
def test_undecided_gates_are_shown(client: OpenAI, training_file: str) -> None:
    job = create(
        client,
        training_file,
        gft(),
        validation_file=training_file,
        extra_body={"gates": [ACCURACY, "no worse than alias prod by 0.01"], "alias": "prod"},
    )
    undecided = {"value": None, "bound": None, "passed": None, "reason": None}
    assert job.gates == [
        {"gate": ACCURACY, "metric": "eval/accuracy"} | undecided,
        {"gate": "no worse than alias prod by 0.01", "metric": "eval/reward"} | undecided,
    ]
    assert job.alias == "prod"
    assert client.fine_tuning.jobs.retrieve(job.id).to_dict()["gates"] == job.gates


@pytest.mark.parametrize("place", ["method", "gft"])
def test_gates_may_stand_in_the_method(client: OpenAI, training_file: str, place: str) -> None:
    if place == "method":
        job = create(client, training_file, gft(gates=[ACCURACY]), validation_file=training_file)
    else:
        method = {"type": "reinforcement", "reinforcement": {"grader": gft()["gft"]["grader"]}}
        body = {"gft": {"gates": [ACCURACY]}}
        job = create(client, training_file, method, validation_file=training_file, extra_body=body)
    assert [gate["gate"] for gate in job.gates] == [ACCURACY]


def test_a_job_without_gates_has_none(client: OpenAI, training_file: str) -> None:
    job = create(client, training_file)
    assert (job.gates, job.alias) == ([], None)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"gates": ["fast"]}, "gates.0", "is not a gate"),
        ({"gates": [ACCURACY]}, "gates.0", "send a validation_file"),
        ({"gates": [ACCURACY] * 17}, "gates", "16"),
        ({"alias": "Prod!"}, "alias", "should use 1 to 64 lower-case letters"),
        ({"alias": "tiny"}, "alias", "names a base model"),
    ],
)
def test_unmeasured_gates_are_refused(
    client: OpenAI, training_file: str, body: dict[str, Any], param: str, message: str
) -> None:
    error = refused(client, training_file, gft(), extra_body=body)
    assert error.param == param
    assert message in str(error)


def test_gates_in_two_places_are_refused(client: OpenAI, training_file: str) -> None:
    error = refused(client, training_file, gft(gates=[ACCURACY]), extra_body={"gates": [ACCURACY]})
    assert error.param == "method.gft.gates"


@lenient_and_strict
def test_an_alias_stands_for_its_model(server: Server, client: OpenAI, training_file: str, tmp_path: Path) -> None:
    first, second = publish(server, tmp_path / "a"), publish(server, tmp_path / "b")
    assert move(client, "prod", first)["model"] == first
    assert client.models.retrieve("prod").id == first
    assert create(client, training_file, model="prod").model == first
    assert move(client, "prod", second)["model"] == second
    assert client.models.retrieve("prod").id == second
    listed: Any = client.get("/model_aliases", cast_to=object)
    assert [(alias["id"], alias["model"]) for alias in listed["data"]] == [("prod", second)]


def test_model_with_an_alias_is_not_deleted(server: Server, client: OpenAI, tmp_path: Path) -> None:
    model = publish(server, tmp_path / "a")
    move(client, "prod", model)
    with pytest.raises(BadRequestError, match="Move or delete that alias first") as caught:
        client.models.delete(model)
    assert caught.value.code == "model_in_use"
    with pytest.raises(NotFoundError):
        client.models.delete("prod")
    gone: Any = client.delete("/model_aliases/prod", cast_to=object)
    assert gone == {"id": "prod", "object": "model_alias", "deleted": True}
    assert client.models.delete(model).deleted


def test_alias_names_only_own_models(server: Server, client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="owns no fine-tuned model"):
        move(client, "prod", "ft:tiny:other::12345678")
    with pytest.raises(BadRequestError, match="names a base model"):
        move(client, "tiny", "ft:tiny:other::12345678")
    with pytest.raises(NotFoundError, match="no alias 'prod'"):
        client.get("/model_aliases/prod", cast_to=object)
