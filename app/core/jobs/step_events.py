"""The event of a step: OpenAI's reinforcement payload with every field of it, and all of our values beside it."""

import math
import re
from typing import Any, Final

from app.core.jobs.events import Event
from app.core.spec.reports import Metrics

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
