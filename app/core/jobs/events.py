"""Job events: appending them, the metrics event of a step, and the trace kept in the first event.

`seq` has no gaps because the caller's transaction already holds the job's row.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import text
from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from app.core import ids, tracing
from app.core.spec.reports import Metrics

Level = Literal["info", "warn", "error"]

_APPEND: Final = sql(
    """
    INSERT INTO job_events (job_id, seq, id, level, type, message, data)
    SELECT owner.id,
           (SELECT coalesce(max(seq), 0) FROM job_events WHERE job_id = owner.id)
               + row_number() OVER (ORDER BY e.ord),
           e.id, e.level, e.type, e.message, e.data
    FROM jobs AS owner,
         jsonb_to_recordset(CAST(:events AS jsonb))
             AS e(ord int, id text, level text, type text, message text, data jsonb)
    WHERE owner.id = :job_id AND NOT EXISTS (SELECT FROM job_events AS known WHERE known.id = e.id)
    """
)


_SUSPICIOUS: Final = re.compile(r"\\u(?:0000|d[89a-f])")
"""Escapes of NUL and of surrogates, single or paired, as `json.dumps` writes them."""


@dataclass(frozen=True)
class Event:
    """A message for people. Its id is generated here, so that a repeated write cannot duplicate it."""

    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    id: str = field(default_factory=ids.event_id)


def append(session: Session, job_id: str, *events: Event) -> None:
    """Append events in order; skip those whose id is already stored.

    The caller holds the job's row (by a guarded UPDATE or `leases.hold`), so no other transaction assigns a `seq`.
    """
    if not events:
        return
    rows = [{"ord": number, **vars(event)} for number, event in enumerate(events)]
    session.execute(_APPEND, {"job_id": job_id, "events": dump(rows)})


def dump(value: Any) -> str:
    """Return `value` as JSON that jsonb accepts. Searching the text is faster than cleaning every value."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:  # NaN or an infinity
        return json.dumps(clean(value), allow_nan=False)
    return json.dumps(clean(value)) if _SUSPICIOUS.search(text) else text


def clean(value: Any) -> Any:
    """Return `value` as Postgres accepts it: NaN and infinities become None, NUL and lone surrogates are replaced.

    Applies at every depth. Rows and models may contain any character; only what is stored for people is cleaned.
    """
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


_REWARDS: Final = re.compile(r"rewards/(.+)/mean")
"""Mean reward of a grader, or of one part of a multi grader."""
NOT_MEASURED: Final = ("full_valid_mean_parse_error", "reasoning_tokens_mean", "valid_reasoning_tokens_mean")
"""OpenAI's fields that stay null: models here do not hide their reasoning, and answers need not parse."""


def metrics_event(report: Metrics, total_steps: int | None, event_id: str) -> Event:
    """Return the event of a step: OpenAI's reinforcement payload plus all of our values; missing values are null."""
    values = report.values
    payload: dict[str, Any] = {
        **values,
        **dict.fromkeys(NOT_MEASURED),
        "step": report.step,
        "total_steps": total_steps,
        "train_loss": values.get("loss"),
        "train_mean_reward": values.get("reward"),
        "full_valid_mean_reward": values.get("eval/reward"),
        "mean_unresponsive_rewards": values.get("gft/grader_errors"),
        "completion_tokens_mean": values.get("completions/mean_length"),
        "model_graders_token_usage": {},
        "scores": {
            "train_reward_mean": values.get("reward"),
            "valid_reward_mean": values.get("eval/reward"),
            "graders": [
                {"name": match[1], "train_reward_mean": value, "valid_reward_mean": None}
                for name, value in values.items()
                if (match := _REWARDS.fullmatch(name))
            ],
        },
        "usage": {"graders": [], "samples": {}},
        "errors": {"graders": [{"train_other_error_count": values.get("gft/grader_errors")}]},
        "timing": {
            "step": {
                "sampling": values.get("gft/timing/rollout"),
                "training": values.get("gft/timing/update"),
                "eval": None,
                "full_iteration": values.get("step_time"),
            },
            "graders": [{"train_execution_latency_mean": values.get("gft/timing/grading")}],
        },
    }
    rewards = {"reward": values.get("reward"), "reward margin": values.get("rewards/margins")}
    summary = shown({"training loss": values.get("loss"), **rewards})
    place = f"{report.step}/{total_steps}" if total_steps else str(report.step)
    return Event(f"Step {place}: {summary}" if summary else f"Step {place}", "info", "metrics", payload, event_id)


def shown(values: dict[str, float | None]) -> str:
    """Return the finite values as text, such as `loss=0.25, reward=1`."""
    return ", ".join(
        f"{name}={value:.4g}" for name, value in values.items() if value is not None and math.isfinite(value)
    )


_KEEP: Final = text(
    """
    UPDATE job_events SET data = coalesce(data, '{}') || jsonb_build_object('traceparent', CAST(:traceparent AS text))
    WHERE job_id = :job_id AND seq = 1
    """
)


def keep_trace(session: Session, job_id: str) -> None:
    """Store the current trace in the job's first event, if the request is traced. `leases.claim` reads it.

    The trace then spans the request that created the job and all of its attempts.
    """
    if (traceparent := tracing.current()) is not None:
        session.execute(_KEEP, {"job_id": job_id, "traceparent": traceparent})
