"""Configuration from the environment. Every process of one installation sees the same values."""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final

from platformdirs import user_cache_path, user_data_path
from pydantic import AliasChoices, Field, HttpUrl, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.egress.ip_policy import PrivateHosts

TRACKERS: Final = ("wandb", "mlflow", "tensorboard", "trackio")


class Settings(BaseSettings):
    """Values come from `GROUPTUNE_<NAME>`; the two engines also from `DATABASE_URL` and `REDIS_URL`."""

    model_config = SettingsConfigDict(env_prefix="GROUPTUNE_", frozen=True, extra="ignore")

    database_url: str | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "GROUPTUNE_DATABASE_URL")
    )
    """SQLAlchemy URL of Postgres; empty means the embedded one."""
    redis_url: str | None = Field(default=None, validation_alias=AliasChoices("REDIS_URL", "GROUPTUNE_REDIS_URL"))
    """Broker URL in Celery's form; empty means the embedded Valkey."""
    state_dir: Path = Field(default_factory=lambda: user_data_path("grouptune"))
    """Where the installation keeps its data: blobs, runs, logs, the embedded Postgres."""
    storage_url: str | None = None
    """`s3://bucket/prefix` keeps blobs in an S3-compatible store (docs/storage.md); else they are in `state_dir`."""
    storage_endpoint: HttpUrl | None = None
    """Address of an S3-compatible store that is not AWS, such as `http://minio:9000`."""
    storage_region: str = "us-east-1"
    models_dir: Path = Field(default_factory=lambda: user_cache_path("grouptune") / "models")
    """Cache of base models as bf16 safetensors."""

    secret_keys: SecretStr | None = None
    """Fernet keys that encrypt secrets in the database, separated by commas; the first one encrypts."""
    secret_keys_file: Path | None = None
    """The same in a file. `grouptune up` makes one and keeps it in the state directory."""
    allowed_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names, addresses and networks, separated by commas, that requests for clients (webhooks, teachers,
    graders) may go to although they are not public: `judge.internal,10.1.0.0/16,127.0.0.1`."""

    judge_url: HttpUrl | None = None
    """Base address, up to `/v1`, of an OpenAI-compatible server for graders that ask a model (docs/graders.md).

    Its key, if it has one, is in `GROUPTUNE_JUDGE_API_KEY`, which the trainer reads itself.
    """
    judge_api_key: SecretStr | None = None
    teacher_url: HttpUrl | None = None
    """Base address, up to `/v1`, of an OpenAI-compatible server for teachers without a `base_url` of their own."""
    teacher_api_key: SecretStr | None = None
    """Its key, which goes to that server alone."""
    grader_signing_secret: SecretStr | None = None
    """`whsec_...`: requests of `endpoint` graders are signed with it. The trainer reads it itself too."""

    max_requests_per_minute: Annotated[int, Field(ge=1)] = 30_000
    """This and the next five hold for projects without a limit of their own."""
    max_running_jobs: Annotated[int, Field(ge=0)] = 1_000
    max_queued_jobs: Annotated[int, Field(ge=0)] = 1_000
    max_stored_bytes: Annotated[int, Field(ge=0)] = 10**12
    max_priority: Annotated[int, Field(ge=-100, le=100)] = 100
    """The highest priority that a project's jobs may have; 0 lets them only stand back for others."""
    max_gpu_hours: Annotated[int, Field(ge=0)] = 10**9
    """In a calendar month."""

    trackers: Annotated[tuple[str, ...], NoDecode] = ()
    """Trackers that jobs may send their metrics to, separated by commas (docs/trackers.md): `wandb,mlflow`."""
    tensorboard_dir: Path | None = None
    """Where jobs with the tracker `tensorboard` write; `tensorboard/` of `state_dir` unless set."""
    model_aliases: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """Other names of base models, as `gpt-4o-mini=smollm2-135m-instruct,...`: for scripts that name OpenAI's."""
    max_file_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    max_upload_bytes: Annotated[int, Field(gt=0)] = 8 * 1024**3
    """Size of a file that is uploaded in parts."""
    orphan_grace_seconds: Annotated[float, Field(ge=3600)] = 86_400.0
    """Blobs that nothing names are removed once they are so old (docs/retention.md)."""
    metrics_token: SecretStr | None = None
    """Bearer token for the API's `/metrics`; without one only this machine may read them (docs/observability.md)."""
    worker_metrics_port: Annotated[int, Field(ge=0, le=65_000)] = 0
    """First of ten ports; each worker serves its metrics on one that is free. 0 means not at all."""
    worker_metrics_host: str = "127.0.0.1"
    lease_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long a claim lives without a heartbeat, by the database's clock."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 10.0
    fence_seconds: Annotated[float, Field(gt=0)] = 45.0
    """A runner without a good heartbeat for so long kills its own trainer (monotonic clock)."""
    sweep_seconds: Annotated[float, Field(gt=0)] = 15.0
    cancel_grace_seconds: Annotated[float, Field(gt=0)] = 8.0
    """A trainer that has not ended so long after a stop request is killed."""
    trainer_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of a CPU trainer; 0 takes all cores."""
    trainer_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that train a job together: the number of GPUs that this worker gives to each job."""
    rollout_url: HttpUrl | None = None
    """Address of a vLLM server that draws the rollouts (docs/rollouts.md); without one the trainer draws them.

    Its key, if it has one, is in `GROUPTUNE_ROLLOUT_API_KEY`, which the trainer reads itself.
    """

    @field_validator("storage_url")
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        if value and re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{2,62}(/[\w.=-]+)*/?", value) is None:
            raise ValueError("write 's3://bucket' or 's3://bucket/prefix'")
        return value or None

    @field_validator("model_aliases", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if broken := [alias for alias, _, model in pairs if not alias.strip() or not model.strip()]:
            raise ValueError(f"write 'alias=base-model', separated by commas; look at {broken[0]!r}")
        return {alias.strip(): model.strip() for alias, _, model in pairs}

    @field_validator("trackers", mode="before")
    @classmethod
    def _trackers(cls, value: object) -> object:
        names = [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value
        if isinstance(names, list | tuple) and (unknown := [name for name in names if name not in TRACKERS]):
            raise ValueError(f"there is no tracker {unknown[0]!r}; write some of {', '.join(TRACKERS)}")
        return names

    @field_validator("allowed_private_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        entries = [one for one in value.split(",") if one.strip()] if isinstance(value, str) else value
        if isinstance(entries, list | tuple):
            PrivateHosts.parse(map(str, entries))
        return entries

    @cached_property
    def private_hosts(self) -> PrivateHosts:
        return PrivateHosts.parse(self.allowed_private_hosts)

    @cached_property
    def storage_dir(self) -> Path:
        return self.state_dir / "storage"

    @property
    def storage_address(self) -> str | None:
        """`storage_endpoint` as text without the slash that its type adds."""
        return None if self.storage_endpoint is None else str(self.storage_endpoint).rstrip("/")

    @property
    def teacher_address(self) -> str | None:
        """`teacher_url` as text without the slash that its type adds."""
        return None if self.teacher_url is None else str(self.teacher_url).rstrip("/")

    @cached_property
    def runs_dir(self) -> Path:
        return self.state_dir / "runs"


def load() -> Settings:
    """Reads the environment now."""
    return Settings()
