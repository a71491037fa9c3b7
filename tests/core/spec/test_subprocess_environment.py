"""The allow-lists of subprocess environments."""

import pytest

from app.core.spec.subprocess_environment import (
    DOWNLOAD_ENVIRONMENT,
    SYSTEM_ENVIRONMENT,
    TRACKERS_ENVIRONMENT,
    TRAINER_ENVIRONMENT,
    EnvironmentNames,
)

SECRETS = {
    "DATABASE_URL",
    "REDIS_URL",
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "GROUPTUNE_DATABASE_URL",
    "GROUPTUNE_METRICS_TOKEN",
    "GROUPTUNE_SECRET_KEYS",
    "GROUPTUNE_TEACHER_API_KEY",
    "SOME_SERVICE_API_KEY",
}


@pytest.mark.parametrize("names", [SYSTEM_ENVIRONMENT, TRAINER_ENVIRONMENT, DOWNLOAD_ENVIRONMENT, TRACKERS_ENVIRONMENT])
def test_secrets_are_in_no_list(names: EnvironmentNames) -> None:
    environment = dict.fromkeys(SECRETS | {"PATH", "LC_ALL"}, "value")
    assert names.select(environment).keys() == {"PATH", "LC_ALL"}


@pytest.mark.parametrize(
    ("names", "included", "excluded"),
    [
        (
            TRAINER_ENVIRONMENT,
            "CUDA_HOME HF_HOME NCCL_DEBUG GROUPTUNE_JUDGE_API_KEY",
            "HF_TOKEN HTTPS_PROXY",
        ),
        (DOWNLOAD_ENVIRONMENT, "HF_TOKEN HTTPS_PROXY PIP_INDEX_URL", "GROUPTUNE_JUDGE_API_KEY WANDB_API_KEY"),
        (
            TRACKERS_ENVIRONMENT,
            "WANDB_API_KEY MLFLOW_TRACKING_URI no_proxy",
            "GROUPTUNE_JUDGE_API_KEY CUDA_HOME",
        ),
        (SYSTEM_ENVIRONMENT, "HOME PYTHONPATH OMP_NUM_THREADS", "HF_HOME WANDB_API_KEY GROUPTUNE_JUDGE_API_KEY"),
    ],
)
def test_lists(names: EnvironmentNames, included: str, excluded: str) -> None:
    assert [name for name in included.split() if name not in names] == []
    assert [name for name in excluded.split() if name in names] == []


def test_prefixes_match_no_secret() -> None:
    names = EnvironmentNames(prefixes=("HF_", "TORCH"))
    found = [name for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_API_KEY", "TORCH_PASSWORD") if name in names]
    assert found == ["HF_HUB_OFFLINE"]
