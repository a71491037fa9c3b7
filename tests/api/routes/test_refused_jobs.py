"""Refused jobs: the error names the field's path and how to fix it."""

import re
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.api.jobs import GRADER, gft, refused, with_row_17
from tests.api.server import Server, serve, variant

REFUSED: dict[str, tuple[dict[str, Any], Any, str, str]] = {
    "unknown model": ({"model": "gpt-4o"}, None, "model", "Known here: .*tiny"),
    "longer model than a file's name": ({"model": "m" * 500}, None, "model", "Known here: .*tiny"),
    "endless model": ({"model": "m" * 5000}, None, "model", "at most 512 characters"),
    "missing file": ({"training_file": "file-none"}, None, "training_file", "Upload a file"),
    "missing validation file": ({"validation_file": "file-none"}, None, "validation_file", "Upload a file"),
    "no grader": (
        {},
        {"type": "gft", "gft": {}},
        "method.gft.grader",
        "is missing: specify how answers are scored",
    ),
    "no settings": ({}, {"type": "gft"}, "method.gft.grader", "is missing"),
    "no grader for rl": ({}, {"type": "reinforcement"}, "method.reinforcement.grader", "is missing"),
    "grader names an absent field": (
        {},
        gft(grader=GRADER | {"reference": "{{item.answer}}"}),
        "method.gft.grader.reference",
        "item.answer, but no row in the file .*reference_answer",
    ),
    "grader without a type": ({}, gft(grader={"name": "x"}), "method.gft.grader", "type"),
    "unknown grader": ({}, gft(grader={"type": "vibes"}), "method.gft.grader", "'vibes'.*'string_check'"),
    "bad template": (
        {},
        gft(grader=GRADER | {"input": "{{ x }}"}),
        "method.gft.grader.input",
        "not a variable",
    ),
    "expert only": (
        {},
        gft(group={"teacher": 0, "self": 0}),
        "method.gft.group",
        "set group.self to at least 1",
    ),
    "divergence without rollouts": (
        {},
        gft(group={"self": 0}, kl_coefficient=0.1),
        "method.gft.kl_coefficient",
        "set group.self to at least 1",
    ),
    "several updates of given answers": (
        {},
        gft(updates_per_batch=2),
        "method.gft.updates_per_batch",
        "set group.expert and group.teacher to 0",
    ),
    "clip of one update": (
        {},
        {"type": "reinforcement", "reinforcement": {"grader": GRADER, "clip_high": 0.28}},
        "method.reinforcement.clip_high",
        "Set updates_per_batch to at least 2",
    ),
    "too many": (
        {},
        gft(group={"self": 65}),
        "method.gft.group.self",
        "less than or equal to 64; you sent 65",
    ),
    "typo": (
        {},
        gft(hyperparameters={"n_epoch": 3}),
        "method.gft.hyperparameters.n_epoch",
        "did you mean 'n_epochs'",
    ),
    "typo in group": ({}, gft(group={"selfs": 3}), "method.gft.group.selfs", "did you mean 'self'"),
    "typo on top": ({"extra_body": {"sufix": "x"}}, None, "sufix", "did you mean 'suffix'"),
    "not a number": (
        {},
        gft(hyperparameters={"n_epochs": "many"}),
        "method.gft.hyperparameters.n_epochs",
        "integer.* or 'auto'; you sent 'many'",
    ),
    "not finite": ({}, gft(tau=2), "method.gft.tau", "less than or equal to 1"),
    "no pairs": ({}, {"type": "dpo", "dpo": {}}, "training_file", r"two answers .*`preferred_output`"),
    "beta": (
        {},
        {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}},
        "method.dpo.hyperparameters.beta",
        "greater than 0.*'auto'; you sent 0",
    ),
    "too much smoothing": (
        {},
        {"type": "dpo", "dpo": {"hyperparameters": {"label_smoothing": 0.5}}},
        "method.dpo.hyperparameters.label_smoothing",
        "less than 0.5",
    ),
    "unknown method": ({}, {"type": "magic"}, "method.type", "'magic'"),
    "no type": ({}, {"gft": {}}, "method", "type"),
    "method is text": ({}, "gft", "method", "dictionary|object"),
    "typed form, typo": (
        {"extra_body": {"gft": {"tao": 1}}},
        {"type": "reinforcement", "reinforcement": {"grader": GRADER}},
        "gft.tao",
        "did you mean 'tau'",
    ),
    "typed form, absent field": (
        {"extra_body": {"gft": {"tau": 1}}},
        {"type": "reinforcement", "reinforcement": {"grader": GRADER | {"reference": "{{item.answer}}"}}},
        "method.reinforcement.grader.reference",
        "item.answer",
    ),
    "gft twice": ({"extra_body": {"gft": {"tau": 1}}}, gft(), "gft", "method.gft"),
    "expert in rl": (
        {},
        {"type": "reinforcement", "reinforcement": {"grader": GRADER, "group": {"expert": 1}}},
        "method.reinforcement.group.expert",
        "0",
    ),
    "seed": ({"seed": -1}, None, "seed", "greater than or equal to 0"),
    "suffix": ({"suffix": "a/b"}, None, "suffix", "letters, digits"),
    "metadata": ({"metadata": {"k": "v" * 513}}, None, "metadata.k", "512"),
    "too much metadata": ({"metadata": {str(n): "" for n in range(17)}}, None, "metadata", "16"),
    "wandb": (
        {"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]},
        None,
        "integrations.0.type",
        "GROUPTUNE_TRACKERS",
    ),
    "tracker": ({"integrations": [{"type": "comet"}]}, None, "integrations.0", "wandb"),
    "wandb without project": (
        {"integrations": [{"type": "wandb", "wandb": {}}]},
        None,
        "integrations.0.wandb.project",
        "",
    ),
    "top-level typo": ({"hyperparameters": {"epochs": 3}}, None, "hyperparameters.epochs", "n_epochs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_job_is_refused_with_advice(server: Server, rows: Path, case: str) -> None:
    client = server.client()
    file = client.files.create(file=rows, purpose="fine-tune")
    server.validate_files()
    fields, method, param, message = REFUSED[case]
    error = refused(client, file.id, method, **fields)
    assert error.param == param
    assert error.type == "invalid_request_error"
    assert error.code
    assert re.search(message, str(error)), str(error)


BAD_ROWS = {
    "half an object": ('{"messages": [', None, "invalid JSON .*each line must be one complete object"),
    "no assistant and no prompt": (
        '{"reference_answer": "2"}',
        None,
        "the row has `reference_answer`, and neither `messages` nor `prompt`; map them",
    ),
    "only a system message": (
        '{"messages": [{"role": "system", "content": "Add."}]}',
        "messages",
        "neither an assistant nor a user message; add one",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_refused_with_its_line(server: Server, client: OpenAI, case: str) -> None:
    row, param, message = BAD_ROWS[case]
    file = client.files.create(file=with_row_17(row), purpose="fine-tune")
    server.validate_files()
    report: Any = client.get(f"/files/{file.id}/report", cast_to=object)
    assert [(problem["line"], problem["param"]) for problem in report["report"]["errors"]] == [(17, param)]
    error = refused(client, file.id, gft())
    assert (error.param, error.code, error.type) == ("training_file", "invalid_file", "invalid_request_error")
    assert re.search(f"line 17: .*{message}", str(error)), str(error)


def test_a_missing_field_is_named(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="'training_file' is missing: upload") as caught:
        client.post("/fine_tuning/jobs", body={"model": "tiny"}, cast_to=object)
    assert caught.value.param == "training_file"


LOCAL: dict[str, tuple[dict[str, Any], str, str]] = {
    "teacher": (
        gft(teacher={"model": "llama3", "base_url": "http://localhost:11434/v1"}),
        "method.gft.teacher.base_url",
        "localhost:11434",
    ),
    "reward server": (
        gft(grader={"type": "endpoint", "url": "http://localhost:9000/grade"}),
        "method.gft.grader.url",
        "localhost:9000",
    ),
    "reward server of a formula": (
        gft(
            grader={
                "type": "multi",
                "graders": {"mine": {"type": "endpoint", "url": "http://10.0.0.7/grade"}, "exact": GRADER},
                "calculate_output": "mine + exact",
            }
        ),
        "method.gft.grader.graders.mine.url",
        "10.0.0.7",
    ),
}


@pytest.mark.parametrize("case", LOCAL)
def test_local_address_is_refused_with_the_cure(server: Server, training_file: str, case: str) -> None:
    """Ollama on this machine is what people try first."""
    method, param, host = LOCAL[case]
    with (
        serve(variant(server.settings, allowed_private_hosts=())) as url,
        OpenAI(base_url=f"{url}/v1", api_key=server.api_key, max_retries=0) as client,
    ):
        error = refused(client, training_file, method)
        assert (error.param, error.code) == (param, "address_not_allowed")
        cure = f"Only the operator can allow it: GROUPTUNE_ALLOWED_PRIVATE_HOSTS={host} for the API"
        assert str(error.message).count(cure) == 1
        body = {"model": "tiny", "training_file": training_file, "method": method}
        validation: Any = client.post("/fine_tuning/jobs/validate", body=body, cast_to=object)
        assert [(problem["param"], cure in problem["message"]) for problem in validation["errors"]] == [(param, True)]
        for path, sent in (
            (
                "/webhook_endpoints",
                {"url": f"http://{host}/x", "name": "x", "event_types": ["fine_tuning.job.succeeded"]},
            ),
            ("/fine_tuning/alpha/graders/validate", {"grader": {"type": "endpoint", "url": f"http://{host}/x"}}),
        ):
            with pytest.raises(BadRequestError, match=f"ALLOWED_PRIVATE_HOSTS={host}"):
                client.post(path, body=sent, cast_to=object)
