"""Validation of jobs without creating them."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from app.core.jobs import lifecycle
from app.core.models import weights
from tests.api.jobs import GRADER, gft, refused
from tests.api.server import Server

JUDGE = {"type": "label_model", "model": "judge", "labels": ["good", "bad"], "passing_labels": ["good"]} | {
    "input": [{"role": "user", "content": "{{sample.output_text}}"}]
}
BOTH = {"type": "multi", "graders": {"right": GRADER, "judge": JUDGE}, "calculate_output": "right + judge"}


def validate(client: OpenAI, **body: Any) -> Any:
    return client.post("/fine_tuning/jobs/validate", body={"model": "tiny"} | body, cast_to=object)


@pytest.fixture
def weighed(server: Server) -> Any:
    """Write the base model `tiny` with a million parameters in its header."""
    path = server.settings.models_dir / "tiny" / "model.safetensors"
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 0]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    yield
    path.unlink()


def test_valid_job_gets_its_plan(client: OpenAI, training_file: str, weighed: None) -> None:
    validation = validate(client, training_file=training_file, validation_file=training_file, method=gft())
    assert (validation["valid"], validation["errors"]) == (True, [])
    plan = validation["plan"]
    assert (plan["rows"], plan["held_out_rows"], plan["parameters"]) == (20, 20, 1_000_000)
    chosen = plan["method"]["gft"]["hyperparameters"]
    assert (chosen["batch_size"], chosen["n_epochs"], plan["total_steps"]) == (4, 10, 50)
    assert chosen["learning_rate_multiplier"] == 30
    assert plan["learning_rate"] == pytest.approx(3e-4)
    assert chosen.pop("sharding") == "auto"  # the worker decides by the memory of its GPUs
    assert "auto" not in json.dumps(chosen)
    assert list(client.fine_tuning.jobs.list()) == []


def test_no_plan_without_known_weights(client: OpenAI, training_file: str) -> None:
    validation = validate(client, training_file=training_file)
    assert (validation["valid"], validation["plan"]) == (True, None)


def test_all_form_problems_are_listed(client: OpenAI) -> None:
    method = {"type": "gft", "gft": {"group": {"self": 999}, "grader": GRADER}}
    validation = validate(client, method=method, seed=-1)
    assert not validation["valid"]
    assert {problem["param"] for problem in validation["errors"]} == {"method.gft.group.self", "training_file", "seed"}
    assert all(problem["message"] for problem in validation["errors"])


def test_wrong_field_is_one_problem(client: OpenAI) -> None:
    """The field accepts a number or `auto`, and the first form of the job has the same field."""
    [problem] = validate(client, training_file="file-1", hyperparameters={"batch_size": 512})["errors"]
    assert problem["param"] == "hyperparameters.batch_size"
    assert problem["message"].startswith("'hyperparameters.batch_size' should be less than or equal to 256 or 'auto'")


def test_all_semantic_problems_are_listed(client: OpenAI, training_file: str) -> None:
    validation = validate(
        client, model="nope", training_file="file-1", validation_file="file-2", method=gft(), alias="tiny"
    )
    codes = {problem["param"]: problem["code"] for problem in validation["errors"]}
    assert codes == {
        "model": "model_not_found",
        "alias": "invalid_request",
        "training_file": "file_not_found",
        "validation_file": "file_not_found",
    }
    gates = validate(client, training_file=training_file, method=gft(), gates=["eval/loss < 1"])
    assert [problem["param"] for problem in gates["errors"]] == ["gates.0"]


@pytest.mark.parametrize(("grader", "path"), [(JUDGE, ""), (BOTH, ".graders.judge")])
def test_judge_without_server_is_refused(client: OpenAI, training_file: str, grader: Any, path: str) -> None:
    method = gft(grader=grader)
    [problem] = validate(client, training_file=training_file, method=method)["errors"]
    assert (problem["code"], problem["param"]) == ("judge_not_configured", f"method.gft.grader{path}")
    assert "set GROUPTUNE_JUDGE_URL" in problem["message"]
    assert refused(client, training_file, method).code == "judge_not_configured"


def test_parameters_are_counted_from_headers(tmp_path: Path) -> None:
    assert weights.sizes(tmp_path) is None
    (tmp_path / "a.safetensors").write_bytes(b"no header")
    assert weights.sizes(tmp_path) is None


def test_overlap_and_long_rows_are_warnings(server: Server, client: OpenAI) -> None:
    def upload(*rows: dict[str, str]) -> str:
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        return client.files.create(file=content, purpose="fine-tune").id

    training = upload({"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d" * 90})
    held_out = upload({"prompt": "new", "completion": "b"}, {"prompt": "c", "completion": "another"})
    method = {
        "type": "supervised",
        "supervised": {"hyperparameters": {"max_length": 64}, "sampling": {"max_tokens": 4}},
    }
    waiting = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training,
        validation_file=held_out,
        method=method,  # type: ignore[arg-type] # max_length is ours
    )
    server.validate_files()
    validation = validate(client, training_file=training, validation_file=held_out, method=method)
    assert validation["valid"]
    assert [(problem["code"], problem["param"]) for problem in validation["warnings"]] == [
        ("rows_too_long", "training_file"),
        ("held_out_overlap", "validation_file"),
    ]
    long, shared = (problem["message"] for problem in validation["warnings"])
    assert long == (
        "1 of 2 rows of the training file is not used: 1 with an answer that is too long (line 2: the demonstration "
        "has 111 tokens with its prompt, which exceeds 64). Shorten the rows, or raise hyperparameters.max_length (up "
        "to the model's context)."
    )
    assert shared.startswith(
        "The prompts of 1 of 2 held-out rows are also in the training file (line 2 is training line 2)"
    )
    with server.database.transaction() as session:
        assert lifecycle.admit_validated(session) == 1
    events = client.fine_tuning.jobs.list_events(waiting.id).data
    assert [event.message for event in events if event.level == "warn"] == [shared, long]
    assert validate(client, training_file=training, validation_file=None, method=gft())["warnings"] == []
