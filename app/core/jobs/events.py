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
"""NUL and surrogates, halves or whole pairs, as `json.dumps` writes them."""


@dataclass(frozen=True)
class Event:
    """A sentence for people. Its id is made at once, so that a repeated write cannot double it."""

    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    id: str = field(default_factory=ids.event_id)


def append(session: Session, job_id: str, *events: Event) -> None:
    """Adds events in order; those whose id is there already are left out.

    The caller holds the job's row (by a guarded UPDATE or `leases.hold`): nobody else then picks its `seq`.
    """
    if not events:
        return
    rows = [{"ord": number, **vars(event)} for number, event in enumerate(events)]
    session.execute(_APPEND, {"job_id": job_id, "events": dump(rows)})


def dump(value: Any) -> str:
    """JSON that jsonb takes: cleaned where there is anything to clean, which the text tells faster than a walk does."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:  # NaN or an infinity
        return json.dumps(clean(value), allow_nan=False)
    return json.dumps(clean(value)) if _SUSPICIOUS.search(text) else text


def clean(value: Any) -> Any:
    """`value` as Postgres takes it, at every depth: NaN and infinities as None, NUL and half surrogate pairs replaced.

    The one place for it: rows and models may hold and write any character, people see a stand-in for these.
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
"""The mean of a grader, or of a part of a multi."""
NOT_MEASURED: Final = ("full_valid_mean_parse_error", "reasoning_tokens_mean", "valid_reasoning_tokens_mean")
"""Of OpenAI's fields: no model that is trained here hides its reasoning, and no answer has to parse."""


def metrics_event(report: Metrics, total_steps: int | None, event_id: str) -> Event:
    """The event of a step; values that it does not have are null."""
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
                {"name": found[1], "train_reward_mean": value, "valid_reward_mean": None}
                for name, value in values.items()
                if (found := _REWARDS.fullmatch(name))
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
    told = shown({"training loss": values.get("loss"), "reward": values.get("reward")})
    place = f"{report.step}/{total_steps}" if total_steps else str(report.step)
    return Event(f"Step {place}: {told}" if told else f"Step {place}", "info", "metrics", payload, event_id)


def shown(values: dict[str, float | None]) -> str:
    """`loss=0.25, reward=1` of the values that are finite numbers."""
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
    """In the transaction that creates the job; nothing where nothing is traced. `leases.claim` reads it."""
    if (traceparent := tracing.current()) is not None:
        session.execute(_KEEP, {"job_id": job_id, "traceparent": traceparent})
