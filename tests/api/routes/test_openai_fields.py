"""Fields of OpenAI's and Azure's jobs that have another form here, or no effect: never silent."""

import re
from typing import Any, cast, get_type_hints

import pytest
from openai import OpenAI
from openai.types.fine_tuning import ReinforcementHyperparametersParam

from app.core.jobs.tables import Job
from tests.api.jobs import GRADER, create, gft, refused
from tests.api.server import Server


def reinforcement(hyperparameters: Any = None, **fields: Any) -> dict[str, Any]:
    settings = {"grader": GRADER, "hyperparameters": hyperparameters or {}} | fields
    return {"type": "reinforcement", "reinforcement": settings}


def settings_of(server: Server, job: Any) -> dict[str, Any]:
    with server.database.transaction() as session:
        settings: dict[str, Any] = session.get_one(Job, job.id).spec["settings"]
    return settings


def warnings_of(client: OpenAI, job: Any) -> list[tuple[str, str]]:
    """Code and field of each warning of the job's events."""
    events: list[Any] = [event for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn"]
    return sorted((event.data["code"], event.data["param"]) for event in events)


def validated(client: OpenAI, training_file: str, **body: Any) -> dict[str, Any]:
    body = {"model": "tiny", "training_file": training_file} | body
    answer = cast(dict[str, Any], client.post("/fine_tuning/jobs/validate", body=body, cast_to=object))
    assert answer["valid"], answer
    return answer


HYPERPARAMETERS = "method.reinforcement.hyperparameters"
NOTICED: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "neutral": (reinforcement({"compute_multiplier": 1, "reasoning_effort": "default", "eval_samples": "auto"}), []),
    "neutral float": (reinforcement({"compute_multiplier": 1.0}), []),
    "effort": (
        reinforcement({"reasoning_effort": "medium"}),
        [("converted_field", f"{HYPERPARAMETERS}.reasoning_effort")],
    ),
    "compute": (
        reinforcement({"compute_multiplier": 1.5}),
        [("converted_field", f"{HYPERPARAMETERS}.compute_multiplier")],
    ),
    "answers": (
        reinforcement({"eval_samples": 5, "eval_interval": 2}),
        [("converted_field", f"{HYPERPARAMETERS}.eval_samples")],
    ),
    "plain text": (reinforcement(response_format={"type": "text"}, tools=[]), []),
    "structured output": (
        reinforcement(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        [("ignored_field", "method.reinforcement.response_format")],
    ),
    "episodes": (
        reinforcement(max_episode_steps=10),
        [("ignored_field", "method.reinforcement.max_episode_steps")],
    ),
}


@pytest.mark.parametrize("case", NOTICED)
def test_field_is_accepted_and_named(client: OpenAI, training_file: str, case: str) -> None:
    method, expected = NOTICED[case]
    validation = validated(client, training_file, method=method, validation_file=training_file)
    found = [(warning["code"], warning["param"]) for warning in validation["warnings"]]
    assert sorted(set(found) - {("held_out_overlap", "validation_file")}) == expected
    job = create(client, training_file, method, validation_file=training_file)
    assert [item for item in warnings_of(client, job) if item[0] != "held_out_overlap"] == expected


def test_compute_multiplier_sets_the_rollouts(server: Server, training_file: str) -> None:
    client = server.client()
    for multiplier, rollouts in ((1.5, 12), (0.5, 4), (0.01, 2), (8, 64)):
        job = create(client, training_file, reinforcement({"compute_multiplier": multiplier}))
        assert settings_of(server, job)["group"]["self"] == rollouts
    method = reinforcement({"compute_multiplier": 2})
    typed = create(client, training_file, method, extra_body={"gft": {"group": {"expert": 1}}})
    assert settings_of(server, typed)["group"] == {"expert": 1, "teacher": 3, "self": 8}


def test_reasoning_effort_is_a_template_variable(server: Server, training_file: str) -> None:
    client = server.client()
    for sent, variables in (
        (None, {"reasoning_effort": "high"}),
        ({"enable_thinking": True}, {"reasoning_effort": "high", "enable_thinking": True}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    ):
        body = {} if sent is None else {"chat_template_kwargs": sent}
        job = create(client, training_file, reinforcement({"reasoning_effort": "high"}), extra_body=body)
        assert job.chat_template_kwargs == variables


def test_eval_samples_are_answers_per_row(server: Server, training_file: str) -> None:
    """OpenAI averages that many answers to each held-out row; it does not cut the file."""
    client = server.client()
    job = create(client, training_file, reinforcement({"eval_samples": 5}), validation_file=training_file)
    settings = settings_of(server, job)
    assert settings["evaluation"]["pass_samples"] == 5
    assert settings["hyperparameters"]["eval_samples"] == "auto"
    ours = create(client, training_file, gft(hyperparameters={"eval_samples": 5}), validation_file=training_file)
    assert settings_of(server, ours)["hyperparameters"]["eval_samples"] == 5


def test_azure_sends_them_at_the_top(server: Server, training_file: str) -> None:
    client = server.client()
    top = {"n_epochs": 2, "compute_multiplier": 1.0, "reasoning_effort": "high", "eval_interval": 3}
    job = create(client, training_file, reinforcement(), validation_file=training_file, hyperparameters=top)
    settings = settings_of(server, job)
    assert (settings["hyperparameters"]["n_epochs"], settings["hyperparameters"]["eval_interval"]) == (2, 3)
    assert ("converted_field", "hyperparameters.reasoning_effort") in warnings_of(client, job)


def test_every_openai_hyperparameter_is_known(server: Server, training_file: str) -> None:
    """The SDK's own type lists them; a new one fails here."""
    values: dict[str, Any] = {"reasoning_effort": "low", "learning_rate_multiplier": 0.5, "compute_multiplier": 0.5}
    sent = {name: values.get(name, 2) for name in get_type_hints(ReinforcementHyperparametersParam)}
    assert len(sent) == 7
    job = create(server.client(), training_file, reinforcement(sent), validation_file=training_file)
    assert job.status == "queued"


def test_evaluation_needs_held_out_rows(client: OpenAI, training_file: str) -> None:
    method = gft(hyperparameters={"eval_interval": 5}, evaluation={"patience": 2, "pass_samples": 4})
    fields = ("evaluation.pass_samples", "evaluation.patience", "hyperparameters.eval_interval")
    job = create(client, training_file, method)
    assert warnings_of(client, job) == [("ignored_field", f"method.gft.{field}") for field in fields]


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "effort": (
        reinforcement({"reasoning_effort": "extreme"}),
        {},
        f"{HYPERPARAMETERS}.reasoning_effort",
        "'default', .*'high'.*you sent 'extreme'",
    ),
    "too much": (
        reinforcement({"compute_multiplier": 9}),
        {},
        f"{HYPERPARAMETERS}.compute_multiplier",
        "up to 8; you sent 9",
    ),
    "not a number": (
        reinforcement({"compute_multiplier": "big"}),
        {},
        f"{HYPERPARAMETERS}.compute_multiplier",
        "'auto' or a number",
    ),
    "top level": (
        reinforcement(),
        {"hyperparameters": {"compute_multiplier": -1}},
        "hyperparameters.compute_multiplier",
        "'hyperparameters.compute_multiplier' should be",
    ),
    "rollouts twice": (
        reinforcement({"compute_multiplier": 2}, group={"self": 4}),
        {},
        f"{HYPERPARAMETERS}.compute_multiplier",
        "Send only `group.self`",
    ),
    "many answers": (
        reinforcement({"eval_samples": 200}),
        {},
        f"{HYPERPARAMETERS}.eval_samples",
        "from 1 to 64; you sent 200.*shorten the validation file",
    ),
    "tools": (
        reinforcement(tools=[{"name": "search", "server_url": "https://x.example"}]),
        {},
        "method.reinforcement.tools",
        "Remove `tools`.*rows",
    ),
    "other method": (
        gft(hyperparameters={"compute_multiplier": 2}),
        {},
        "method.gft.hyperparameters.compute_multiplier",
        "Unknown field",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused(client: OpenAI, training_file: str, case: str) -> None:
    method, fields, param, message = REFUSED[case]
    error = refused(client, training_file, method, **fields)
    assert error.param == param
    assert re.search(message, str(error)), str(error)


@pytest.mark.parametrize("method", [None, gft(), reinforcement()])
def test_wrong_value_names_only_what_was_sent(client: OpenAI, training_file: str, method: Any) -> None:
    """A top-level hyperparameter is moved into the method; the error is about the one that was sent."""
    error = refused(client, training_file, method, hyperparameters={"batch_size": 512})
    assert error.param == "hyperparameters.batch_size"
    assert "you sent 512" in str(error)
    assert "method" not in str(error)
    assert "Other wrong" not in str(error)
