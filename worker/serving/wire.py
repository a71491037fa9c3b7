"""Request bodies of the engine: the part of vLLM's dialect that the gateway uses. Other values are refused."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_ALTERNATIVES = 100
"""Most probable tokens that a request may ask for per position."""

TokenId = Annotated[int, Field(ge=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StructuredOutputs(_Body):
    """A constraint on the text, exactly one of these."""

    json_schema: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    grammar: str | None = None
    """A grammar in llguidance's variant of Lark."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if sum(value is not None for value in (self.json_schema, self.regex, self.grammar)) != 1:
            raise ValueError("set exactly one of 'json', 'regex' and 'grammar'")
        return self


class StreamOptions(_Body):
    include_usage: bool = False


class CompletionBody(_Body):
    """Body of `POST /v1/completions`."""

    model: str
    """A base model or a loaded adapter."""
    prompt: Annotated[tuple[TokenId, ...], Field(min_length=1, strict=False)]
    n: Annotated[int, Field(ge=1, le=128)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 16
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[tuple[str, ...], Field(strict=False)] = ()
    stop_token_ids: Annotated[frozenset[TokenId], Field(strict=False)] = frozenset()
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: dict[Annotated[int, Field(ge=0, strict=False)], Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    """Number of alternatives per token; 0 is the chosen token only."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    # One value each: this is how vLLM has to be asked for what this engine always does.
    ignore_eos: Literal[True] = True
    return_token_ids: Literal[True] = True
    return_tokens_as_token_ids: Literal[True] = True
    skip_special_tokens: Literal[False] = False
    top_k: Literal[-1, 0] = -1
    min_p: Annotated[float, Field(ge=0, le=0)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] = 1.0

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="after")
    def _check_stops(self) -> Self:
        if "" in self.stop:
            raise ValueError("'stop' must not contain an empty string")
        return self


class LoadAdapterBody(_Body):
    """Body of `POST /v1/load_lora_adapter`."""

    lora_name: Annotated[str, Field(min_length=1, max_length=512)]
    lora_path: Annotated[str, Field(min_length=1)]
    base_model_name: Annotated[str, Field(min_length=1)]
    is_3d_lora_weight: bool = True
    """For vLLM; this engine refuses adapters of experts."""


class UnloadAdapterBody(_Body):
    """Body of `POST /v1/unload_lora_adapter`."""

    lora_name: str
