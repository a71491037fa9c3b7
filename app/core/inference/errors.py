"""Errors of inference requests that the engines cause. Those of the request itself are `InvalidRequest`."""

from app.core.errors import GrouptuneError, InvalidRequest, RateLimited


class NoEngine(GrouptuneError):
    """This server has no engine for inference. Start one with `grouptune up`, or set GROUPTUNE_SERVE_URL."""

    status = 503
    code = "no_engine"
    retry_helps = False


class EngineUnavailable(GrouptuneError):
    """The inference engine does not answer: it may be starting, or it has crashed. Try again in a few seconds."""

    status = 503
    code = "engine_unavailable"
    public_message: str | None = __doc__
    retry_after_seconds: float | None = 2.0


class EngineTimedOut(EngineUnavailable):
    """The inference engine does not answer in time. Try again in a few seconds."""

    public_message: str | None = __doc__


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
    """The inference engine has lost the model, probably in a restart. Try again in a few seconds."""

    public_message: str | None = __doc__


class InvalidEngineResponse(EngineUnavailable):
    """The inference engine sent an answer that cannot be read. Try again in a few seconds."""

    public_message: str | None = __doc__
