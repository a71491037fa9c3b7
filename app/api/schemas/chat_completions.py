"""The body of `POST /v1/chat/completions`, in OpenAI's shape, and its conversion to a `ChatQuestion`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from app.api.ids import MAX_MODEL_NAME
from app.api.schemas.openai_fields import problem
from app.core.inference.characters import check_characters
from app.core.inference.chat_messages import read_messages
from app.core.inference.chat_request import ChatQuestion
from app.core.inference.sampling import Sampling
from app.core.inference.structured import CallMode, CallRules
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen
from app.core.spec.graders import shallow
from app.core.spec.template_variables import TemplateVariables

MAX_CHOICES: Final = 16
MAX_TOOLS: Final = 128
MAX_STOPS: Final = 4
MAX_TOP_LOGPROBS: Final = 20
MAX_MESSAGES: Final = 4096
MAX_TOKENS: Final = 1 << 24
MAX_STOP: Final = 1024
"""Characters of a stop string."""
MAX_BIASES: Final = 4096
MAX_FIELDS: Final = 64
"""Fields of one message, and of the outermost object of a JSON schema."""
_FUNCTION_NAME: Final = r"^[a-zA-Z0-9_-]+$"
_DEPRECATED: Final[dict[str, JsonValue]] = {"deprecated": True}
_JSON_OBJECT: Final = {"type": "object"}

Count = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]
Penalty = Annotated[float, Field(strict=True, ge=-2, le=2)]
Name = Annotated[str, StringConstraints(pattern=_FUNCTION_NAME, min_length=1, max_length=64)]
Description = Annotated[str, StringConstraints(max_length=100_000)]
Schema = Annotated[dict[str, Any], Field(max_length=MAX_FIELDS), AfterValidator(shallow)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP)]


def as_sent(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Check a value and return it as it is: the prompt shows tools with their fields in the client's order."""
    handler(value)
    return value


class FunctionDefinition(Described):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: Name
    """Name of the function."""
    description: Description | None = None
    """What the function does, for the model."""
    parameters: Schema | None = Field(default=None, description="JSON schema of the arguments.")
    strict: bool | None = Field(default=None, description="Whether the arguments must match the schema.")


class FunctionTool(Described):
    """A tool."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: FunctionDefinition
    """The function that the model may call."""


Tool = Annotated[FunctionTool, WrapValidator(as_sent)]
Function = Annotated[FunctionDefinition, WrapValidator(as_sent)]


class FunctionName(Frozen):
    """The name of a function."""

    name: Name
    """Name of the function."""


class NamedTool(Frozen):
    """Requires a call of one function."""

    type: Literal["function"]
    function: FunctionName
    """The function that the model must call."""


class AllowedTools(Frozen):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    """`auto`: the model may call these tools. `required`: it must call at least one of them."""
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]
    """The tools that may be called."""


class AllowedToolChoice(Frozen):
    """Restricts calls to some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools
    """The tools that may be called, and whether one must be."""


class TextFormat(Frozen):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Frozen):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchema(Frozen):
    """A JSON schema."""

    name: Name
    """A name for the schema."""
    description: Description | None = None
    """What the answer is for."""
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    """The JSON schema; any JSON if it is absent."""
    strict: bool | None = Field(default=None, description="The schema is always enforced.")


class JsonSchemaFormat(Frozen):
    """JSON that matches a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema
    """The schema that the answer must match."""


class StreamOptions(Frozen):
    """Options of a stream."""

    include_usage: bool | None = Field(default=None, description="Whether a last chunk reports the usage.")
    include_obfuscation: bool | None = Field(default=None, description="No effect: chunks are not padded.")


def _not_supported(name: str, why: str, neutral: tuple[Any, ...] = ()) -> AfterValidator:
    """Return a validator that refuses a field which would change the answer, unless its value changes nothing."""

    def check(value: Any) -> Any:
        if value is None or value in neutral:
            return value
        raise problem(name, f"'{name}' is not supported: {why}. Remove it.")

    return AfterValidator(check)


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
ToolChoice = Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolChoice, Field(discriminator="type")]
Message = Annotated[dict[str, Any], Field(max_length=MAX_FIELDS)]
TokenId = Annotated[str, StringConstraints(max_length=12)]
LogitBias = Annotated[
    dict[TokenId, Annotated[float, Field(strict=True, ge=-100, le=100)]], Field(max_length=MAX_BIASES)
]


class CreateChatCompletion(Frozen):
    """A chat that the model should continue."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)] = Field(
        description="A base model, a fine-tuned model (`ft:...`), one of its checkpoints, or an alias."
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description="The chat in OpenAI's shape: roles system, developer, user, assistant and tool; text only."
    )
    frequency_penalty: Penalty | None = None
    """Subtracted from a token's logit once for each time that the answer already has the token; 0 by default."""
    logit_bias: LogitBias | None = Field(default=None, description="Token id -> -100 to 100.")
    logprobs: bool | None = None
    """Whether the answer has the log-probability of each token."""
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Number of most probable tokens to report at each position; needs `logprobs`."""
    max_completion_tokens: Count | None = Field(default=None, description="By default what the context has room for.")
    max_tokens: Count | None = Field(default=None, description="Older name of `max_completion_tokens`.")
    n: Annotated[int, Field(strict=True, ge=1, le=MAX_CHOICES)] | None = None
    """Number of answers; 1 by default."""
    presence_penalty: Penalty | None = None
    """Subtracted from the logit of every token that the answer already has; 0 by default."""
    response_format: ResponseFormat | None = None
    """The form of the answer: any text, a JSON object, or JSON that matches a schema."""
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None
    """Seed of the sampling, for the same answer again."""
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    """Texts that end the answer; the answer does not contain them."""
    stream: bool | None = None
    """Whether the answer is sent in chunks, as server-sent events, while the model writes it."""
    stream_options: StreamOptions | None = None
    """Options of the stream; needs `stream`."""
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    """Sampling temperature; 1 by default, and 0 always takes the most probable token."""
    top_p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    """Samples from the most probable tokens that together have this probability; 1 by default, 0 for only one."""
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    """The functions that the model may call."""
    tool_choice: ToolChoice | None = None
    """`auto`: the model decides (the default). `none`: no calls. `required`: at least one call. An object names
    the tools."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may have several calls; true by default."""
    functions: Annotated[list[Function], Field(max_length=MAX_TOOLS)] | None = Field(
        default=None, json_schema_extra=_DEPRECATED, description="Older form of `tools`."
    )
    function_call: Literal["none", "auto"] | FunctionName | None = Field(default=None, json_schema_extra=_DEPRECATED)
    """Older form of `tool_choice`."""
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="A variable of the chat template, if it reads it."
    )
    chat_template_kwargs: TemplateVariables | None = Field(
        default=None, description="Variables of the chat template; by default those that the model's job trained with."
    )
    modalities: Annotated[
        Annotated[list[Literal["text", "audio"]], Field(max_length=2)] | None,
        _not_supported("modalities", "models of this server write text only", (["text"],)),
    ] = None
    """Only `["text"]`: the models write text."""
    audio: Annotated[JsonValue, _not_supported("audio", "models of this server write text only")] = None
    """Not supported: the models write text."""
    web_search_options: Annotated[
        JsonValue, _not_supported("web_search_options", "models of this server search nothing")
    ] = None
    """Not supported: the server does not search the web."""
    moderation: Annotated[JsonValue, _not_supported("moderation", "this server moderates nothing")] = None
    """Not supported."""
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None,
        _not_supported("verbosity", "the model does not read it; ask for it in a message", ("medium",)),
    ] = None
    """Only `medium`: the models do not read it."""
    # These change no answer.
    metadata: JsonValue = Field(default=None, description="No effect.")
    prediction: JsonValue = Field(default=None, description="No effect: OpenAI's answer is the same, but faster.")
    prompt_cache_key: JsonValue = Field(default=None, description="No effect.")
    prompt_cache_options: JsonValue = Field(default=None, description="No effect.")
    prompt_cache_retention: JsonValue = Field(default=None, description="No effect.")
    safety_identifier: JsonValue = Field(default=None, description="No effect.")
    service_tier: JsonValue = Field(default=None, description="No effect.")
    store: JsonValue = Field(default=None, description="No effect: answers are never stored.")
    user: JsonValue = Field(default=None, description="No effect.")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise problem("max_tokens", "'max_tokens' and 'max_completion_tokens' differ. Send only the second one.")
        if self.top_logprobs is not None and not self.logprobs:
            raise problem("top_logprobs", "'top_logprobs' needs 'logprobs': true. Add it.")
        if self.stream_options is not None and not self.stream:
            raise problem("stream_options", "'stream_options' is only allowed with 'stream': true. Remove it.")
        if self.functions and self.tools:
            raise problem("functions", "'functions' is the older form of 'tools'. Send only 'tools'.")
        for field, needed in (
            ("tool_choice", "tools"),
            ("function_call", "functions"),
            ("parallel_tool_calls", "tools"),
        ):
            if getattr(self, field) is not None and not getattr(self, needed):
                raise problem(field, f"'{field}' is only allowed with '{needed}'. Add them, or remove it.")
        for token in self.logit_bias or ():
            if not (token.isascii() and token.isdecimal()):
                raise problem(
                    f"logit_bias.{token}", f"'logit_bias.{token}': its name must be a token id such as '50256'."
                )
        self._check_names()
        return self

    def _check_names(self) -> None:
        """Raises unless the choice of a tool names tools, each of which has a name of its own."""
        holder = "functions" if self.functions else "tools"
        names = [tool["function"]["name"] for tool in self.sent_tools]
        for index, name in enumerate(names):
            if name in names[:index]:
                path = f"{holder}.{index}" + (".name" if self.functions else ".function.name")
                raise problem(path, f"'{path}': there is another function '{name}'. Give each one a name of its own.")
        param = "function_call" if self.functions else "tool_choice"
        for name in self._chosen or ():
            if name not in names:
                raise problem(param, f"'{param}' names the function '{name}', which is not one of '{holder}'.")

    @property
    def sent_tools(self) -> list[dict[str, Any]]:
        """The tools as the client sent them; functions of the older form as tools."""
        if self.functions:
            return [{"type": "function", "function": function} for function in self.functions]
        return cast(list[dict[str, Any]], self.tools or [])

    @property
    def _chosen(self) -> list[str] | None:
        """Names of the functions that the choice of a tool is restricted to; None if it is not."""
        if isinstance(self.tool_choice, NamedTool):
            return [self.tool_choice.function.name]
        if isinstance(self.tool_choice, AllowedToolChoice):
            return [tool.function.name for tool in self.tool_choice.allowed_tools.tools]
        return [self.function_call.name] if isinstance(self.function_call, FunctionName) else None

    @property
    def is_forced(self) -> bool:
        """Whether the client has chosen the function to call: then OpenAI's reason to finish is `stop`."""
        return isinstance(self.tool_choice, NamedTool) or isinstance(self.function_call, FunctionName)

    def question(self) -> ChatQuestion:
        """Return what the model is asked. Raises `InvalidRequest` for messages that are not valid."""
        check_characters(self)
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return ChatQuestion(
            messages=read_messages(self.messages),
            sampling=self.sampling(),
            calls=self.call_rules(),
            schema=self.schema_of_text(),
            variables={**effort, **(self.chat_template_kwargs or {})},
        )

    def call_rules(self) -> CallRules:
        """Return the calls that the answer may make."""
        tools, chosen = self.sent_tools, self._chosen
        allowed = tuple(tool for tool in tools if chosen is None or tool["function"]["name"] in chosen)
        if self.is_forced:
            mode = CallMode.required
        elif isinstance(self.tool_choice, AllowedToolChoice):
            mode = CallMode(self.tool_choice.allowed_tools.mode)
        else:
            choice = self.tool_choice or self.function_call or "auto"
            mode = CallMode(choice) if isinstance(choice, str) else CallMode.auto
        return CallRules(
            mode=mode,
            allowed=allowed,
            is_parallel=self.parallel_tool_calls is not False and not self.functions and not self.is_forced,
            param=self._call_param(mode),
            tools_param="functions" if self.functions else "tools",
        )

    def _call_param(self, mode: CallMode) -> str:
        if mode == CallMode.required:
            return "function_call" if self.functions else "tool_choice"
        return "response_format" if self.schema_of_text() is not None else "tools"

    def schema_of_text(self) -> dict[str, Any] | None:
        """Return the JSON schema of the answer's text, if it has one."""
        match self.response_format:
            case JsonObjectFormat():
                return _JSON_OBJECT
            case JsonSchemaFormat(json_schema=found):
                return found.schema_ if found.schema_ is not None else {}
            case _:
                return None

    def sampling(self) -> Sampling:
        """Return the sampling parameters, with OpenAI's defaults."""
        return Sampling(
            n=_or(self.n, 1),
            max_tokens=_or(self.max_completion_tokens, self.max_tokens),
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            seed=self.seed,
            stop=tuple([self.stop] if isinstance(self.stop, str) else self.stop or ()),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            logit_bias=_by_id(self.logit_bias),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _by_id(bias: Mapping[str, float] | None) -> dict[int, float] | None:
    return {int(token): value for token, value in bias.items()} if bias else None
