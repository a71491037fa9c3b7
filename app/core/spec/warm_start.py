"""LoRA settings of a job that starts from an adapter: the adapter fixes all of them except the dropout."""

from collections.abc import Mapping
from typing import Any, Final

from app.core.spec.job import JobSpec, Lora

_PEFT_NAMES: Final = {
    **{"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"},
    **{"use_dora": "use_dora", "use_rslora": "use_rslora"},
}
"""Fields of `Lora` with their names in PEFT's config."""
_MAX_TARGETS: Final = 64
"""Most modules that a job may list. PEFT lists more where a pattern excludes some layers of "all-linear"."""


def settings_of(config: Mapping[str, Any]) -> Lora:
    """Return settings of an adapter_config.json. Raises `KeyError`, `TypeError` or `ValueError` for wrong values."""
    values = {field: config[written] for field, written in _PEFT_NAMES.items()}
    targets = values["target_modules"]
    is_listed = isinstance(targets, list) and len(targets) <= _MAX_TARGETS
    return Lora.model_validate(values | {"target_modules": sorted(targets) if is_listed else "all-linear"})


def differences(lora: Lora, adapter: Lora) -> dict[str, str]:
    """Return a sentence for each field that is set in `lora` and that `adapter` fixes otherwise, by field.

    `all-linear` differs from no list: which layers it means depends on the base model.
    """
    return {
        field: f"The adapter to start from has {field} {_shown(stored)}, and the job {_shown(wanted)}. Omit the field, "
        "or set the adapter's value."
        for field in Lora.model_fields
        if field in lora.model_fields_set and field != "dropout"
        for wanted, stored in [(getattr(lora, field), getattr(adapter, field))]
        if wanted != "all-linear" and _comparable(wanted) != _comparable(stored)
    }


def with_settings_of(adapter: Lora, spec: JobSpec) -> JobSpec:
    """Return `spec` with the settings of `adapter` in the fields of `lora` that were not sent."""
    sent = spec.hyperparameters.lora
    lora = adapter.model_copy(update={field: getattr(sent, field) for field in sent.model_fields_set})
    hyperparameters = spec.hyperparameters.model_copy(update={"lora": lora})
    settings = spec.settings.model_copy(update={"hyperparameters": hyperparameters})
    return spec.model_copy(update={"settings": settings, "lora_resolved": True})


def _comparable(value: object) -> object:
    return frozenset(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
