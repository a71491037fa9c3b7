"""Configuration from the environment. Every process of one installation sees the same values."""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated

from platformdirs import user_cache_path, user_data_path
from pydantic import AliasChoices, Field, HttpUrl, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


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

    max_requests_per_minute: Annotated[int, Field(ge=1)] = 30_000
    """This and the next three hold for projects without a limit of their own."""
    max_running_jobs: Annotated[int, Field(ge=0)] = 1_000
    max_queued_jobs: Annotated[int, Field(ge=0)] = 1_000
    max_stored_bytes: Annotated[int, Field(ge=0)] = 10**12

    model_aliases: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """Other names of base models, as `gpt-4o-mini=smollm2-135m-instruct,...`: for scripts that name OpenAI's."""
    max_file_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    max_upload_bytes: Annotated[int, Field(gt=0)] = 8 * 1024**3
    """Size of a file that is uploaded in parts."""
    orphan_grace_seconds: Annotated[float, Field(ge=3600)] = 86_400.0
    """Blobs that nothing names are removed once they are so old (docs/retention.md)."""
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

    @cached_property
    def storage_dir(self) -> Path:
        return self.state_dir / "storage"

    @property
    def storage_address(self) -> str | None:
        """`storage_endpoint` as text without the slash that its type adds."""
        return None if self.storage_endpoint is None else str(self.storage_endpoint).rstrip("/")

    @cached_property
    def runs_dir(self) -> Path:
        return self.state_dir / "runs"


def load() -> Settings:
    """Reads the environment now."""
    return Settings()
