"""The body of `POST /v1/responses`, in OpenAI's shape, and its conversion to a `ChatQuestion`."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from app.api.ids import MAX_MODEL_NAME
from app.api.schemas.chat_completions import (
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOOLS,
    Count,
    JsonObjectFormat,
    LogitBias,
    Name,
    StreamOptions,
    TextFormat,
)
from app.api.schemas.openai_fields import problem
from app.core.inference.characters import check_characters
from app.core.inference.chat_request import ChatQuestion
from app.core.inference.response_input import read_input
from app.core.inference.sampling import Sampling
from app.core.inference.structured import CallMode, CallRules
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen
from app.core.spec.template_variables import TemplateVariables

MAX_TEXT: Final = 4_000_000
MAX_KEYS: Final = 256
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
_STATELESS: Final = "this server stores no responses. Send the whole conversation in 'input'"


def _refused(name: str, why: str, neutral: tuple[Any, ...] = ()) -> AfterValidator:
    """Return a validator that refuses a field which would change the answer, unless its value changes nothing."""

    def check(value: Any) -> Any:
        if value is None or value in neutral:
            return value
        raise problem(name, f"'{name}' is not supported: {why}.")

    return AfterValidator(check)


class ResponseFunction(Frozen):
    """A function that the model may call."""

    type: Literal["function"]
    name: Name
    """Name of the function."""
    description: Annotated[str | None, Field(max_length=MAX_TEXT)] = None
    """What the function does, for the model."""
    parameters: Annotated[
        dict[str, JsonValue] | None, Field(max_length=MAX_KEYS, description="JSON schema of the arguments.")
    ] = None
    strict: bool | None = Field(default=None, description="Whether the arguments must match the schema.")

    def to_chat(self) -> dict[str, Any]:
        """Return the tool in the shape of chat completions, which chat templates write."""
        function = self.model_dump(exclude={"type"}, exclude_none=True)
        return {"type": "function", "function": function}


class ResponseJsonSchema(Frozen):
    """JSON that matches a schema."""

    type: Literal["json_schema"]
    name: Name
    """A name for the schema."""
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema", max_length=MAX_KEYS)]
    """The JSON schema that the answer must match."""
    description: Annotated[str | None, Field(max_length=MAX_TEXT)] = None
    """What the answer is for."""
    strict: bool | None = Field(default=None, description="The schema is always enforced.")


class TextOptions(Frozen):
    """The form of the answer's text."""

    format: Annotated[TextFormat | JsonObjectFormat | ResponseJsonSchema, Field(discriminator="type")] | None = None
    """The form of the answer: any text, a JSON object, or JSON that matches a schema."""
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None,
        _refused("text.verbosity", "the model does not read it; ask for it in 'instructions'", ("medium",)),
    ] = None
    """Only `medium`: the models do not read it."""


class NamedFunction(Frozen):
    """Requires a call of one function."""

    type: Literal["function"]
    name: Name
    """Name of the function."""


class AllowedFunctions(Frozen):
    """Restricts calls to some of the functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    """`auto`: the model may call these functions. `required`: it must call at least one of them."""
    tools: Annotated[list[NamedFunction], Field(max_length=MAX_TOOLS)]
    """The functions that may be called."""


class ReasoningOptions(Frozen):
    """How the model thinks."""

    effort: Annotated[
        str | None, Field(max_length=64, description="The chat template's `reasoning_effort`, if it reads it.")
    ] = None
    summary: Annotated[JsonValue, Field(description="No effect: the thoughts themselves are returned.")] = None
    generate_summary: Annotated[JsonValue, Field(description="No effect.")] = None


ToolChoice = (
    Literal["none", "auto", "required"] | Annotated[NamedFunction | AllowedFunctions, Field(discriminator="type")]
)


class CreateResponse(Frozen):
    """A question, or a conversation to continue."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)]
    """A base model, a fine-tuned model (`ft:...`), one of its checkpoints, or an alias."""
    input: Annotated[
        Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
        | Annotated[
            list[Annotated[dict[str, JsonValue], Field(max_length=MAX_KEYS)]],
            Field(min_length=1, max_length=MAX_MESSAGES),
        ],
        Field(description="A text, or items: messages, function calls, their outputs, reasoning."),
    ]
    instructions: Annotated[str | None, Field(max_length=MAX_TEXT, description="The system message.")] = None
    max_output_tokens: Count | None = Field(default=None, description="By default what the context has room for.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; 1 by default, and 0 always takes the most probable token."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Samples from the most probable tokens that together have this probability; 1 by default, 0 for only one."""
    text: TextOptions | None = None
    """The form of the answer's text."""
    tools: Annotated[list[ResponseFunction], Field(max_length=MAX_TOOLS)] | None = None
    """The functions that the model may call."""
    tool_choice: ToolChoice | None = None
    """`auto`: the model decides (the default). `none`: no calls. `required`: at least one call. An object names
    the functions."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may have several calls; true by default."""
    reasoning: ReasoningOptions | None = None
    """How the model thinks."""
    stream: bool | None = None
    """Whether the answer is sent as typed server-sent events while the model writes it."""
    stream_options: StreamOptions | None = None
    """Options of the stream; needs `stream`."""
    store: bool | None = Field(default=None, description="No effect: responses are never stored.")
    # Parameters of chat completions that OpenAI's route of this name does not have.
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Seed of the sampling, for the same answer again."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    """Texts that end the answer; the answer does not contain them."""
    logit_bias: LogitBias | None = Field(default=None, description="Token id -> -100 to 100.")
    chat_template_kwargs: TemplateVariables | None = Field(
        default=None, description="Variables of the chat template; by default those that the model's job trained with."
    )
    previous_response_id: Annotated[JsonValue, _refused("previous_response_id", _STATELESS)] = None
    """Not supported: responses are not stored. Send the whole conversation in `input`."""
    conversation: Annotated[JsonValue, _refused("conversation", _STATELESS)] = None
    """Not supported: responses are not stored. Send the whole conversation in `input`."""
    prompt: Annotated[JsonValue, _refused("prompt", "this server stores no prompts. Send the text in 'input'")] = None
    """Not supported: prompts are not stored. Send the text in `input`."""
    background: Annotated[
        bool | None, _refused("background", "this server stores no responses. Use 'stream'", (False,))
    ] = None
    """Only false: responses are not stored."""
    include: Annotated[
        list[Annotated[str, Field(max_length=64)]] | None,
        Field(max_length=16),
        _refused("include", "for log-probabilities use /v1/chat/completions", ([], ["reasoning.encrypted_content"])),
    ] = None
    """Only empty or `["reasoning.encrypted_content"]`, which has no effect."""
    top_logprobs: Annotated[
        int | None, Field(le=20), _refused("top_logprobs", "use /v1/chat/completions for log-probabilities", (0,))
    ] = None
    """Only 0: use `/v1/chat/completions` for log-probabilities."""
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        _refused("truncation", "messages are never dropped. Send fewer of them", ("disabled",)),
    ] = None
    """Only `disabled`: messages are never dropped."""
    max_tool_calls: Annotated[
        int | None, Field(le=MAX_TOOLS), _refused("max_tool_calls", "your own code makes the calls")
    ] = None
    """Not supported: your own code makes the calls."""
    # These change no answer.
    metadata: JsonValue = Field(default=None, description="Returned as it is.")
    prompt_cache_key: JsonValue = Field(default=None, description="No effect.")
    prompt_cache_retention: JsonValue = Field(default=None, description="No effect.")
    safety_identifier: JsonValue = Field(default=None, description="No effect.")
    service_tier: JsonValue = Field(default=None, description="No effect.")
    user: JsonValue = Field(default=None, description="No effect.")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise problem("stream_options", "'stream_options' is only allowed with 'stream': true. Remove it.")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise problem("tool_choice", "'tool_choice' is only allowed with 'tools'. Add them, or remove it.")
        names = [tool.name for tool in self.tools or ()]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise problem(f"tools.{index}.name", f"'tools.{index}.name': there is another function '{name}'.")
        for name in self._chosen or ():
            if name not in names:
                raise problem("tool_choice", f"'tool_choice' names the function '{name}', which is not one of 'tools'.")
        return self

    @property
    def _chosen(self) -> list[str] | None:
        """Names of the functions that the choice of a tool is restricted to; None if it is not."""
        if isinstance(self.tool_choice, NamedFunction):
            return [self.tool_choice.name]
        if isinstance(self.tool_choice, AllowedFunctions):
            return [tool.name for tool in self.tool_choice.tools]
        return None

    def question(self) -> ChatQuestion:
        """Return what the model is asked. Raises `InvalidRequest` for input that is not valid."""
        check_characters(self)
        effort = self.reasoning.effort if self.reasoning else None
        return ChatQuestion(
            messages=read_input(self.input, self.instructions),
            sampling=Sampling(
                max_tokens=self.max_output_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                seed=self.seed,
                stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
                logit_bias={int(token): bias for token, bias in self.logit_bias.items()} if self.logit_bias else None,
            ),
            calls=self._call_rules(),
            schema=self._schema(),
            variables={**({"reasoning_effort": effort} if effort else {}), **(self.chat_template_kwargs or {})},
        )

    def _call_rules(self) -> CallRules:
        chosen = self._chosen
        tools = tuple(tool.to_chat() for tool in self.tools or () if chosen is None or tool.name in chosen)
        if isinstance(self.tool_choice, NamedFunction):
            mode = CallMode.required
        elif isinstance(self.tool_choice, AllowedFunctions):
            mode = CallMode(self.tool_choice.mode)
        else:
            mode = CallMode(self.tool_choice or "auto")
        is_parallel = self.parallel_tool_calls is not False and not isinstance(self.tool_choice, NamedFunction)
        param = "tool_choice" if mode == CallMode.required else "tools" if self._schema() is None else "text.format"
        return CallRules(mode, tools, is_parallel, param)

    def _schema(self) -> dict[str, Any] | None:
        match self.text.format if self.text else None:
            case JsonObjectFormat():
                return {"type": "object"}
            case ResponseJsonSchema(schema_=schema):
                return schema
            case _:
                return None


class ResponseObject(Described):
    """The answer, as OpenAI's SDK reads it."""

    id: str
    """Identifies the response."""
    object: Literal["response"] = "response"
    created_at: int
    """Unix seconds."""
    completed_at: int | None
    """Unix seconds; null until the answer is complete."""
    status: Literal["in_progress", "completed", "incomplete"]
    """`incomplete`: the answer reached its token limit. `in_progress` occurs in streams only."""
    model: str
    """The model that answered; the name behind an alias."""
    output: list[dict[str, Any]] = Field(description="Items of the types reasoning, message and function_call.")
    usage: dict[str, Any] | None
    """Tokens of the request; null until the answer is complete."""
    incomplete_details: dict[str, Any] | None
    """The reason if the status is `incomplete`."""
    store: bool
    """Always false: responses are not stored."""
