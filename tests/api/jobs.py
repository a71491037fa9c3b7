"""Requests and files that several API tests send."""

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "{{item.reference_answer}}",
}


def with_row_17(row: str) -> bytes:
    """Return twenty rows, all valid except the seventeenth, which is `row`."""
    good = json.dumps({"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]})
    return "\n".join([*[good] * 16, row, *[good] * 3]).encode()


def broken_at_17() -> bytes:
    return with_row_17('{"messages": [{"role": "user", "content": "1+1="')


def gft(**settings: Any) -> dict[str, Any]:
    return {"type": "gft", "gft": {"grader": GRADER} | settings}


def create(client: OpenAI, training_file: str, method: Any = None, **fields: Any) -> Any:
    if method is not None:
        fields["method"] = method
    return client.fine_tuning.jobs.create(**({"model": "tiny", "training_file": training_file} | fields))


def refused(client: OpenAI, file_id: str, method: Any = None, **fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        create(client, **({"training_file": file_id, "method": method} | fields))
    assert list(client.fine_tuning.jobs.list()) == []
    return caught.value
