"""From rows to a downloaded adapter through the official SDK, with real workers and engines."""

import csv
import io
import json
import math
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.api.jobs import GRADER, broken_at_17, gft
from tests.tiny_model import write_pairs, write_rows
from tests.waiting import eventually

FINISHED = ("succeeded", "failed", "cancelled")
POLL_SECONDS = 0.2
VARIED = {
    "type": "python",
    "source": "def grade(sample, item):\n    return sum(map(ord, sample['output_text'])) % 7 / 7",
}
"""A reward that differs between the random answers of an untrained model."""


@pytest.fixture
def client(stack: Any) -> OpenAI:
    """The official SDK against a whole running installation."""
    return OpenAI(base_url=f"{stack.base_url.removesuffix('/v1')}/v1", api_key=stack.api_key)


def test_local_clients_cannot_forge_their_address(client: OpenAI) -> None:
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"}
    body = {"name": "forged", "scopes": ["jobs:read"]}
    key: Any = client.post("/api_keys", body=body, cast_to=object, options={"headers": forged})
    page: Any = client.get("/audit_log", cast_to=object, options={"params": {"object_id": key["id"]}})
    assert [entry["actor"]["ip"] for entry in page["data"]] == ["127.0.0.1"]


def finished(client: OpenAI, job_id: str) -> Any:
    """Poll the job until it has ended, as any client does."""
    eventually(lambda: client.fine_tuning.jobs.retrieve(job_id).status in FINISHED)
    return client.fine_tuning.jobs.retrieve(job_id)


# peft 0.21 asks transformers 5 by an old name; gone with peft's next release.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_upload_train_watch_download(client: OpenAI, tiny_models: Path, tmp_path: Path) -> None:
    training = client.files.create(file=write_rows(tmp_path / "train.jsonl", 16), purpose="fine-tune")
    held_out = client.files.create(file=write_rows(tmp_path / "held_out.jsonl", 8, start=16), purpose="fine-tune")
    test = client.files.create(file=write_rows(tmp_path / "test.jsonl", 6, start=30), purpose="fine-tune")
    method: Any = gft(
        group={"expert": 1, "teacher": 2, "self": 2},
        sampling={"max_tokens": 8},
        hyperparameters={"batch_size": 4, "max_steps": 4, "eval_interval": 2, "checkpoint_interval": 2},
    )
    files: Any = {"training_file": training.id, "validation_file": held_out.id}
    extra: Any = {"test_file": test.id}
    created = client.fine_tuning.jobs.create(
        model="tiny", suffix="sums", seed=7, method=method, **files, extra_body=extra
    )
    assert created.status in ("validating_files", "queued", "running")
    assert client.files.wait_for_processing(training.id, poll_interval=POLL_SECONDS).status == "processed"

    job = finished(client, created.id)
    assert job.status == "succeeded", job.error
    assert job.progress["step"] == job.progress["total_steps"] == 4
    assert job.hyperparameters.batch_size == 4
    assert job.trained_tokens > 0
    assert job.error is None
    assert {"before", "after"} <= set(job.evaluation)
    assert job.test_file == test.id
    assert (job.test_rows["used"], job.evaluation["after"]["rows"], job.evaluation["selection_rows"]) == (6, 6, 8)
    assert job.evaluation["lines"] == {"selection": [*range(1, 9)], "reporting": [*range(1, 7)]}
    low, high = job.evaluation["after"]["intervals"]["eval/accuracy"]
    assert low <= job.evaluation["after"]["values"]["eval/accuracy"] <= high
    assert job.verdict in ("improved", "no_change", "worse")
    assert job.comparison["rows"] == 6
    assert_measurements_feed_estimates(client, job, {"model": "tiny", "method": method, **files, **extra})

    assert_records_are_complete(client, job.id)
    assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
    assert_answers_match_the_evaluation(client, job, tmp_path / "test.jsonl")
    assert_an_eval_repeats_the_evaluation(client, job)
    assert_the_result_file_has_every_step(client, job.result_files)
    download = client.models.with_raw_response.retrieve(f"{job.fine_tuned_model}/download")
    with tarfile.open(fileobj=io.BytesIO(download.content)) as archive:
        assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(archive.getnames())
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            (tmp_path / member.name).write_bytes(content.read())
    assert_peft_loads(tiny_models / "tiny", tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_pairs_of_answers_train(client: OpenAI, tmp_path: Path) -> None:
    """OpenAI's files and fields; the job reports TRL's metrics and passes a gate on them."""
    training = client.files.create(file=write_pairs(tmp_path / "train.jsonl", 16), purpose="fine-tune")
    held_out = client.files.create(file=write_pairs(tmp_path / "held_out.jsonl", 8, start=16), purpose="fine-tune")
    for file in (training, held_out):
        assert client.files.wait_for_processing(file.id, poll_interval=POLL_SECONDS).status == "processed"
    report: Any = client.get(f"/files/{training.id}/report", cast_to=object)
    assert (report["report"]["preference_rows"], report["report"]["expert_rows"]) == (16, 0)
    preview: Any = client.get(f"/files/{training.id}/preview?model=tiny&limit=1", cast_to=object)
    spans = {span["source"]: span for span in preview["data"][0]["spans"]}
    assert list(spans) == ["prompt", "preferred", "non_preferred"]
    assert [set(span["mask"]) for span in spans.values()] == [{0}, {1}, {1}]
    hyperparameters: Any = {"beta": 0.3, "batch_size": 4, "n_epochs": 1, "learning_rate_multiplier": "auto"}
    wanted: Any = {"training_file": training.id, "validation_file": held_out.id, "model": "tiny", "seed": 7}
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}
    checked: Any = client.post("/fine_tuning/jobs/validate", body=wanted | {"method": method}, cast_to=object)
    assert checked["valid"], checked["errors"]
    assert checked["plan"]["method"]["dpo"]["hyperparameters"]["beta"] == 0.3
    gates = {"gates": ["eval/rewards/accuracies >= 0", "eval/loss < 1"]}

    job = finished(client, client.fine_tuning.jobs.create(**wanted, method=method, extra_body=gates).id)
    assert job.status == "succeeded", job.error
    assert job.method.dpo.hyperparameters.beta == 0.3
    assert [gate["passed"] for gate in job.gates] == [True, True]
    assert job.evaluation["before"]["values"]["eval/loss"] == pytest.approx(math.log(2), abs=1e-5)
    metrics: Any = client.get(f"/fine_tuning/jobs/{job.id}/metrics", cast_to=object)
    for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"):
        assert all(isinstance(value, float) for value in metrics["series"][name][1:]), name
    groups: Any = client.get(f"/fine_tuning/jobs/{job.id}/groups?step=1&source=non_preferred", cast_to=object)
    assert [member["source"] for member in groups["data"][0]["members"]] == ["preferred", "non_preferred"]
    assert job.estimate["grader_calls"] == 0
    given = job.trained_tokens
    assert job.estimate["tokens"]["trained"]["low"] <= given <= job.estimate["tokens"]["trained"]["high"]


def assert_measurements_feed_estimates(client: OpenAI, job: Any, body: Any) -> None:
    estimate, took = job.estimate, job.measured
    assert estimate["rollouts"] == 4 * 4 * 2
    # The file has been counted with the model's own tokenizer, so only the rollouts' length is unknown beforehand.
    given = job.trained_tokens - round(32 * took["mean_tokens"]["own"])
    assert 0 < given < estimate["tokens"]["trained"]["low"] <= job.trained_tokens
    assert job.trained_tokens <= estimate["tokens"]["trained"]["high"]
    assert sum(took["parts"].values()) == pytest.approx(took["seconds"])
    assert (took["steps"], took["attempts"], took["device"]) == (4, 1, estimate["device"])
    assert took["peak_memory_bytes"] > 0
    again: Any = client.post("/fine_tuning/estimate", body=body, cast_to=object)
    assert (again["verdict"], again["device"]) == ("fits", took["device"])
    assert again["based_on"]["same_jobs"] > 0
    workers: Any = client.get("/workers", cast_to=object)
    assert [worker["id"] for worker in again["workers"]] == [
        worker["id"] for worker in workers["data"] if "train" in worker["queues"]
    ]


def assert_records_are_complete(client: OpenAI, job_id: str) -> None:
    """Check events, checkpoints, metrics, groups and attempts of a job of four steps."""
    messages = [event.message for event in islice(client.fine_tuning.jobs.list_events(job_id, limit=5), 100)][::-1]
    assert messages[0] == f"Created fine-tuning job: {job_id}"
    assert "Fine-tuning job started" in messages
    assert any(message.startswith("Step 4/4: training loss=") for message in messages)
    assert messages[-1] == "The job has successfully completed"
    checkpoints = list(islice(client.fine_tuning.jobs.checkpoints.list(job_id), 10))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [4, 2]
    assert isinstance(checkpoints[0].metrics.train_loss, float)
    found: Any = client.models.retrieve(checkpoints[1].fine_tuned_model_checkpoint)
    assert (found.step, found.rank, found.lineage["evaluation"]["after"]["step"]) == (2, 16, 2)

    path = f"/fine_tuning/jobs/{job_id}"
    metrics: Any = client.get(f"{path}/metrics", cast_to=object)
    assert metrics["steps"] == [0, 1, 2, 3, 4]
    groups: Any = client.get(f"{path}/groups?step=1", cast_to=object)
    assert {member["source"] for member in groups["data"][0]["members"]} == {"expert", "teacher", "self"}
    attempts: Any = client.get(f"{path}/attempts", cast_to=object)
    assert [
        (attempt["outcome"], attempt["resumed_from_step"], attempt["last_step"]) for attempt in attempts["data"]
    ] == [("succeeded", 0, 4)]


def assert_answers_match_the_evaluation(client: OpenAI, job: Any, held_out: Path) -> None:
    """Ask the base model and the trained model each held-out question: the answers are those that were graded."""
    questions = [json.loads(line)["messages"][:-1] for line in held_out.read_text().splitlines()]
    likely: list[Any] = []
    for part, model in (("before", "tiny"), ("after", job.fine_tuned_model)):
        samples = job.evaluation[part]["samples"]
        assert len(samples) == len(questions)
        for question, sample in zip(questions, samples, strict=True):
            options: Any = {"temperature": 0, "max_tokens": 8, "logprobs": True}
            answer = client.chat.completions.create(model=model, messages=question, **options)
            assert answer.model == model
            [choice] = answer.choices
            assert (choice.message.content, choice.finish_reason == "stop") == (sample["response"], sample["finished"])
        likely.append(choice.logprobs)
    assert likely[0] != likely[1]  # the adapter is applied


def assert_an_eval_repeats_the_evaluation(client: OpenAI, job: Any) -> None:
    """Run an eval of the trained model on the job's test file: the answers are those that were graded."""
    config: Any = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
    criteria: Any = [GRADER]
    created = client.evals.create(data_source_config=config, testing_criteria=criteria)
    source: Any = {
        "type": "completions",
        "model": job.fine_tuned_model,
        "source": {"type": "file_id", "id": job.test_file},
        "sampling_params": {"temperature": 0, "max_completion_tokens": 8},
    }
    run = client.evals.runs.create(created.id, data_source=source)
    eventually(lambda: client.evals.runs.retrieve(run.id, eval_id=created.id).status == "completed")
    items: Any = list(client.evals.runs.output_items.list(run.id, eval_id=created.id))
    graded = [sample["response"] for sample in job.evaluation["after"]["samples"]]
    assert [item.sample.output[0].content for item in items] == graded


def assert_the_result_file_has_every_step(client: OpenAI, result_files: list[str]) -> None:
    (file_id,) = result_files
    file = client.files.retrieve(file_id)
    assert (file.purpose, file.status, file.filename) == ("fine-tune-results", "processed", "step_metrics.csv")
    assert file_id in {file.id for file in client.files.list(purpose="fine-tune-results")}
    rows = list(csv.DictReader(client.files.content(file_id).text.splitlines()))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert all(row["train_loss"] and row["train_mean_reward"] for row in rows[1:])
    assert rows[0]["full_valid_mean_reward"]
    assert client.files.delete(file_id).deleted


def assert_peft_loads(base: Path, adapter: Path) -> None:
    """Load the adapter with plain peft, and check that its output differs from the base model's."""
    import torch  # noqa: PLC0415 - slow imports, for one test
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    tokens = torch.arange(4, 12)[None]
    with torch.inference_mode():
        trained = model(tokens).logits
        with model.disable_adapter():
            assert not torch.equal(trained, model(tokens).logits)


def test_running_job_is_observed_and_cancelled(client: OpenAI, tmp_path: Path) -> None:
    training = client.files.create(file=write_rows(tmp_path / "train.jsonl", 400), purpose="fine-tune")
    endless = {"batch_size": 2, "n_epochs": 50, "checkpoint_interval": 400}
    method: Any = gft(sampling={"max_tokens": 8}, hyperparameters=endless)
    job_id = client.fine_tuning.jobs.create(model="tiny", training_file=training.id, method=method).id
    path = f"/fine_tuning/jobs/{job_id}"

    def seen() -> bool:
        metrics: Any = client.get(f"{path}/metrics", cast_to=object)
        kinds = {event.type for event in client.fine_tuning.jobs.list_events(job_id, limit=20).data}
        return len(metrics["steps"]) >= 2 and "metrics" in kinds

    eventually(seen)
    running: Any = client.fine_tuning.jobs.retrieve(job_id)
    assert running.status == "running"
    assert 0 < running.progress["step"] < running.progress["total_steps"]
    groups: Any = client.get(f"{path}/groups", cast_to=object)
    assert groups["data"][0]["members"]

    client.fine_tuning.jobs.cancel(job_id)
    eventually(lambda: client.fine_tuning.jobs.retrieve(job_id).status == "cancelled")
    assert client.fine_tuning.jobs.retrieve(job_id).finished_at


def test_broken_file_is_refused_end_to_end(client: OpenAI) -> None:
    file = client.files.create(file=broken_at_17(), purpose="fine-tune")
    file = client.files.wait_for_processing(file.id, poll_interval=POLL_SECONDS)
    assert file.status == "error"
    assert "line 17" in (file.status_details or "")
    before = len(list(client.fine_tuning.jobs.list()))
    with pytest.raises(BadRequestError, match="line 17") as caught:
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=gft())  # type: ignore[arg-type]
    assert caught.value.param == "training_file"
    assert len(list(client.fine_tuning.jobs.list())) == before


def test_methods_chain_from_model_to_model(client: OpenAI, tmp_path: Path) -> None:
    training = client.files.create(file=write_rows(tmp_path / "train.jsonl", 8), purpose="fine-tune")
    small = {"sampling": {"max_tokens": 4}, "hyperparameters": {"batch_size": 2, "max_steps": 2}}
    pipeline: list[Any] = [
        {"type": "supervised", "supervised": small},
        gft(**small),
        {"type": "reinforcement", "reinforcement": {"grader": VARIED, "group": {"self": 2}} | small},
    ]
    model = "tiny"
    for method in pipeline:
        job_id = client.fine_tuning.jobs.create(model=model, training_file=training.id, method=method).id
        job = finished(client, job_id)
        assert job.status == "succeeded", job.error
        assert job.model == model
        model = job.fine_tuned_model
    assert model.startswith("ft:tiny:")


def test_job_trains_the_rows_that_it_shows(client: OpenAI, tmp_path: Path) -> None:
    """The counts before the job and those of the trainer are the same."""
    rows = write_rows(tmp_path / "train.jsonl", 8)
    long = {"prompt": "1+1=", "completion": "2" * 600, "reference_answer": "2"}
    rows.write_text(rows.read_text() + f"{json.dumps(long)}\n" * 2)
    training = client.files.create(file=rows, purpose="fine-tune")
    held_out = client.files.create(file=write_rows(tmp_path / "held_out.jsonl", 4, start=20), purpose="fine-tune")
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 8, "n_epochs": 1}}}
    job = finished(
        client,
        client.fine_tuning.jobs.create(
            model="tiny", training_file=training.id, validation_file=held_out.id, method=method
        ).id,
    )
    assert job.status == "succeeded", job.error
    assert job.rows == {"used": 8, "dropped": {"answer_too_long": 2}}
    assert job.held_out_rows == {"used": 4, "dropped": {}}
    assert (job.training_path["name"], job.training_path["reason"]) == ("fast", "")
    queued = [event for event in client.fine_tuning.jobs.list_events(job.id) if "moving job to queued" in event.message]
    assert [event.data for event in queued] == [{"rows": job.rows, "held_out_rows": job.held_out_rows}]
    groups: Any = client.get(f"/fine_tuning/jobs/{job.id}/groups?step=1", cast_to=object)
    assert {group["row"] for group in groups["data"]} == set(range(1, 9))


def test_job_that_learns_nothing_fails(client: OpenAI, tmp_path: Path) -> None:
    training = client.files.create(file=write_rows(tmp_path / "train.jsonl", 8), purpose="fine-tune")
    method: Any = gft(
        grader=GRADER | {"reference": "no such answer"},
        group={"expert": 1, "teacher": 2, "self": 1},
        sampling={"max_tokens": 4},
        hyperparameters={"batch_size": 2, "max_steps": 6},
    )
    job = finished(client, client.fine_tuning.jobs.create(model="tiny", training_file=training.id, method=method).id)
    assert (job.status, job.fine_tuned_model) == ("failed", None)
    assert job.error.code == "nothing_learned"
    assert "the grader gave the same reward, 0, to every answer" in job.error.message
    assert job.attempt == 1
    warnings = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn"]
    assert any(message.startswith("The first 5 steps changed nothing: ") for message in warnings)


def test_unknown_fine_tuned_model_is_refused(client: OpenAI, tmp_path: Path) -> None:
    training = client.files.create(file=write_rows(tmp_path / "train.jsonl", 8), purpose="fine-tune")
    with pytest.raises(BadRequestError, match="no fine-tuned model 'ft:tiny:default::nothere1'") as caught:
        client.fine_tuning.jobs.create(model="ft:tiny:default::nothere1", training_file=training.id)
    assert caught.value.param == "model"


def test_job_ends_with_its_control(client: OpenAI, tmp_path: Path) -> None:
    """Both train the same number of steps on the same rows, one after the other, and the job has the difference."""
    training = client.files.create(file=write_rows(tmp_path / "train.jsonl", 8), purpose="fine-tune")
    held_out = client.files.create(file=write_rows(tmp_path / "held_out.jsonl", 12, start=16), purpose="fine-tune")
    method: Any = gft(
        grader=VARIED,
        group={"expert": 1, "teacher": 1, "self": 2},
        sampling={"max_tokens": 4},
        hyperparameters={"batch_size": 4, "max_steps": 3},
    )
    body: Any = {"control": "supervised", "gates": ["vs control >= -1"]}
    files: Any = {"training_file": training.id, "validation_file": held_out.id}
    created: Any = client.fine_tuning.jobs.create(model="tiny", seed=7, method=method, **files, extra_body=body)

    job, control = finished(client, created.id), finished(client, created.control["job_id"])
    assert (job.status, control.status) == ("succeeded", "succeeded"), (job.error, control.error)
    assert (job.progress["total_steps"], control.progress["total_steps"]) == (3, 3)
    assert (control.hyperparameters.batch_size, control.control_of) == (4, job.id)
    attempts = [
        client.get(f"/fine_tuning/jobs/{one.id}/attempts", cast_to=object)["data"][0]  # type: ignore[index]
        for one in (control, job)
    ]
    assert attempts[0]["ended_at"] <= attempts[1]["started_at"]
    found = job.control
    after = [one.evaluation["after"]["values"]["eval/reward"] for one in (control, job)]
    assert [found["control"], found["job"]] == after
    assert found["difference"] == pytest.approx(after[1] - after[0])
    assert found["rows"] == 12
    assert found["low"] <= found["difference"] <= found["high"]
    assert [gate["passed"] for gate in job.gates] == [True]
    said = [event.message for event in islice(client.fine_tuning.jobs.list_events(job.id), 50)]
    assert said.count(found["reason"]) == 1
    assert found["reason"].startswith("GFT ")
