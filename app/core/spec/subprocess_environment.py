"""The environment variables of a worker's subprocesses: allow-lists, so that no secret is inherited by accident.

A trainer processes data and templates of clients. It gets no credentials of the database, the broker, the blob store or
the trackers, and of the API keys only those of the servers that it calls itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PARENT_PID: Final = "GROUPTUNE_PARENT_PID"
"""Process id of the worker; a subprocess ends when this process does."""
RANK: Final = "RANK"
"""The number of a trainer process among those that train a job together; torch's launcher sets it."""
RENDEZVOUS: Final = "GROUPTUNE_RENDEZVOUS"
"""`host:port` at which the trainers of several workers meet; the runner sets it."""
MEETING_BEGAN: Final = "GROUPTUNE_MEETING_BEGAN"
"""Monotonic time at which the trainers of several workers began to meet; the trainer's launcher sets it."""
JUDGE_API_KEY: Final = "GROUPTUNE_JUDGE_API_KEY"
SIGNING_SECRET: Final = "GROUPTUNE_GRADER_SIGNING_SECRET"  # noqa: S105 - a name
HUB_TOKEN: Final = "GROUPTUNE_HUB_TOKEN"  # noqa: S105 - a name
ROLLOUT_API_KEY: Final = "GROUPTUNE_ROLLOUT_API_KEY"
TEACHER_API_KEY: Final = "GROUPTUNE_TEACHER_API_KEY"
"""Set by the runner to the key of this job's teacher. It is not inherited: the worker's own value is the operator's."""


@dataclass(frozen=True)
class EnvironmentNames:
    """A set of environment variables: exact names, and prefixes of names.

    A prefix never matches a name that looks like a secret (`HF_TOKEN`); secrets must be listed by their exact name.
    """

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.exact or (name.startswith(self.prefixes) and not is_secret(name))

    def __or__(self, other: "EnvironmentNames") -> "EnvironmentNames":
        return EnvironmentNames(self.exact | other.exact, self.prefixes + other.prefixes)

    def select(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of `environment` that are in the set."""
        return {name: value for name, value in environment.items() if name in self}


_SECRET_ENDINGS: Final = ("TOKEN", "KEY", "KEYS", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS")


def is_secret(name: str) -> bool:
    """Return whether the name of a variable looks like a secret's."""
    return name.upper().endswith(_SECRET_ENDINGS)


SYSTEM_ENVIRONMENT: Final = EnvironmentNames(
    frozenset(
        {
            *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "TERM", "TZ", "TMPDIR", "TMP", "TEMP"),
            *("LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES", "VIRTUAL_ENV", "CONDA_PREFIX"),
            *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
            *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        }
    ),
    # Allocators and thread pools of numerical libraries.
    ("LC_", "PYTHON", "MALLOC_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "ARROW_"),
)
"""What any Python process needs: paths, locale, threads, certificates."""

_ACCELERATORS: Final = EnvironmentNames(
    frozenset({"GPU_DEVICE_ORDINAL", "TOKENIZERS_PARALLELISM"}),
    (
        *("CUDA_", "NVIDIA_", "CUBLAS_", "CUBLASLT_", "CUDNN_"),
        *("ROCR_", "ROCM_", "ROCBLAS_", "HIP_", "HIPBLASLT_", "HSA_", "MIOPEN_", "AMD_"),
        *("TORCH", "PYTORCH_", "TRITON_", "ATEN_", "BNB_", "BITSANDBYTES_"),
        *("NCCL_", "RCCL_", "GLOO_", "UCX_", "FI_", "OFI_"),  # collectives and their networks
        *("HF_", "TRANSFORMERS_", "SAFETENSORS_"),
    ),
)
"""Devices, torch, collectives and model libraries."""

COMPUTE_ENVIRONMENT: Final = SYSTEM_ENVIRONMENT | _ACCELERATORS
"""What a process that loads a model needs."""

TRAINER_ENVIRONMENT: Final = COMPUTE_ENVIRONMENT | EnvironmentNames(
    frozenset({JUDGE_API_KEY, SIGNING_SECRET, ROLLOUT_API_KEY})
)
"""What a trainer inherits. No proxies: their URLs may hold passwords, and a trainer's requests never use a proxy."""

NETWORK_ENVIRONMENT: Final = EnvironmentNames(
    frozenset(
        {
            *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
            *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NETRC"),
        }
    )
)
"""For processes that call servers of the operator's choice through the operator's proxy."""

HUGGING_FACE_TOKENS: Final = EnvironmentNames(
    frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"})
)

DOWNLOAD_ENVIRONMENT: Final = (
    COMPUTE_ENVIRONMENT | NETWORK_ENVIRONMENT | HUGGING_FACE_TOKENS | EnvironmentNames(prefixes=("PIP_",))
)
"""For the process that downloads base models from the Hugging Face hub or with pip, and converts them."""

TRACKERS_ENVIRONMENT: Final = (
    SYSTEM_ENVIRONMENT
    | NETWORK_ENVIRONMENT
    | HUGGING_FACE_TOKENS
    | EnvironmentNames(
        frozenset(
            {
                *("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "TRACKIO_WRITE_TOKEN"),
                *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
                *("DATABRICKS_TOKEN", "DATABRICKS_CLIENT_SECRET"),
            }
        ),
        ("WANDB_", "MLFLOW_", "DATABRICKS_", "TRACKIO_", "HF_", "GRADIO_"),
    )
)
"""For the processes that send metrics to experiment trackers."""
