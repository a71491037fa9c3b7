"""The spec of a job's control: another method on the same rows, with the same seed and budget."""

from typing import Any, Final

from pydantic import ValidationError

from app.core.spec.job import (
    BASE_LEARNING_RATE,
    SETTINGS,
    GroupMethod,
    GroupMix,
    Hyperparameters,
    JobSpec,
    MethodType,
    Settings,
)

NAMES: Final[dict[MethodType, str]] = {
    MethodType.supervised: "SFT",
    MethodType.dft: "DFT",
    MethodType.dpo: "DPO",
    MethodType.reinforcement: "RL",
    MethodType.gft: "GFT",
}
"""Short names of the methods, for sentences that compare two."""
_OWN_SOURCES: Final = ("group", "teacher")
"""Settings that say where the answers of a group come from; each group method has its own."""
_MAX_SUFFIX: Final = 64
_SUFFIX: Final = "control"


def control_spec(spec: JobSpec) -> JobSpec:
    """Return the spec of the control of a job that has one.

    The control takes every setting that both methods can have, and defaults for the others. Its learning rate is the
    automatic one of its method, unless both methods have the same base rate. It has no gates, alias or control.
    """
    method = spec.control
    if method is None:
        raise ValueError("the job has no control")
    return spec.model_copy(
        update={
            "method": method,
            "settings": _settings(spec, method),
            "suffix": _SUFFIX if spec.suffix is None else f"{spec.suffix[: _MAX_SUFFIX - len(_SUFFIX) - 1]}-{_SUFFIX}",
            "metadata": {key: value for key, value in (spec.metadata or {}).items() if key != "name"} or None,
            "gates": (),
            "alias": None,
            "control": None,
            "typed_form": False,
        }
    )


def _settings(spec: JobSpec, method: MethodType) -> Settings:
    own, kind = spec.settings, SETTINGS[method]
    shared = (kind.model_fields.keys() & type(own).model_fields.keys()) - {"hyperparameters", *_OWN_SOURCES}
    values: dict[str, Any] = {name: getattr(own, name) for name in shared}
    values["hyperparameters"] = _hyperparameters(spec, method)
    if kind is GroupMethod:
        values["group"] = _group(spec, method)
    try:
        return kind(**values)
    except ValidationError as error:  # such as a setting of demonstrations in groups that have none
        refused = {item["loc"][0] for item in error.errors()}
        return kind(**{name: value for name, value in values.items() if name not in refused})


def _hyperparameters(spec: JobSpec, method: MethodType) -> Hyperparameters:
    own: Hyperparameters = spec.settings.hyperparameters
    kind = type(SETTINGS[method].model_fields["hyperparameters"].default)
    values: dict[str, Any] = {
        name: getattr(own, name) for name in kind.model_fields.keys() & type(own).model_fields.keys()
    }
    if BASE_LEARNING_RATE[method] != BASE_LEARNING_RATE[spec.method] or not isinstance(spec.settings, SETTINGS[method]):
        values["learning_rate_multiplier"] = "auto"
    return kind(**values)  # type: ignore[no-any-return]


def _group(spec: JobSpec, method: MethodType) -> GroupMix:
    """Return the members of the control's groups: as many answers to a prompt as the job compares, if it has groups."""
    default = GroupMix()
    size = spec.group.size if isinstance(spec.settings, GroupMethod) else default.size
    if method is MethodType.reinforcement:
        return GroupMix(expert=0, teacher=0, self_=min(64, size))
    return default.model_copy(update={"self_": max(1, size - default.expert - default.teacher)})
