"""The graders that a job may use. `app.core.graders` computes the rewards.

A new type needs one class here, one entry in `Leaf`, and one function in `app.core.graders.registry`.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import jsonschema
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    field_validator,
    model_validator,
)

from app.core.spec.formula import MAX_LENGTH, parse_formula
from app.core.spec.frozen import Frozen
from app.core.spec.json_lines import nests_deeper
from app.core.spec.judge_messages import MAX_MESSAGES, JudgeMessage, SamplingParams
from app.core.spec.python_source import check_source
from app.core.spec.templates import Template, variables

MAX_SOURCE_BYTES: Final = 256 * 1024
MAX_SCHEMA_BYTES: Final = 100_000
MAX_SCHEMA_DEPTH: Final = 100
MAX_PARTS: Final = 32

Label = Annotated[str, Field(min_length=1, max_length=128)]
Name = Annotated[Label, Field(description="Name of the grader in metrics and reports.")]
MAX_REWARD: Final = 1e9
"""Rewards are from -1e9 to 1e9: sums and squares of larger ones overflow in means, intervals and advantages."""
Threshold = Annotated[float, Field(ge=-MAX_REWARD, le=MAX_REWARD)]
ANSWER: Final = "{{sample.output_text}}"


class BaseGrader(Frozen):
    """Base class of all graders."""

    template_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that are templates."""

    pass_threshold: Threshold | None = None
    """The reward from which an answer passes (`eval/accuracy`); 1 if absent."""

    def templates(self) -> dict[str, str]:
        """Return each template by its path inside the grader."""
        return {field: getattr(self, field) for field in self.template_fields}

    def as_written(self) -> dict[str, Any]:
        """Return the grader as JSON, as people write it: with its type, and without defaults."""
        return {"type": getattr(self, "type", "")} | self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


Operation = Annotated[
    Literal["eq", "ne", "like", "ilike"],
    BeforeValidator(lambda value: "ne" if value == "neq" else value),  # OpenAI's guide spells it neq
]


class StringCheckGrader(BaseGrader):
    """Reward 1 when the operation holds between the two texts, else 0."""

    template_fields: ClassVar = ("input", "reference")

    type: Literal["string_check"] = "string_check"
    name: Name = "string_check"
    input: Template
    """A template: the text to check, such as `{{sample.output_text}}`."""
    reference: Template
    """A template: the text to compare with, such as `{{item.reference_answer}}`."""
    operation: Operation
    """`like`: input contains reference; `ilike`: the same, ignoring case."""


class TextSimilarityGrader(BaseGrader):
    """The similarity of two texts, from 0 to 1."""

    template_fields: ClassVar = ("input", "reference")

    type: Literal["text_similarity"] = "text_similarity"
    name: Name = "text_similarity"
    input: Template
    """A template: the text to compare, such as `{{sample.output_text}}`."""
    reference: Template
    """A template: the text to compare with, such as `{{item.reference_answer}}`."""
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
    ]
    """The measure of similarity."""

    @field_validator("evaluation_metric", mode="before")
    @classmethod
    def _no_embeddings(cls, value: object) -> object:
        if value == "cosine":
            raise ValueError("'cosine' compares embeddings, which this server does not compute; use 'rouge_l'")
        return value


class MathGrader(BaseGrader):
    """Reward 1 when the input's final answer equals the reference mathematically (math-verify), else 0."""

    template_fields: ClassVar = ("input", "reference")

    type: Literal["math"] = "math"
    name: Name = "math"
    input: Template = ANSWER
    """A template: the text that contains the answer."""
    reference: Template
    """The correct answer: a number, LaTeX, words, or a solution that ends in one; or a list of accepted answers."""
    answer: Literal["expression", "last_number"] = "expression"
    """How to find the answer in the input: the last box or expression, or the last number. See docs/graders.md.

    Extracted expressions are evaluated, so "60 + 92" equals 152, and a model can learn to repeat the question. Where
    answers are numbers, `last_number` (the usual scoring of GSM8K) does not reward that.
    """


class RegexGrader(BaseGrader):
    """Reward 1 when the pattern (Python syntax) matches in the input, else 0."""

    template_fields: ClassVar = ("input",)

    type: Literal["regex"] = "regex"
    name: Name = "regex"
    input: Template = ANSWER
    """A template: the text to search in."""
    pattern: Annotated[str, Field(min_length=1, max_length=4000)]
    """A regular expression in Python's syntax."""
    match: Literal["search", "full"] = "search"
    """`full`: the whole input must match, except for surrounding white space."""
    ignore_case: bool = False
    """Whether upper and lower case are equal."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return pattern


def shallow(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema. Raises `ValueError` for one that is too deep to be stored and sent."""
    if nests_deeper(schema, MAX_SCHEMA_DEPTH):
        raise ValueError(f"is nested more than {MAX_SCHEMA_DEPTH} deep")
    return schema


def _checked_schema(schema: dict[str, Any]) -> dict[str, Any]:
    shallow(schema)
    try:
        if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
            raise ValueError(f"has more than {MAX_SCHEMA_BYTES:,} bytes")
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"is not a JSON schema: {error.json_path}: {error.message[:200]}") from error
    return schema


JsonSchema = Annotated[dict[str, Any], Field(max_length=1000), AfterValidator(_checked_schema)]
"""A JSON schema, draft 2020-12."""


class JsonSchemaGrader(BaseGrader):
    """Reward 1 when the input is JSON that matches the schema (draft 2020-12), else 0."""

    template_fields: ClassVar = ("input",)

    type: Literal["json_schema"] = "json_schema"
    name: Name = "json_schema"
    input: Template = ANSWER
    """A template: the text that should be JSON."""
    json_schema: Annotated[JsonSchema, Field(alias="schema")]
    """References to other documents are not followed."""


class ReasoningGymGrader(BaseGrader):
    """The score of reasoning-gym's verifier, from 0 to 1; for rows of `grouptune files generate`."""

    template_fields: ClassVar = ("input", "entry")

    type: Literal["reasoning_gym"] = "reasoning_gym"
    name: Name = "reasoning_gym"
    input: Template = ANSWER
    """The text between the last `<answer>` and `</answer>` is scored, or the whole input without these tags."""
    entry: Template = "{{item.reasoning_gym}}"
    """The verifier's input: the row's `dataset`, `answer` and `metadata`."""


class PythonGrader(BaseGrader):
    """The return value of `def grade(sample, item)`. The source runs in a sandbox without files or network."""

    type: Literal["python"] = "python"
    name: Name = "python"
    source: Annotated[str, Field(min_length=1, max_length=MAX_SOURCE_BYTES)]
    """Python source that defines `grade(sample, item)`."""
    image_tag: Annotated[str, Field(max_length=128)] | None = None
    """Accepted for compatibility with OpenAI; has no effect."""

    @field_validator("source")
    @classmethod
    def _can_run(cls, source: str) -> str:
        if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
            raise ValueError(f"has more than {MAX_SOURCE_BYTES // 1024} KiB")
        check_source(source)
        return source


class Judge(BaseGrader):
    """Base class of the graders that call a judge model."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A model on the judge server that the operator configured."""
    input: Annotated[tuple[JudgeMessage, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    """The messages to the judge."""
    sampling_params: SamplingParams | None = None
    """Sampling settings of the judge."""

    def templates(self) -> dict[str, str]:
        return {
            f"input[{index}].content" + (f"[{part}].text" if part else ""): text
            for index, message in enumerate(self.input)
            for part, text in enumerate(message.texts())
        }


class ScoreModelGrader(Judge):
    """The number that the judge returns, clipped to the range."""

    type: Literal["score_model"] = "score_model"
    name: Name = "score_model"
    range: tuple[Threshold, Threshold] = (0.0, 1.0)
    """Smallest and largest reward."""

    @field_validator("range")
    @classmethod
    def _rises(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] >= limits[1]:
            raise ValueError("the first number must be less than the second")
        return limits


class LabelModelGrader(Judge):
    """Reward 1 when the judge chooses a passing label, else 0."""

    type: Literal["label_model"] = "label_model"
    name: Name = "label_model"
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=64)]
    """The labels that the judge chooses from."""
    passing_labels: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)]
    """The labels with reward 1."""

    @model_validator(mode="after")
    def _passing_exist(self) -> Self:
        if unknown := set(self.passing_labels) - set(self.labels):
            raise ValueError(f"passing_labels contains {sorted(unknown)[0]!r}, which is not in labels")
        return self


class EndpointGrader(BaseGrader):
    """The reward that your own HTTP server returns (docs/graders.md)."""

    type: Literal["endpoint"] = "endpoint"
    name: Name = "endpoint"
    url: Annotated[str, Field(max_length=2048)]
    """The server's URL. It must be `https://` and public, unless the operator allows its host."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 1
    """Most answers in one request."""
    timeout_seconds: Annotated[float, Field(gt=0, le=120)] = 30.0
    """Time limit of one request, from connecting to the last byte."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        HttpUrl(url)
        return url


Leaf = Annotated[
    StringCheckGrader
    | TextSimilarityGrader
    | MathGrader
    | RegexGrader
    | JsonSchemaGrader
    | ReasoningGymGrader
    | PythonGrader
    | ScoreModelGrader
    | LabelModelGrader
    | EndpointGrader,
    Field(discriminator="type"),
]
PartName = Annotated[str, Field(pattern=r"^[^\W\d]\w{0,63}$")]


class MultiGrader(BaseGrader):
    """Several graders, by key, and a formula over their rewards: `0.8 * right + 0.2 * short`."""

    type: Literal["multi"] = "multi"
    name: Name = "multi"
    graders: Annotated[dict[PartName, Leaf], Field(min_length=1, max_length=MAX_PARTS)]
    """The parts, by the names that the formula uses."""
    calculate_output: Annotated[str, Field(max_length=MAX_LENGTH)]
    """A formula over the rewards of the parts."""

    @field_validator("graders", mode="before")
    @classmethod
    def _by_name(cls, sent: object) -> object:
        """Accept the three forms of OpenAI: by key (guide), a list (reference), a single grader (type of the SDK)."""
        if isinstance(sent, Mapping) and isinstance(sent.get("type"), str):
            sent = [sent]
        if not isinstance(sent, list | tuple):
            return sent
        named = {str(part.get("name", part.get("type"))): part for part in sent if isinstance(part, Mapping)}
        if len(named) != len(sent):
            raise ValueError("each grader in the list needs a distinct name")
        return named

    @model_validator(mode="after")
    def _formula_fits(self) -> Self:
        try:
            names = parse_formula(self.calculate_output).names
        except ValueError as error:
            raise ValueError(f"calculate_output: {error}") from error
        if unknown := sorted(names - set(self.graders)):
            raise ValueError(f"calculate_output uses {unknown[0]!r}, but the graders are {', '.join(self.graders)}")
        return self

    def as_written(self) -> dict[str, Any]:
        return super().as_written() | {"graders": {key: part.as_written() for key, part in self.graders.items()}}

    def templates(self) -> dict[str, str]:
        return {
            f"graders.{key}.{path}": template
            for key, part in self.graders.items()
            for path, template in part.templates().items()
        }


Grader = Annotated[
    StringCheckGrader
    | TextSimilarityGrader
    | MathGrader
    | RegexGrader
    | JsonSchemaGrader
    | ReasoningGymGrader
    | PythonGrader
    | ScoreModelGrader
    | LabelModelGrader
    | EndpointGrader
    | MultiGrader,
    Field(discriminator="type"),
]


def parts(grader: BaseGrader) -> tuple[BaseGrader, ...]:
    """Return the graders that score answers: the parts of a multi grader, or the grader itself."""
    return tuple(grader.graders.values()) if isinstance(grader, MultiGrader) else (grader,)


def missing_fields(grader: BaseGrader, item_fields: Collection[str]) -> list[tuple[str, str]]:
    """Return (path of the template, field) for each `item` field that the grader reads and some row lacks.

    `item_fields` are the fields that every row has; only the first step of a path can be checked against them.
    """
    missing = {
        (param, str(variable.path[0])): None
        for param, template in grader.templates().items()
        for variable in variables(template)
        if variable.namespace == "item" and variable.path[0] not in item_fields
    }
    return list(missing)
