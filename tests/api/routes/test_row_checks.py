"""Whether a job's rows can be used is known before the job: in `jobs/validate`, in its creation, in the job."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI

from app.core.jobs import lifecycle
from tests.api.jobs import GRADER, create, refused
from tests.api.server import Server
from tests.tiny_model import write_tokenizer
from worker.limited_process import ProcessLimits
from worker.row_checking import check_one

NO_SYSTEM: Final = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('This model has no system turn') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM2: Final = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SUPERVISED: Final = {"type": "supervised"}
Upload = Callable[[list[dict[str, Any]]], str]
AddModel = Callable[..., str]


def chat(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def sum_of(number: int, system: str | None = None) -> dict[str, Any]:
    opening = [("system", system)] if system else []
    return chat(*opening, ("user", f"{number}+1="), ("assistant", str(number + 1)))


def long_row(size: int) -> dict[str, Any]:
    return chat(("user", "1+1="), ("assistant", "2" * size))


@pytest.fixture
def upload(server: Server) -> Upload:
    """Upload rows and validate the file."""
    client = server.client()

    def send(rows: list[dict[str, Any]]) -> str:
        content = "\n".join(map(json.dumps, rows)).encode()
        file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
        server.validate_files()
        return file.id

    return send


@pytest.fixture
def add_model(server: Server) -> Any:
    """Add base models with the tiny tokenizer and another chat template or context; remove them at the end."""
    made: list[Path] = []

    def add(name: str, template: str | None = None, context: int | None = None) -> str:
        directory = server.settings.models_dir / name
        directory.mkdir()
        made.append(directory)
        write_tokenizer(directory)
        (directory / "config.json").write_text(json.dumps({"max_position_embeddings": context} if context else {}))
        names = ("model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head")
        weight = {"dtype": "F32", "shape": [500, 500], "data_offsets": [0, 0]}
        header = json.dumps({f"{name}.weight": weight for name in names}).encode()
        (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        if template is not None:
            (directory / "chat_template.jinja").write_text(template)
        return name

    yield add
    for directory in made:
        shutil.rmtree(directory)


def validate(client: OpenAI, training_file: str, **fields: Any) -> Any:
    body = {"model": "tiny", "training_file": training_file, "method": SUPERVISED} | fields
    return client.post("/fine_tuning/jobs/validate", body=body, cast_to=object)


def retrieve(client: OpenAI, job_id: str) -> Any:
    return client.fine_tuning.jobs.retrieve(job_id)


def warnings(client: OpenAI, job_id: str) -> list[Any]:
    return [event for event in client.fine_tuning.jobs.list_events(job_id).data if event.level == "warn"]


def test_rows_that_the_template_rejects_are_refused(client: OpenAI, upload: Upload, add_model: AddModel) -> None:
    model = add_model("tiny-nosys", NO_SYSTEM)
    file_id = upload([sum_of(number, "Be brief.") for number in range(8)])
    validation = validate(client, file_id, model=model)
    assert not validation["valid"]
    [problem] = validation["errors"]
    assert (problem["code"], problem["param"]) == ("no_usable_rows", "training_file")
    assert problem["message"] == (
        "The method 'supervised' can use no row of the training file. 8 of 8 rows of the training file are not used: "
        "8 rejected by the model's chat template (line 1: the model's chat template rejects the messages: This model "
        "has no system turn). Change the rows as the message says, or choose another base model."
    )
    assert validation["rows"] == {"used": 0, "dropped": {"template_refused": 8}}
    error = refused(client, file_id, SUPERVISED, model=model)
    assert (error.code, error.param) == ("no_usable_rows", "training_file")


def test_some_lost_rows_are_counted(client: OpenAI, upload: Upload, add_model: AddModel) -> None:
    model = add_model("tiny-nosys", NO_SYSTEM)
    few = upload([sum_of(number) for number in range(19)] + [sum_of(19, "Be brief.")])
    validation = validate(client, few, model=model)
    assert (validation["valid"], validation["warnings"]) == (True, [])
    assert validation["rows"] == {"used": 19, "dropped": {"template_refused": 1}}

    many = upload([sum_of(number) for number in range(8)] + [sum_of(number, "Be brief.") for number in range(2)])
    validation = validate(client, many, model=model)
    assert validation["valid"]
    [warning] = validation["warnings"]
    assert (warning["code"], warning["param"]) == ("rows_dropped", "training_file")
    assert "2 of 10 rows" in warning["message"]
    assert "line 9" in warning["message"]

    job = create(client, many, SUPERVISED, model=model)
    assert (job.status, job.rows) == ("queued", {"used": 8, "dropped": {"template_refused": 2}})
    [event] = warnings(client, job.id)
    assert event.message == warning["message"]
    assert event.data["rows"] == {"used": 8, "dropped": {"template_refused": 2}}


def test_template_without_tool_calls_says_so(client: OpenAI, upload: Upload, add_model: AddModel) -> None:
    """Earlier turns with calls and no content: the template of the catalogue's own model joins texts."""
    model = add_model("smol", SMOLLM2)
    call = {"id": "call_0", "type": "function", "function": {"name": "tide_table", "arguments": '{"harbour": "Oban"}'}}
    row = {
        "messages": [
            {"role": "user", "content": "When is high tide in Oban?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_0", "content": "06:12"},
            {"role": "assistant", "content": "At 06:12 in Oban."},
        ],
        "tools": [{"type": "function", "function": {"name": "tide_table", "parameters": {"type": "object"}}}],
    }
    file_id = upload([row] * 3)
    validation = validate(client, file_id, model=model)
    [problem] = validation["errors"]
    assert problem["code"] == "no_usable_rows"
    assert (
        "the model's chat template does not write tool calls, so the call of tide_table cannot be trained"
        in (problem["message"])
    )
    last = {"type": "supervised", "supervised": {"train_turns": "last"}}
    validation = validate(client, file_id, model=model, method=last)
    assert validation["valid"]
    assert validation["rows"] == {"used": 3, "dropped": {}}
    assert [warning["code"] for warning in validation["warnings"]] == ["tools_left_out", "tool_calls_left_out"]
    assert all("(the first is line 1)" in warning["message"] for warning in validation["warnings"])


def test_rows_longer_than_the_context_are_lost(client: OpenAI, upload: Upload, add_model: AddModel) -> None:
    """The default `max_length` is 2,048, the context of the model 512."""
    model = add_model("short", context=512)
    file_id = upload([long_row(700) for _ in range(4)])
    validation = validate(client, file_id, model=model)
    assert validation["rows"] == {"used": 0, "dropped": {"answer_too_long": 4}}
    assert refused(client, file_id, SUPERVISED, model=model).code == "no_usable_rows"
    assert validate(client, file_id)["rows"] == {"used": 4, "dropped": {}}


def test_held_out_file_without_room_is_refused(client: OpenAI, upload: Upload) -> None:
    training = upload([sum_of(number) | {"reference_answer": str(number + 1)} for number in range(8)])
    held_out = upload([sum_of(number) | {"reference_answer": str(number + 1)} for number in range(20, 24)])
    settings = {"grader": GRADER, "hyperparameters": {"max_length": 512}, "sampling": {"max_tokens": 500}}
    method = {"type": "supervised", "supervised": settings}
    validation = validate(client, training, validation_file=held_out, method=method)
    [problem] = validation["errors"]
    assert (problem["code"], problem["param"]) == ("no_usable_rows", "validation_file")
    assert "plus 500 to generate exceed 512 tokens" in problem["message"]
    assert "lower sampling.max_tokens" in problem["message"]
    assert validation["rows"] == {"used": 8, "dropped": {}}
    assert validation["held_out_rows"] == {"used": 0, "dropped": {"prompt_too_long": 4}}
    error = refused(client, training, method, validation_file=held_out)
    assert (error.code, error.param) == ("no_usable_rows", "validation_file")


def test_unusable_tokenizer_is_an_error(client: OpenAI, upload: Upload, add_model: AddModel, server: Server) -> None:
    model = add_model("broken")
    (server.settings.models_dir / model / "tokenizer_config.json").write_text("{}")
    file_id = upload([sum_of(number) for number in range(8)])
    [problem] = validate(client, file_id, model=model)["errors"]
    assert (problem["code"], problem["param"]) == ("model_without_chat_template", "model")
    error = refused(client, file_id, SUPERVISED, model=model)
    assert (error.code, error.param) == ("model_without_chat_template", "model")


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("c_attn", "The base model has no module 'c_attn'. Use 'all-linear', or some of: q_proj, up_proj."),
        ("lm_head", "The output head must stay frozen. Use 'all-linear', or some of: q_proj, up_proj."),
    ],
)
def test_unusable_lora_module_is_refused(
    server: Server, upload: Upload, add_model: AddModel, module: str, problem: str
) -> None:
    client = server.client()
    model = add_model("layered")
    file_id = upload([sum_of(number) for number in range(8)])

    def targeting(*modules: str) -> dict[str, Any]:
        return {"type": "supervised", "supervised": {"hyperparameters": {"lora": {"target_modules": modules}}}}

    error = refused(client, file_id, targeting("q_proj", module), model=model)
    assert (error.code, error.param) == ("invalid_lora", "method.supervised.hyperparameters.lora.target_modules")
    assert error.body["message"] == problem  # type: ignore[index]
    assert validate(client, file_id, model=model, method=targeting("q_proj", "mlp.up_proj"))["valid"]


def test_model_that_is_not_pulled_is_named(client: OpenAI, upload: Upload) -> None:
    file_id = upload([sum_of(number) for number in range(8)])
    validation = validate(client, file_id, model="qwen3-0.6b")
    assert (validation["valid"], validation["rows"]) == (True, None)
    [warning] = validation["warnings"]
    assert warning["code"] == "model_not_pulled"
    job = create(client, file_id, SUPERVISED, model="qwen3-0.6b")
    assert (job.status, job.rows) == ("queued", None)
    assert [event.data["code"] for event in warnings(client, job.id)] == ["model_not_pulled"]


def large(rows: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{number}", "completion": "2"} for number in range(rows)]


def test_large_file_is_checked_by_a_worker(server: Server, upload: Upload) -> None:
    client = server.client()
    file_id = upload([*large(5_001), long_row(3_000)])
    validation = validate(client, file_id)
    assert (validation["valid"], validation["rows"]) == (True, None)
    assert [warning["code"] for warning in validation["warnings"]] == ["rows_not_rendered"]
    job = create(client, file_id, SUPERVISED)
    assert (job.status, job.rows) == ("validating_files", None)
    assert check_one(server.database, server.store, server.settings.models_dir)
    assert not check_one(server.database, server.store, server.settings.models_dir)
    with server.database.transaction() as session:
        assert lifecycle.admit_validated(session) == 1
    job = retrieve(client, job.id)
    assert (job.status, job.rows) == ("queued", {"used": 5_001, "dropped": {"answer_too_long": 1}})
    assert warnings(client, job.id) == []
    # From now on the result is known: validation and a second job answer at once.
    assert validate(client, file_id)["rows"] == job.rows
    assert create(client, file_id, SUPERVISED).status == "queued"
    other = {"type": "supervised", "supervised": {"hyperparameters": {"max_length": 4_000}}}
    assert validate(client, file_id, method=other)["rows"] is None


def test_worker_fails_a_job_that_loses_all_rows(server: Server, add_model: AddModel) -> None:
    client = server.client()
    model = add_model("tiny-nosys", NO_SYSTEM)
    content = "\n".join(json.dumps(sum_of(number, "Be brief.")) for number in range(8)).encode()
    file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    job = create(client, file.id, SUPERVISED, model=model)
    assert job.status == "validating_files"
    server.validate_files()
    with server.database.transaction() as session:
        lifecycle.admit_validated(session)
    job = retrieve(client, job.id)
    assert job.status == "failed"
    assert (job.error.code, job.error.param) == ("no_usable_rows", "training_file")


def test_check_that_hits_its_limits_blocks_no_job(server: Server, upload: Upload, add_model: AddModel) -> None:
    client = server.client()
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = add_model("slow", f"{{% if messages[0]['content'] == '4999' %}}{endless}{{% endif %}}{SMOLLM2}")
    file_id = upload(large(5_001))
    job = create(client, file_id, SUPERVISED, model=model)
    limits = ProcessLimits(seconds=2)
    assert check_one(server.database, server.store, server.settings.models_dir, limits)
    with server.database.transaction() as session:
        assert lifecycle.admit_validated(session) == 1
    job = retrieve(client, job.id)
    assert (job.status, job.rows) == ("queued", None)
    [event] = warnings(client, job.id)
    assert event.data == {"code": "rows_not_rendered", "param": "training_file"}
    assert event.message.startswith("The rows of the training file were not rendered in advance: the rendering ")
    assert "took longer than 2 s" in event.message or "SIGXCPU" in event.message


def test_plan_counts_only_used_rows(client: OpenAI, upload: Upload, add_model: AddModel) -> None:
    model = add_model("short", context=512)
    file_id = upload([sum_of(number) for number in range(30)] + [long_row(700)])
    validation = validate(client, file_id, model=model)
    assert validation["rows"]["used"] == 30
    assert validation["plan"]["rows"] == 30


def test_misspelt_template_variable_is_named(client: OpenAI, upload: Upload, add_model: AddModel) -> None:
    file_id = upload([sum_of(number) for number in range(3)])
    answer = validate(client, file_id, model=add_model("plain"), chat_template_kwargs={"enable_thinkin": False})
    assert answer["valid"]
    [warning] = [found for found in answer["warnings"] if found["code"] == "template_variable_unread"]
    assert warning["param"] == "chat_template_kwargs"
    assert "`enable_thinkin`" in warning["message"]


def test_pairs_among_answers_are_counted(client: OpenAI, upload: Upload, add_model: AddModel) -> None:
    pair = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
    file_id = upload([sum_of(1), sum_of(2), pair])
    assert validate(client, file_id, model=add_model("plain"))["rows"] == {"used": 2, "dropped": {"no_answer": 1}}
