"""An example of every request body, for the OpenAPI document."""

from collections.abc import Callable
from typing import Any, Final

_GRADER: Final = {"type": "math", "name": "answer", "reference": "{{item.reference_answer}}"}
_EVENTS: Final = ["fine_tuning.job.succeeded", "fine_tuning.job.failed"]

EXAMPLES: Final[dict[str, Any]] = {
    "CreateJob": {
        "model": "smollm2-135m-instruct",
        "training_file": "file-abc123",
        "validation_file": "file-def456",
        "suffix": "arithmetic",
        "method": {
            "type": "gft",
            "gft": {"grader": _GRADER, "group": {"expert": 1, "teacher": 2, "self": 5}},
        },
        "gates": ["eval/accuracy >= 0.8"],
        "metadata": {"commit": "1f3c2b7"},
    },
    "CreateCompletion": {
        "model": "ft:smollm2-135m-instruct:default:arithmetic:abc12345",
        "prompt": "17 + 48 =",
        "max_tokens": 8,
        "temperature": 0,
    },
    "CreateChatCompletion": {
        "model": "ft:smollm2-135m-instruct:default:arithmetic:abc12345",
        "messages": [{"role": "user", "content": "17 + 48 ="}],
        "temperature": 0,
        "max_completion_tokens": 64,
    },
    "CreateResponse": {
        "model": "ft:smollm2-135m-instruct:default:arithmetic:abc12345",
        "instructions": "Answer with a number.",
        "input": "What is 17 + 48?",
        "temperature": 0,
    },
    "UpdateJob": {"priority": 10},
    "CreateUpload": {"purpose": "fine-tune", "filename": "rows.jsonl", "bytes": 1048576, "mime_type": "text/jsonl"},
    "CompleteUpload": {"part_ids": ["part_abc123", "part_def456"]},
    "ConvertFile": {"map": {"prompt": "question", "completion": "answer"}},
    "LintFile": {"grader": _GRADER, "group": {"expert": 1, "teacher": 3, "self": 4}},
    "ValidateGrader": {"grader": _GRADER},
    "SuggestMethod": {"grader": _GRADER},
    "RunGrader": {"grader": _GRADER, "model_sample": "17 + 48 = 65", "item": {"reference_answer": "65"}},
    "Regrade": {"grader": _GRADER, "step_from": 1, "limit": 100},
    "CreateEval": {
        "name": "sums",
        "data_source_config": {
            "type": "custom",
            "item_schema": {"type": "object", "properties": {"reference_answer": {"type": "string"}}},
            "include_sample_schema": True,
        },
        "testing_criteria": [_GRADER],
    },
    "UpdateEval": {"name": "sums of two numbers"},
    "CreateEvalRun": {
        "data_source": {
            "type": "completions",
            "model": "ft:smollm2-135m-instruct:default:arithmetic:abc12345",
            "source": {"type": "file_id", "id": "file-abc123"},
            "sampling_params": {"temperature": 0, "max_completion_tokens": 64},
        },
    },
    "GrantPermissions": {"project_ids": ["proj_abc123"]},
    "PullModel": {"model": "Qwen/Qwen3-0.6B"},
    "CreateExport": {"format": "merged"},
    "MoveAlias": {"model": "ft:smollm2-135m-instruct:default:arithmetic:abc12345"},
    "CreateKey": {"name": "nightly", "scopes": ["files:*", "jobs:*"], "expires_in_seconds": 7776000},
    "RotateKey": {"grace_seconds": 86400},
    "Exchange": {"token": "eyJhbGciOiJSUzI1NiIsImtpZCI6Ii4uLiJ9..."},
    "CreateTrust": {
        "name": "models",
        "provider": "github",
        "repository_id": "123456789",
        "ref": "refs/heads/main",
        "audience": "https://grouptune.example.com",
    },
    "SetTeacherKey": {"base_url": "https://api.example.com/v1", "api_key": "sk-..."},
    "CreateProject": {"name": "support-bot", "limits": {"running_jobs": 2}},
    "UpdateProject": {"limits": {"stored_bytes": 10000000000}},
    "CreateEndpoint": {"name": "chat", "url": "https://hooks.example.com/grouptune", "event_types": _EVENTS},
    "UpdateEndpoint": {"event_types": [*_EVENTS, "fine_tuning.job.cancelled"]},
    "RotateSecret": {"keep_old_secret_active_for_24_hours": True},
    "TestEndpoint": {"event_type": "fine_tuning.job.succeeded"},
    "SignIn": {"code": "as printed by `grouptune dashboard`"},
}
"""Name of the schema -> example body. A test validates each one and checks that none is missing."""


def added(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return a function that adds the examples to the document of `openapi`."""

    def whole() -> dict[str, Any]:
        document = openapi()
        for name, example in EXAMPLES.items():
            document["components"]["schemas"][name]["examples"] = [example]
        return document

    return whole
