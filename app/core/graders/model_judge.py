"""The graders that call a judge model: `score_model` and `label_model`."""

import json
import math
import re
from typing import Any, Final

from app.core.graders.code_blocks import last_object, without_thoughts
from app.core.graders.templates import render
from app.core.graders.types import ErrorType, GraderFailure, Sample, Scored, TokenUsage, Tools
from app.core.spec.graders import Judge, LabelModelGrader, ScoreModelGrader

_STEPS: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
        "required": ["description", "conclusion"],
        "additionalProperties": False,
    },
}


_SCORE_KEYS: Final = ("result", "score", "rating", "grade")
_LABEL_KEYS: Final = ("result", "label")
"""Where a judge without structured outputs puts its result; the first one present counts."""
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def score_model(grader: ScoreModelGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> Scored:
    """Return the judge's number, clipped to the range. A reply without a number is an error, never a reward of 0."""
    low, high = grader.range
    instruction = f'Answer with JSON alone: {{"steps": [...], "result": <a number from {low:g} to {high:g}>}}.'
    answer, usage = _ask(grader, sample, item, tools, instruction, {"type": "number"}, _SCORE_KEYS)
    if isinstance(answer, str) and _NUMBER.fullmatch(answer.strip()):
        answer = float(answer)
    if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
        raise GraderFailure(f"the judge's result is {answer!r:.100}, which is not a number", ErrorType.judge_parse)
    return Scored(min(high, max(low, float(answer))), usage, unclipped=float(answer))


def label_model(grader: LabelModelGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> Scored:
    """Return 1.0 when the judge's label passes, else 0.0; an unknown label is an error."""
    labels = list(grader.labels)
    instruction = f'Answer with JSON alone: {{"steps": [...], "result": <one of {json.dumps(labels)}>}}.'
    result = {"type": "string", "enum": labels}
    answer, usage = _ask(grader, sample, item, tools, instruction, result, _LABEL_KEYS)
    label = _match(answer, labels)
    if label is None:
        raise GraderFailure(
            f"the judge's label is {answer!r:.100}, which is not one of {labels}", ErrorType.judge_parse
        )
    return Scored(float(label in grader.passing_labels), usage)


def _match(answer: object, labels: list[str]) -> str | None:
    """Return the label that a judge means, also with other capitals, spaces, quotes or a full stop."""
    if answer in labels:
        return str(answer)
    alike = [label for label in labels if isinstance(answer, str) and _plain(label) == _plain(answer)]
    return alike[0] if len(alike) == 1 else None


def _plain(label: str) -> str:
    return " ".join(label.casefold().strip(" \n\t.\"'`*").split())


def _ask(
    grader: Judge,
    sample: Sample,
    item: dict[str, Any],
    tools: Tools,
    instruction: str,
    result: dict[str, Any],
    keys: tuple[str, ...],
) -> tuple[Any, dict[str, TokenUsage]]:
    schema = {
        "type": "object",
        "properties": {"steps": _STEPS, "result": result},
        "required": ["steps", "result"],
        "additionalProperties": False,
    }
    body = {
        "model": grader.model,
        "messages": _messages(grader, sample, item, instruction),
        "response_format": {"type": "json_schema", "json_schema": {"name": "grade", "strict": True, "schema": schema}},
    } | _sampling(grader)
    answer = tools.chat(body)
    return _result(answer, keys), {grader.model: _usage(answer)}


def _messages(grader: Judge, sample: Sample, item: dict[str, Any], instruction: str) -> list[dict[str, str]]:
    """Return the grader's messages; the first system message gains the answer format."""
    sent = [
        {"role": message.role, "content": "".join(render(text, sample, item) for text in message.texts())}
        for message in grader.input
    ]
    if sent[0]["role"] in ("system", "developer"):
        return [sent[0] | {"content": f"{sent[0]['content']}\n\n{instruction}"}, *sent[1:]]
    return [{"role": "system", "content": instruction}, *sent]


def _sampling(grader: Judge) -> dict[str, Any]:
    wanted = grader.sampling_params.model_dump(exclude_none=True) if grader.sampling_params else {}
    if "max_completions_tokens" in wanted:
        wanted["max_completion_tokens"] = wanted.pop("max_completions_tokens")
    return wanted


def _result(answer: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """Return the result in the judge's text, without thoughts, prose and code fences. Raises GraderFailure."""
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        refusal, text = message.get("refusal"), _text(message)
    except (LookupError, TypeError, AttributeError):
        message = f"the judge's reply is not a chat completion: {json.dumps(answer):.200}"
        raise GraderFailure(message, ErrorType.judge_server) from None
    if refusal:
        raise GraderFailure(f"the judge refused: {refusal!s:.200}", ErrorType.judge_refusal)
    found = last_object(text, keys)
    if found is None:
        cut_off = " It was cut off; raise max_completion_tokens." if choice.get("finish_reason") == "length" else ""
        message = f"the judge's reply is not JSON with a result: {text:.200}{cut_off}"
        raise GraderFailure(message, ErrorType.judge_parse)
    return next(found[key] for key in keys if key in found)


def _text(message: dict[str, Any]) -> str:
    """Return the text of a message; some servers put all of it into the field of the thoughts."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content)
    for text in (content, message.get("reasoning_content"), message.get("reasoning")):
        if text and (answer := without_thoughts(str(text))):
            return answer
    return ""


def _usage(answer: dict[str, Any]) -> TokenUsage:
    """Return the token usage that the server reports; some servers report none."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    counts = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else None,
    }
    return TokenUsage(**{name: count for name, count in counts.items() if isinstance(count, int) and count >= 0})
