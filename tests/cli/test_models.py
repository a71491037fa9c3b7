"""`grouptune models`: adapters and merged models that other libraries can load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run
from tests.processes import descendants
from tests.writable_hub import TOKEN, Hub

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def logits(directory: Path) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


def test_download_and_merge(grouptune: Run, succeeded_job: str, tmp_path: Path, tiny_models: Path) -> None:
    name = json.loads(grouptune("jobs", "show", succeeded_job, "--json").stdout)["fine_tuned_model"]
    fetched = tmp_path / "adapters" / "one"
    assert grouptune("models", "download", name, fetched).stdout == f"{fetched}\n"
    files = {path.name for path in fetched.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= files
    assert list(fetched.parent.iterdir()) == [fetched]
    assert "exists already" in grouptune("models", "download", name, fetched).stderr
    target = tmp_path / "models" / "merged"
    done = grouptune("models", "merge", name, target)
    assert done.returncode == ExitCode.ok, done.stderr
    assert done.stdout == f"{target}\n"
    assert f"Downloading {name}" in done.stderr
    assert "14 layers were merged in float32" in done.stderr
    assert "survives the rounding" in done.stderr
    assert f"# {name}\n" in (target / "README.md").read_text()
    assert not torch.equal(logits(target), logits(tiny_models / "tiny"))
    assert AutoTokenizer.from_pretrained(target).chat_template

    again = grouptune("models", "merge", name, target)
    assert again.returncode == ExitCode.error
    assert "exists already" in again.stderr
    assert list(target.parent.iterdir()) == [target]

    absent = grouptune("models", "merge", name, tmp_path / "new", "--models-dir", tmp_path)
    assert absent.returncode == ExitCode.error
    assert "There is no base model 'tiny'" in absent.stderr


def test_export_and_push(grouptune: Run, succeeded_job: str, tmp_path: Path, shared_hub: Hub) -> None:
    """Over REST with a real worker: the downloaded model answers like the adapter."""
    name = json.loads(grouptune("jobs", "show", succeeded_job, "--json").stdout)["fine_tuned_model"]
    merged = tmp_path / "exports" / "merged"
    done = grouptune("models", "export", name, "--output", merged)
    assert (done.returncode, done.stdout) == (ExitCode.ok, f"{merged}\n"), done.stderr
    assert "14 layers were merged in float32" in done.stderr
    assert list(merged.parent.iterdir()) == [merged]
    local = tmp_path / "local"
    assert grouptune("models", "merge", name, local).returncode == ExitCode.ok
    assert torch.equal(logits(merged), logits(local))
    [export] = json.loads(grouptune("models", "exports", name, "--json").stdout)
    archive = tmp_path / "archive.tar"
    again = json.loads(grouptune("models", "export", name, "-o", archive, "--json").stdout)
    assert (again["id"], again["bytes"]) == (export["id"], archive.stat().st_size)
    assert "exists already" in grouptune("models", "export", name, "-o", archive).stderr
    assert grouptune("models", "exports", name).stdout.splitlines()[1].split("\t")[:3] == [
        *(export["id"], "merged", "succeeded")
    ]

    pushed = grouptune("models", "push", name, "me/arithmetic", HF_TOKEN=TOKEN)
    assert (pushed.returncode, pushed.stdout) == (ExitCode.ok, f"{shared_hub.url}/me/arithmetic\n"), pushed.stderr
    assert "| method | gft |" in shared_hub.repositories["me/arithmetic"].files["README.md"].decode()
    assert "Set HF_TOKEN" in grouptune("models", "push", name, "me/other", HF_TOKEN=None).stderr
    refused = grouptune("models", "push", name, "me/other", HF_TOKEN="hf_wrong")  # noqa: S106
    assert refused.returncode == ExitCode.error
    assert "token may write to this repository" in refused.stderr
    assert "quantization" in grouptune("models", "export", name, "--quantization", "q1").stderr


def test_export_is_cancelled_and_deleted(grouptune: Run, answer_grouptune: Run, succeeded_job: str) -> None:
    name = json.loads(grouptune("jobs", "show", succeeded_job, "--json").stdout)["fine_tuned_model"]
    workers = descendants("default@%h")
    assert workers
    for worker in workers:  # so that the export cannot end before it is cancelled
        worker.suspend()
    try:
        export = grouptune("models", "export", name, "--format", "gguf-lora").stdout.strip()
        cancelled = grouptune("models", "cancel-export", export)
        assert (cancelled.returncode, cancelled.stdout) == (ExitCode.ok, f"{export}\n"), cancelled.stderr
    finally:
        for worker in workers:
            worker.resume()
    assert f"{export}\tgguf-lora\tcancelled" in grouptune("models", "exports", name).stdout
    kept = answer_grouptune("models", "delete-export", export, answer="n")
    assert f"Delete 1 export:\r\n  {export}  {name}\r\nContinue?" in kept.stderr
    assert f"{export} is deleted." in grouptune("models", "delete-export", export).stderr
    assert export not in grouptune("models", "exports", name).stdout
    assert grouptune("models", "delete-export", export).returncode == ExitCode.error


@pytest.mark.parametrize("verb", ["download", "merge"])
@pytest.mark.parametrize(("name", "reason"), [("tiny", "tiny is a base model"), ("ft:tiny:missing", "ft:tiny:missing")])
def test_other_models_are_refused(verb: str, name: str, reason: str, grouptune: Run, tmp_path: Path) -> None:
    done = grouptune("models", verb, name, tmp_path / "new")
    assert done.returncode == ExitCode.error
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())


def test_pull_of_unknown_base_model(grouptune: Run) -> None:
    done = grouptune("models", "pull", "gpt-9")
    assert done.returncode == ExitCode.error
    assert "smollm2-135m-instruct" in done.stderr
