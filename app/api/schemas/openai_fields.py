"""Fields of OpenAI's and Azure's fine-tuning jobs that have another form here, or no effect.

Neutral values are dropped. All others become settings of this server, or have no effect and are named in a notice, or
are refused: a job never silently differs from the request.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import PydanticCustomError

from app.core.jobs.submission import Notice
from app.core.plurals import plural
from app.core.spec.job import MAX_ANSWERS

REINFORCEMENT_HYPERPARAMETERS: Final = ("compute_multiplier", "eval_interval", "eval_samples", "reasoning_effort")
"""OpenAI's hyperparameters of reinforcement jobs; Azure's examples send them at the top level of the body, too."""
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {"compute_multiplier": ("auto", 1), "reasoning_effort": ("default",)}
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")


def problem(param: str, message: str) -> PydanticCustomError:
    """Return an error whose message names the way out."""
    return PydanticCustomError("job", "{message}", {"message": message, "param": param})


def without_neutral(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the defaults that OpenAI's clients send for every method and that change nothing."""
    return {name: value for name, value in hyperparameters.items() if value not in _NEUTRAL.get(name, ())}


def ignored(path: str, why: str) -> Notice:
    """Return the notice that a field has no effect."""
    return Notice("ignored_field", f"`{path}` has no effect: {why}.", path)


def reinforcement(
    settings: Mapping[str, Any], extra: object, default_rollouts: int, moved: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], list[Notice]]:
    """Translate `method.reinforcement` of OpenAI and Azure. Raises `PydanticCustomError` for what cannot be honoured.

    `extra` is the extra field `gft`, whose group is merged into the method's. `moved` maps the names of top-level
    hyperparameters to their paths. Returns the settings, variables for the chat template, and the notices.
    """
    variables = dict[str, Any]()
    result, notices = dict(settings), list[Notice]()
    if result.pop("tools", None):
        raise problem(
            "method.reinforcement.tools",
            "Rollouts cannot call tools on this server. Remove `tools`. To train the calls themselves, put the tool "
            "definitions into the rows' `tools` and grade `sample.output_tools`.",
        )
    if result.pop("max_episode_steps", None) is not None:
        notices.append(ignored("method.reinforcement.max_episode_steps", "a rollout is one answer"))
    if result.pop("response_format", {"type": "text"}) != {"type": "text"}:
        why = "rollouts are free text. Describe the form in the prompts; graders read JSON as `sample.output_json`"
        notices.append(ignored("method.reinforcement.response_format", why))
    if not isinstance(hyperparameters := result.get("hyperparameters", {}), Mapping):
        return result, variables, notices
    kept = dict(hyperparameters)
    paths = {name: moved.get(name, f"method.reinforcement.hyperparameters.{name}") for name in kept}
    if "reasoning_effort" in kept:
        path = paths["reasoning_effort"]
        variables["reasoning_effort"] = _effort(kept.pop("reasoning_effort"), path)
        meaning = "is a variable of the chat template (`chat_template_kwargs`). Templates that do not read it ignore it"
        notices.append(Notice("converted_field", f"`{path}` {meaning}.", path))
    if "compute_multiplier" in kept:
        path = paths["compute_multiplier"]
        rollouts = _rollouts(kept.pop("compute_multiplier"), default_rollouts, path)
        if "self" in _mapping(_mapping(extra).get("group")):
            raise _sent_twice(path, "gft.group.self")
        _set(result, "group", "self", rollouts, path)
        notices.append(_converted(path, f"{plural(rollouts, 'rollout')} for each prompt (`group.self`)"))
    if kept.get("eval_samples", "auto") != "auto":
        path = paths["eval_samples"]
        answers = _answers(kept.pop("eval_samples"), path)
        _set(result, "evaluation", "pass_samples", answers, path)
        meaning = f"{plural(answers, 'sampled answer')} to each held-out row (`evaluation.pass_samples`, eval/pass@k)"
        notices.append(_converted(path, meaning))
    return result | {"hyperparameters": kept}, variables, notices


def with_variables(body: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `chat_template_kwargs` of the body with more variables; those of the client take precedence."""
    sent = body.get("chat_template_kwargs", {})
    return {"chat_template_kwargs": {**variables, **sent}} if variables and isinstance(sent, Mapping) else {}


def _set(settings: dict[str, Any], holder: str, name: str, value: int, path: str) -> None:
    """Set `settings[holder][name]`. Raises `PydanticCustomError` if the client sent another value there."""
    sent = settings.get(holder, {})
    if not isinstance(sent, Mapping):  # pydantic refuses it
        return
    if sent.get(name, value) != value:
        raise _sent_twice(path, f"{holder}.{name}")
    settings[holder] = dict(sent) | {name: value}


def _sent_twice(path: str, ours: str) -> PydanticCustomError:
    return problem(path, f"`{path}` and `{ours}` set the same thing to different values. Send only `{ours}`.")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _converted(path: str, meaning: str) -> Notice:
    return Notice("converted_field", f"`{path}` means, as at OpenAI, {meaning}.", path)


def _effort(value: object, path: str) -> object:
    if value not in _EFFORTS:
        efforts = ", ".join(f"'{effort}'" for effort in ("default", *_EFFORTS))
        raise problem(path, f"'{path}' should be one of {efforts}; you sent {value!r}.")
    return value


def _rollouts(multiplier: object, default: int, path: str) -> int:
    if (
        isinstance(multiplier, bool)
        or not isinstance(multiplier, int | float)
        or not 0 < multiplier <= MAX_ANSWERS / default
    ):
        raise problem(
            path,
            f"'{path}' should be 'auto' or a number above 0 and up to {MAX_ANSWERS / default:g}; you sent "
            f"{multiplier!r}. It multiplies the {plural(default, 'rollout')} for each prompt (`group.self`), of which "
            f"{MAX_ANSWERS} are the most.",
        )
    return max(2, round(multiplier * default))


def _answers(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ANSWERS:
        raise problem(
            path,
            f"'{path}' should be 'auto' or an integer from 1 to {MAX_ANSWERS}; you sent {value!r}. In a "
            "reinforcement job it is the number of sampled answers to each held-out row, as at OpenAI. For fewer rows, "
            "shorten the validation file.",
        )
    return value
