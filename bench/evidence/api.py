"""The benchmark's requests to the service: through the `openai` SDK, or our own client where OpenAI has no route.

Counts the tokens of every answer that it samples.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from openai import OpenAI

from app.cli.jobs.watcher import watch
from app.cli.up import make_stack
from app.client import Client
from app.core.errors import GrouptuneError
from app.core.jobs.state_machine import TERMINAL
from bench.evidence.scenarios import Row, question

STREAMS: Final = 32
"""Answers at once: the embedded engine decodes them as one batch."""
RETRIES: Final = 20
"""The service refuses some grading requests while as many run as it allows. The SDK waits and sends them again."""
GRADED_AT_ONCE: Final = 4
FILE_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.5

Item = TypeVar("Item")
Result = TypeVar("Result")


OUTCOMES: Final = frozenset({"diverged", "no_contrast", "no_demonstration_passes", "no_usable_rows", "nothing_learned"})
"""Codes of failed jobs that say something about the method. All others are failures of the installation."""


class EvidenceError(GrouptuneError):
    """A run could not be completed. The next start of the benchmark performs it again."""

    code = "evidence_failed"


class MethodFailed(EvidenceError):
    """The method itself has no result on these rows, however often it runs."""

    code = "method_failed"


@dataclass
class Sampled:
    """Tokens of sampled answers and of their prompts."""

    tokens: int = 0


@dataclass
class Service:
    """A running installation and the clients that use it. `pause` blocks for seconds, and raises if a part has died."""

    sdk: OpenAI
    client: Client
    pause: Callable[[float], object]
    model: str
    _files: dict[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of weights of the base model."""
        bases: list[dict[str, Any]] = self.client.get("/base_models")["data"]
        return next(int(base["parameters"]) for base in bases if base["id"] == self.model)

    def upload(self, rows: Sequence[Row]) -> str:
        """Upload rows and return the id of the validated file; equal rows are uploaded once."""
        content = "".join(json.dumps(item) + "\n" for item in rows)
        if content not in self._files:
            with tempfile.NamedTemporaryFile("wb", suffix=".jsonl") as file:
                file.write(content.encode())
                file.flush()
                uploaded = self.sdk.files.create(file=Path(file.name), purpose="fine-tune")
            checked = self.sdk.files.wait_for_processing(uploaded.id, poll_interval=0.25, max_wait_seconds=FILE_SECONDS)
            if checked.status != "processed":
                raise EvidenceError(f"The service refused rows of a scenario: {checked.status_details}")
            self._files[content] = uploaded.id
        return self._files[content]

    def train(self, body: dict[str, Any]) -> dict[str, Any]:
        """Run a job to its end and return it, with its metrics by name under `metrics`."""
        created = self.sdk.fine_tuning.jobs.create(**body)
        for _ in watch(self.client, created.id, pause=self.pause):
            pass
        job = self.client.get(f"/fine_tuning/jobs/{created.id}")
        if job["status"] != "succeeded":
            error = job["error"] or {}
            reason = error.get("message", f"its status is {job['status']}")
            kind = MethodFailed if error.get("code") in OUTCOMES else EvidenceError
            raise kind(f"Job {job['id']} did not succeed: {reason}")
        return job | {"metrics": self.client.get(f"/fine_tuning/jobs/{created.id}/metrics", points=1500)["series"]}

    def remove(self, job: dict[str, Any]) -> None:
        """Delete a finished job with its model and checkpoints: hundreds of adapters would fill a disk."""
        self.sdk.models.delete(job["fine_tuned_model"])
        self.client.delete(f"/fine_tuning/jobs/{job['id']}")

    def answers(
        self,
        model: str,
        rows: Sequence[Row],
        *,
        max_tokens: int,
        count: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        spent: Sampled | None = None,
    ) -> list[list[str]]:
        """Return `count` answers to each row, in the order of the rows; greedy at temperature 0."""

        def ask(place: int) -> list[str]:
            done = self.sdk.chat.completions.create(
                model=model,
                messages=question(rows[place]),  # type: ignore[arg-type] # rows come from JSON
                max_tokens=max_tokens,
                n=count,
                temperature=temperature,
                seed=seed + place,
            )
            if spent is not None and done.usage is not None:
                spent.tokens += done.usage.total_tokens
            return [choice.message.content or "" for choice in done.choices]

        return _together(ask, range(len(rows)))

    def evaluate(self, model: str, rows: Sequence[Row], grader: dict[str, Any], *, max_tokens: int) -> list[bool]:
        """Return whether the model's greedy answer to each row passes: a run of an eval, which is deleted afterwards.

        Raises `EvidenceError` if an answer could not be sampled or graded.
        """
        fields: Row = {name: {} for item in rows for name in item}
        config: Any = {"type": "custom", "item_schema": {"type": "object", "properties": fields}}
        criterion: Any = grader
        made = self.sdk.evals.create(data_source_config=config, testing_criteria=[criterion])
        try:
            source: Any = {
                "type": "completions",
                "model": model,
                "source": {"type": "file_id", "id": self.upload(rows)},
                "sampling_params": {"temperature": 0, "max_completion_tokens": max_tokens},
            }
            run: Any = self.sdk.evals.runs.create(made.id, data_source=source)
            while run.status in ("queued", "in_progress"):
                self.pause(POLL_SECONDS)
                run = self.sdk.evals.runs.retrieve(run.id, eval_id=made.id)
            found = list(self.sdk.evals.runs.output_items.list(run.id, eval_id=made.id, limit=100))
        finally:
            self.sdk.evals.delete(made.id)
        if run.status != "completed" or run.result_counts.errored:
            reason = getattr(run.error, "message", "") or [item.results for item in found if item.status == "error"]
            raise EvidenceError(f"An eval of {model} is {run.status}: {reason}")
        return [item.status == "pass" for item in sorted(found, key=lambda item: item.datasource_item_id)]

    def passes(self, grader: dict[str, Any], answers: Sequence[tuple[Row, str]]) -> list[bool]:
        """Grade each answer to its row. Raises `EvidenceError` for an answer that cannot be graded."""
        known: dict[tuple[int, str], bool] = {}

        def grade(answer: tuple[Row, str]) -> bool:
            item, text = answer
            if (id(item), text) not in known:
                run = self.sdk.fine_tuning.alpha.graders.run(
                    grader=grader,  # type: ignore[arg-type] # our graders are more than OpenAI's
                    model_sample=text,
                    item={name: value for name, value in item.items() if name != "messages"},
                )
                extra = run.metadata.model_extra or {}
                if extra.get("error"):
                    raise EvidenceError(f"The grader failed on {text!r}: {extra['error']}")
                known[id(item), text] = bool(extra["passed"])
            return known[id(item), text]

        return _together(grade, answers, GRADED_AT_ONCE)


def _together(work: Callable[[Item], Result], items: Sequence[Item], streams: int = STREAMS) -> list[Result]:
    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(work, items))


@contextmanager
def running_service(state_dir: Path, model: str, report: Callable[[str], None]) -> Iterator[Service]:
    """Start an installation in `state_dir`, which keeps its data, and stop it at the end."""
    with ExitStack() as resources:
        stack = resources.enter_context(make_stack(state_dir, "127.0.0.1", 0, report))
        client = resources.enter_context(Client(stack.base_url, stack.api_key))
        sdk = resources.enter_context(
            OpenAI(base_url=stack.base_url, api_key=stack.api_key, timeout=600.0, max_retries=RETRIES)
        )
        # A benchmark that was stopped left its job in the queue, where it would train again before the next run.
        for left in sdk.fine_tuning.jobs.list(limit=100):
            if left.status not in TERMINAL:
                sdk.fine_tuning.jobs.cancel(left.id)
        yield Service(sdk, client, stack.wait, model)
