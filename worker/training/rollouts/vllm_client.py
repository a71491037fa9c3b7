"""Client for the part of vLLM's HTTP API that rollouts use.

Retries transient failures; other errors say how to fix them.
"""

import threading
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from app.core.retry import RetryPolicy, is_retryable_status, retry, retry_after_seconds
from app.core.spec.reports import TrainerExit
from worker.training.interfaces import StopFlag
from worker.training.types import JobFailure

RETRY_POLICY: Final = RetryPolicy(attempts=6, longest_wait_seconds=15.0)
"""Covers 15 to 30 s. If the server is down for longer, the job waits in the queue instead."""
ANSWER_SECONDS: Final = 600.0
"""Long, because a request may wait behind those of other jobs."""
CONNECT_SECONDS: Final = 10.0
CONCURRENT_REQUESTS: Final = 128
SLEEP_SECONDS: Final = 300.0
"""For a change between awake and asleep, which copies the base model's weights between the GPU and the machine."""

_PERMANENT: Final = frozenset({501})
"""Server errors that a retry cannot fix: vLLM returns them for features that are not enabled."""
_MODELS: Final = "v1/models"
_LOAD: Final = "v1/load_lora_adapter"
_UNLOAD: Final = "v1/unload_lora_adapter"
_COMPLETE: Final = "v1/completions"
_CONFIGURATION: Final = "server_info?config_format=json"
_SLEEP: Final = "sleep?level=1"
_WAKE: Final = "wake_up"
_IS_SLEEPING: Final = "is_sleeping"
_SLEEP_ADVICE: Final = (
    "Start it with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode, or unset GROUPTUNE_ROLLOUT_SHARES_DEVICE."
)
_ADVICE: Final = {
    _MODELS: "Check GROUPTUNE_ROLLOUT_URL and GROUPTUNE_ROLLOUT_API_KEY.",
    _LOAD: "Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, a --max-lora-rank of at least "
    "hyperparameters.lora.r, --enable-mixed-moe-lora-format for a mixture of experts, and the worker's state "
    "directory mounted at the same path.",
    _COMPLETE: "Its --max-model-len must hold the longest prompt plus sampling.max_tokens.",
    **dict.fromkeys((_CONFIGURATION, _SLEEP, _WAKE, _IS_SLEEPING), _SLEEP_ADVICE),
}


class ServedModel(BaseModel):
    """A base model or an adapter on the server."""

    id: str
    root: str | None = None
    """The directory that it was loaded from."""


class ChoiceLogprobs(BaseModel):
    """Log p of each token of a completion."""

    token_logprobs: list[float]


class CompletionChoice(BaseModel):
    """One completion of a prompt."""

    index: int
    finish_reason: str
    logprobs: ChoiceLogprobs
    token_ids: list[int] | None = None
    """Includes the end token; None from vLLM before 0.10.2."""
    prompt_token_ids: list[int] | None = None


class CompletionResponse(BaseModel):
    """The completions of one prompt, and the name of the model that generated them."""

    model: str
    choices: list[CompletionChoice]


class _ModelList(BaseModel):
    data: list[ServedModel]


class _ModelConfiguration(BaseModel):
    enable_sleep_mode: bool


class _VllmConfiguration(BaseModel):
    model_config_: _ModelConfiguration = Field(alias="model_config")


class _Configuration(BaseModel):
    vllm_config: _VllmConfiguration


class _State(BaseModel):
    is_sleeping: bool


_Response = TypeVar("_Response", bound=BaseModel)


class _TransientFailure(Exception):
    """A failure after which another attempt may succeed."""

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        """`wait_seconds` is the wait that the server requested."""
        super().__init__(message)
        self.wait_seconds = wait_seconds


class VllmClient:
    """Connection to one vLLM server. Thread-safe; a context manager.

    Every method except `unload` raises `JobFailure`: `dependency_down` for transient failures, else `bad_config`.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        stop: StopFlag | None = None,
        *,
        retry_policy: RetryPolicy | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        """Once `stop` is set, failed requests are not retried any more; `retry_policy` replaces `RETRY_POLICY`."""
        self._retry_policy = retry_policy or RETRY_POLICY
        self._answer_seconds = answer_seconds
        self._connect_seconds = connect_seconds
        self._stop = stop or threading.Event()
        self.url = url.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(
            base_url=f"{self.url}/",
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=CONCURRENT_REQUESTS),
            trust_env=False,  # the operator named this server; a proxy from the environment may not reach it
        )
        self._has_loaded = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[ServedModel]:
        """Returns the base models and adapters on the server."""
        return self._parse(_ModelList, self._request(_MODELS)).data

    def load(self, name: str, path: str) -> None:
        """Loads the adapter in directory `path` as a model called `name`. The server reads the files itself."""
        # vLLM answers 500 for an adapter that it cannot load. Once it has loaded
        # one of this run, a 500 has another cause and may be transient.
        permanent = _PERMANENT if self._has_loaded else _PERMANENT | {500}
        # PEFT stores adapters of experts stacked, which vLLM cannot see. Other adapters do not change.
        body = {"lora_name": name, "lora_path": path, "is_3d_lora_weight": True}
        try:
            self._request(_LOAD, body, permanent)
        except JobFailure as failure:
            # If the adapter is on the server, an earlier attempt succeeded and only its response was lost.
            if failure.exit_code != TrainerExit.bad_config or name not in [model.id for model in self.models()]:
                raise
        self._has_loaded = True

    def unload(self, name: str) -> bool:
        """Unloads an adapter; returns whether it is gone. Tries once, since no run depends on it."""
        try:
            response = self._http.post(_UNLOAD, json={"lora_name": name}, timeout=self._connect_seconds)
        except httpx.RequestError:
            return False
        return response.is_success or response.status_code == 404

    def complete(self, request: dict[str, Any]) -> CompletionResponse:
        """Returns the completions of one prompt."""
        return self._parse(CompletionResponse, self._request(_COMPLETE, request))

    def check_can_sleep(self) -> None:
        """Raises `JobFailure` if the server was started without sleep mode: it would ignore requests to sleep."""
        found = self._parse(_Configuration, self._request(_CONFIGURATION))
        if not found.vllm_config.model_config_.enable_sleep_mode:
            raise self.unfit(f"it cannot free its device, because sleep mode is off. {_SLEEP_ADVICE}")

    def sleep(self) -> None:
        """Frees the server's device: its weights move to the machine's memory, its KV cache is discarded.

        Aborts requests that it still computes. Changes nothing if the server is asleep.
        """
        self._change(_SLEEP, is_sleeping=True)

    def wake_up(self) -> None:
        """Moves the server's weights back to its device. Changes nothing if the server is awake."""
        self._change(_WAKE, is_sleeping=False)

    def _change(self, path: str, *, is_sleeping: bool) -> None:
        self._request(path, {}, answer_seconds=SLEEP_SECONDS)
        if self._parse(_State, self._request(_IS_SLEEPING)).is_sleeping is not is_sleeping:
            raise self.unfit(f"it is {'awake' if is_sleeping else 'asleep'} after {path.partition('?')[0]}")

    def unfit(self, reason: str) -> JobFailure:
        """Returns the failure for a server that behaves differently from what rollouts need."""
        return JobFailure(
            TrainerExit.bad_config, "rollout_server_unfit", f"The rollout server {self.url} cannot be used: {reason}"
        )

    def away(self, reason: str) -> JobFailure:
        """Returns the failure for a server that is unavailable, for a later attempt of the job to retry."""
        return JobFailure(
            TrainerExit.dependency_down,
            "rollout_server_away",
            f"The rollout server {self.url} is unavailable ({reason})",
        )

    def _request(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        permanent: frozenset[int] = _PERMANENT,
        answer_seconds: float | None = None,
    ) -> httpx.Response:
        """Returns the 2xx response; transient failures are retried until the run is stopped."""
        seconds = self._answer_seconds if answer_seconds is None else min(answer_seconds, self._answer_seconds)
        timeout = httpx.Timeout(seconds, connect=self._connect_seconds, pool=None)

        def attempt() -> httpx.Response:
            try:
                response = self._http.request("GET" if body is None else "POST", path, json=body, timeout=timeout)
            except httpx.RequestError as error:
                raise _TransientFailure(f"{type(error).__name__}: {error}") from error
            if response.is_success:
                return response
            if response.status_code in permanent or not is_retryable_status(response.status_code):
                raise self._refusal(path, response)
            raise _TransientFailure(
                f"{response.status_code}: {_error_text(response)}", retry_after_seconds(response.headers)
            )

        try:
            return retry(
                attempt,
                self._retry_policy,
                is_retryable=lambda error: isinstance(error, _TransientFailure),
                requested_seconds=lambda error: error.wait_seconds if isinstance(error, _TransientFailure) else 0.0,
                wait=self._stop.wait,
            )
        except _TransientFailure as failure:
            raise self.away(str(failure)) from failure

    def _refusal(self, path: str, response: httpx.Response) -> JobFailure:
        details = f"{path} returned {response.status_code}: {_error_text(response)}"
        if path == _COMPLETE and response.status_code == 404:
            return self.away(f"it has lost the adapter, probably in a restart; {details}")
        return JobFailure(
            TrainerExit.bad_config,
            "rollout_server_refused",
            f"The rollout server {self.url} rejected the request: {details.rstrip('.')}. {_ADVICE[path]}",
        )

    def _parse(self, kind: type[_Response], response: httpx.Response) -> _Response:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise self.unfit(f"its response is not vLLM's ({where}: {first['msg']})") from error


def _error_text(response: httpx.Response) -> str:
    """Returns the error message of a response: in vLLM's envelope, an older vLLM's, FastAPI's, or none."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:500]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error.get("detail", error)) if isinstance(error, dict) else error)
