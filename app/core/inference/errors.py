"""Errors of inference requests that the engines cause. Those of the request itself are `InvalidRequest`."""

from app.core.errors import GrouptuneError, InvalidRequest, RateLimited


class NoEngine(GrouptuneError):
    """This server has no engine for inference. Start one with `grouptune up`, or set GROUPTUNE_SERVE_URL."""

    status = 503
    code = "no_engine"
    retry_helps = False


class EngineUnavailable(GrouptuneError):
    """The engine is unavailable: it is starting, or it was restarted. Try again in a few seconds."""

    status = 503
    code = "engine_unavailable"
    retry_after_seconds: float | None = 2.0


class EngineTimedOut(EngineUnavailable):
    """The engine does not respond in time. Try again in a few seconds."""


class EngineBusy(RateLimited):
    """All engines are busy. Try again in a few seconds."""

    code = "engine_busy"


class ModelNotServed(GrouptuneError):
    """No engine serves the base model."""

    status = 503
    code = "model_not_served"
    retry_helps = False


class AdapterRefused(InvalidRequest):
    """The engine cannot serve an adapter of this kind."""

    code = "adapter_not_servable"


class AdapterCheckFailed(GrouptuneError):
    """The engine's log-probabilities differ from those of training, so its completions would be another model's."""

    code = "adapter_check_failed"
    retry_helps = False


class EngineRefused(InvalidRequest):
    """The engine rejected the request."""


class UnknownToEngine(EngineUnavailable):
    """The engine lost the model, probably in a restart. Try again in a few seconds."""


class InvalidEngineResponse(EngineUnavailable):
    """The engine sent a response that is not in vLLM's format."""
