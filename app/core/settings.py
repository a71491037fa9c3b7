"""Configuration from the environment. Every process of one installation reads the same values."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from platformdirs import user_cache_path, user_data_path
from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.egress.ip_policy import PrivateHosts
from app.core.errors import BadSetup

TRACKERS: Final = ("wandb", "mlflow", "tensorboard", "trackio")
_LEASE_SECONDS: Final = 60.0
_MAX_SWEEP_SECONDS: Final = 15.0
_HTTP_URL: Final[TypeAdapter[HttpUrl]] = TypeAdapter(HttpUrl)

_DERIVED: Final = "default_factory_not_called"
"""Type of pydantic's error for a default that follows from an invalid setting."""
_PLACEHOLDER: Final = re.compile(
    r"change[-_. ]?(me|this)|replace[-_. ]?(me|this)|your[-_. ](key|password|secret|token)", re.I
)
"""Values of examples, which anybody can look up."""
_STORE_KEYS: Final = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
_STORE_DEFAULT: Final = "minioadmin"
_CHECKS_CERTIFICATE: Final = {"required", "CERT_REQUIRED"}
_CHECKS_NOTHING: Final = {"none", "CERT_NONE"}

BaseUrl = Annotated[str, AfterValidator(lambda url: str(_HTTP_URL.validate_python(url)).rstrip("/"))]
"""An HTTP URL without a slash at its end."""


def _share_of_lease(share: float, limit: float = float("inf")) -> Any:
    """Return a field that defaults to a share of `lease_seconds`, which must be declared before it."""
    # Pydantic passes the fields that are already valid; `lease_seconds` is missing if it was invalid itself.
    return Field(gt=0, default_factory=lambda data: min(data.get("lease_seconds", _LEASE_SECONDS) * share, limit))


class Settings(BaseSettings):
    """Values come from `GROUPTUNE_<NAME>`; those of the two engines also from `DATABASE_URL` and `REDIS_URL`."""

    # Errors do not quote values, because some are secrets.
    model_config = SettingsConfigDict(env_prefix="GROUPTUNE_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "GROUPTUNE_DATABASE_URL")
    )
    """SQLAlchemy URL of Postgres; without it the embedded Postgres is used."""
    redis_url: str | None = Field(default=None, validation_alias=AliasChoices("REDIS_URL", "GROUPTUNE_REDIS_URL"))
    """Broker URL in Celery's form; without it the embedded Valkey is used."""
    state_dir: Path = Field(default_factory=lambda: user_data_path("grouptune"))
    """Directory for the installation's data: blobs, runs, logs, the embedded Postgres."""
    storage_url: str | None = None
    """`s3://bucket/prefix` stores blobs in an S3-compatible bucket (docs/storage.md); otherwise in `state_dir`."""
    storage_endpoint: BaseUrl | None = None
    """URL of an S3-compatible store other than AWS, such as `http://minio:9000`."""
    storage_region: str = "us-east-1"
    models_dir: Path = Field(default_factory=lambda: user_cache_path("grouptune") / "models")
    """Cache of base models as bf16 safetensors."""

    root_path: Annotated[str, AfterValidator(lambda path: path.rstrip("/")), Field(pattern=r"^(/[\w.~-]+)*/?$")] = ""
    """Path prefix of all requests, such as `/tuning`, behind a proxy that keeps it. A proxy that strips it needs no
    setting (docs/operations.md)."""
    secret_keys: SecretStr | None = None
    """Fernet keys, separated by commas, for secrets in the database. The first one encrypts, all of them decrypt."""
    secret_keys_file: Path | None = None
    """A file with such keys. `grouptune up` creates one in the state directory."""
    allowed_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names, addresses and networks, separated by commas, that requests on behalf of clients (webhooks, teachers,
    graders) may reach although they are not public: `judge.internal,10.1.0.0/16,localhost:11434`."""

    judge_url: BaseUrl | None = None
    """Base URL, up to `/v1`, of an OpenAI-compatible server for model graders (docs/graders.md).

    The trainer reads the key of this server from `GROUPTUNE_JUDGE_API_KEY` itself.
    """
    judge_api_key: SecretStr | None = None
    teacher_url: BaseUrl | None = None
    """Base URL, up to `/v1`, of an OpenAI-compatible server for teachers without a `base_url` of their own."""
    teacher_api_key: SecretStr | None = None
    """The key of that server; it is sent to no other server."""
    grader_signing_secret: SecretStr | None = None
    """`whsec_...`: signs the requests of `endpoint` graders. The trainer reads it from the environment too."""

    max_requests_per_minute: Annotated[int, Field(ge=1)] = 30_000
    """This limit and the next six apply to projects without limits of their own."""
    max_running_jobs: Annotated[int, Field(ge=0)] = 1_000
    max_queued_jobs: Annotated[int, Field(ge=0)] = 1_000
    max_stored_bytes: Annotated[int, Field(ge=0)] = 10**12
    max_priority: Annotated[int, Field(ge=-100, le=100)] = 100
    """The highest priority of a project's jobs; with 0 they can only have a lower priority than others."""
    max_gpu_hours: Annotated[int, Field(ge=0)] = 10**9
    """Per calendar month."""
    max_inference_requests: Annotated[int, Field(ge=0)] = 64
    """Inference requests of a project that are in flight at once, so that one project cannot occupy an engine."""

    trackers: Annotated[tuple[str, ...], NoDecode] = ()
    """Trackers that jobs may send their metrics to, separated by commas (docs/trackers.md): `wandb,mlflow`."""
    tensorboard_dir: Path | None = None
    """Directory of the tracker `tensorboard`; by default `tensorboard/` in `state_dir`."""
    model_aliases: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """Other names of base models, such as `gpt-4o-mini=smollm2-135m-instruct,...`, for scripts with OpenAI's names."""
    max_file_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    max_upload_bytes: Annotated[int, Field(gt=0)] = 8 * 1024**3
    """Limit for a file that is uploaded in parts."""
    export_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long a finished export is kept (docs/export.md)."""
    orphan_grace_seconds: Annotated[float, Field(ge=3600)] = 86_400.0
    """Age at which blobs that no row refers to are removed (docs/retention.md).

    At least an hour: a blob is written before its row, and no request or attempt takes longer to write the row.
    """
    metrics_token: SecretStr | None = None
    """Bearer token for the API's `/metrics`; without one only this machine can read it (docs/observability.md)."""
    worker_metrics_port: Annotated[int, Field(ge=0, le=65_000)] = 0
    """First of ten ports; each worker serves its metrics on the first free one. 0 turns this off."""
    worker_metrics_host: str = "127.0.0.1"
    lease_seconds: Annotated[float, Field(gt=0)] = _LEASE_SECONDS
    """How long a claim lasts without a heartbeat, by the database's clock.

    The next three intervals follow from it; usually only this one needs to be set.
    """
    heartbeat_seconds: float = _share_of_lease(1 / 6)
    """How often a worker renews its lease."""
    fence_seconds: float = _share_of_lease(3 / 4)
    """Seconds without a confirmed heartbeat after which a runner kills its trainer (monotonic clock).

    Less than `lease_seconds`: the trainer must be dead before another worker can claim the job.
    """
    sweep_seconds: float = _share_of_lease(1 / 4, limit=_MAX_SWEEP_SECONDS)
    """How often expired leases, expired files and lost messages are looked for."""
    cancel_grace_seconds: Annotated[float, Field(gt=0)] = 8.0
    """How long a trainer may take to end after a stop request before it is killed."""
    trainer_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of a trainer on a CPU; 0 means all cores."""
    trainer_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that train one job together: the number of GPUs for each job that requests no number (docs/jobs.md)."""
    node_address: str | None = None
    """Address at which other workers reach this one, for jobs over several workers (docs/jobs.md).

    By default, the address from which this worker reaches Postgres.
    """
    rendezvous_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Port at which the trainers of a job over several workers meet on the worker that leads it; 0 for a free one."""
    hub_url: BaseUrl = "https://huggingface.co"
    """The Hugging Face hub, or a server with its API, that exports are pushed to."""
    hub_token: SecretStr | None = None
    """Token for pushes whose request has none. Every project can then push where this token may write."""
    rollout_url: Annotated[tuple[BaseUrl, ...], NoDecode] = ()
    """Base URLs, separated by commas, of the vLLM servers that generate the rollouts together (docs/rollouts.md).

    Without one the trainer generates them. It reads the key of the servers from `GROUPTUNE_ROLLOUT_API_KEY` itself.
    """
    rollout_shares_device: bool = False
    """Whether these servers use this worker's own GPUs: they sleep while a trainer computes (docs/rollouts.md)."""

    serve_url: Annotated[tuple[BaseUrl, ...], NoDecode] = ()
    """Base URLs, separated by commas, of the engines that answer inference requests (docs/inference.md).

    `grouptune up` starts an engine and sets this itself; without an engine, inference requests get 503.
    """
    serve_api_key: SecretStr | None = None
    """The bearer key of the engines."""
    serve_dir: Path = Field(default_factory=lambda data: data["state_dir"] / "serving")
    """Directory of the adapters that engines load; every engine must see it under this path."""
    serve_max_adapters: Annotated[int, Field(ge=1)] = 16
    """Adapters that one engine holds; the least recently used one is unloaded for another."""
    serve_idle_seconds: Annotated[float, Field(gt=0)] = 600.0
    """The embedded engine unloads a base model that has had no request for so long."""
    serve_max_sequences: Annotated[int, Field(ge=1)] = 32
    """Completions that the embedded engine decodes together."""
    serve_max_queued: Annotated[int, Field(ge=1)] = 256
    """Completions that may wait in the embedded engine; further requests get 429."""
    serve_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of the embedded engine on a CPU; 0 means all cores."""

    @field_validator(
        *("database_url", "redis_url", "secret_keys", "metrics_token", "serve_api_key", "judge_api_key"),
        *("teacher_api_key", "grader_signing_secret", "hub_token"),
    )
    @classmethod
    def _own_secret(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        if _PLACEHOLDER.search(text):
            raise ValueError(
                "it still holds the secret of an example; set one of your own, such as `openssl rand -hex 24`"
            )
        return value

    @field_validator("redis_url")
    @classmethod
    def _checked_certificate(cls, value: str | None) -> str | None:
        """Refuse TLS without a decision on certificates: Celery would check none, and so trust any server."""
        parts = urlsplit(value or "")
        decision = parse_qs(parts.query).get("ssl_cert_reqs", [""])[-1]
        if parts.scheme == "rediss" and decision not in _CHECKS_CERTIFICATE | _CHECKS_NOTHING:
            raise ValueError(
                "add ?ssl_cert_reqs=required to the rediss:// URL, so that the broker's certificate is checked (and "
                "&ssl_ca_certs=/path/ca.pem for a private CA); ssl_cert_reqs=none turns the check off"
            )
        return value

    @field_validator("storage_url")
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        if value and re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{2,62}(/[\w.=-]+)*/?", value) is None:
            raise ValueError("write 's3://bucket' or 's3://bucket/prefix'")
        return value or None

    @field_validator("rollout_url", "serve_url", mode="before")
    @classmethod
    def _urls(cls, value: object) -> object:
        return tuple(url.strip() for url in value.split(",") if url.strip()) if isinstance(value, str) else value

    @field_validator("rollout_url", "serve_url")
    @classmethod
    def _without_v1(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Return each URL once and without `/v1`: `load_lora_adapter` and `health` need the server's root."""
        return tuple(dict.fromkeys(url.removesuffix("/v1") for url in value))

    @field_validator("model_aliases", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if broken := [alias for alias, _, model in pairs if not alias.strip() or not model.strip()]:
            raise ValueError(f"write 'alias=base-model', separated by commas; {broken[0]!r} is not of this form")
        return {alias.strip(): model.strip() for alias, _, model in pairs}

    @field_validator("trackers", mode="before")
    @classmethod
    def _trackers(cls, value: object) -> object:
        names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
        if isinstance(names, list | tuple) and (unknown := [name for name in names if name not in TRACKERS]):
            raise ValueError(f"{unknown[0]!r} is not a tracker; use one or more of {', '.join(TRACKERS)}")
        return names

    @field_validator("allowed_private_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        entries = [host for host in value.split(",") if host.strip()] if isinstance(value, str) else value
        if isinstance(entries, list | tuple):
            PrivateHosts.parse(map(str, entries))
        return entries

    @model_validator(mode="after")
    def _check_shared_device(self) -> Self:
        if self.rollout_shares_device and not self.rollout_url:
            raise ValueError(
                "GROUPTUNE_ROLLOUT_SHARES_DEVICE needs GROUPTUNE_ROLLOUT_URL, the servers that share this worker's GPUs"
            )
        return self

    @model_validator(mode="after")
    def _check_store_keys(self) -> Self:
        """Refuse example credentials of the blob store, which are read from the environment when it is opened."""
        for name in _STORE_KEYS if self.storage_url else ():
            text = os.environ.get(name, "")
            if _PLACEHOLDER.search(text) or text == _STORE_DEFAULT:
                raise ValueError(f"{name} still holds the secret of an example; set one of your own")
        return self

    @model_validator(mode="after")
    def _check_intervals(self) -> Self:
        """Refuse intervals that would let two workers train the same job."""
        heartbeat, fence, lease = self.heartbeat_seconds, self.fence_seconds, self.lease_seconds
        if not heartbeat < fence < lease:
            raise ValueError(
                f"GROUPTUNE_HEARTBEAT_SECONDS ({heartbeat:g}) must be less than GROUPTUNE_FENCE_SECONDS ({fence:g}), "
                f"and that less than GROUPTUNE_LEASE_SECONDS ({lease:g}), so that a trainer is dead before another "
                "worker can claim its job; set only GROUPTUNE_LEASE_SECONDS, and the others follow from it"
            )
        if self.sweep_seconds > lease:
            raise ValueError(
                f"GROUPTUNE_SWEEP_SECONDS ({self.sweep_seconds:g}) must not exceed GROUPTUNE_LEASE_SECONDS "
                f"({lease:g}), because jobs of dead workers would wait too long; set only GROUPTUNE_LEASE_SECONDS"
            )
        return self

    @cached_property
    def private_hosts(self) -> PrivateHosts:
        return PrivateHosts.parse(self.allowed_private_hosts)

    @cached_property
    def storage_dir(self) -> Path:
        return self.state_dir / "storage"

    @cached_property
    def runs_dir(self) -> Path:
        return self.state_dir / "runs"


class BadSettings(BadSetup):
    """The settings of the installation are not valid."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        """One for each setting: its variable, what is wrong, and how to fix it."""


def load() -> Settings:
    """Read the environment now. Raises `BadSettings`."""
    try:
        return Settings()
    except ValidationError as error:
        raise BadSettings(tuple(_problem(part) for part in error.errors() if part["type"] != _DERIVED)) from None


def _problem(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:  # an error of several settings, which it names
        return message
    name = str(error["loc"][0])
    return f"{name if name.isupper() else f'GROUPTUNE_{name.upper()}'}: {message}"
