"""Suggests a grader for a data file from a sample of its rows. Nothing is graded or stored here."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from app.core.graders.json_shape import as_document, compare_source, schema_of
from app.core.graders.math_answers import final_number
from app.core.graders.numbers import read_number
from app.core.plurals import plural
from app.core.spec.graders import (
    ANSWER,
    Grader,
    JsonSchemaGrader,
    MathGrader,
    MultiGrader,
    PythonGrader,
    ReasoningGymGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)
from app.core.spec.rows import Row

MAX_LABELS: Final = 20
MAX_LABEL_CHARACTERS: Final = 40
ROWS_PER_LABEL: Final = 3
"""Values are labels if each occurs this often on average."""
MAX_SHORT_CHARACTERS: Final = 80
MIN_SHARE: Final = 0.9
"""Share of the demonstrations that must agree with a comparison for it to be suggested."""
_MAX_NUMBER_CHARACTERS: Final = 200

REFERENCE_NAMES: Final = (
    *("reference_answer", "ground_truth", "gold_answer", "expected_answer", "correct_answer"),
    *("answer", "label", "target", "solution", "expected", "gold", "reference", "output", "response"),
)
"""Usual names of the field with the right answer, the most telling first."""
_ROW_FORMAT: Final = frozenset(
    {"messages", "prompt", "completion", "input", "preferred_output", "non_preferred_output", "chosen", "rejected"}
)
_MARKED_RESULT: Final = re.compile(r"####|\\boxed\{|=\s*[-+]?[$€£]?\d[\d.,/]*\s*[%.]?\s*$")
"""What shows that a worked solution ends in its result."""
_FORMULA: Final = re.compile(r"\\[a-zA-Z]+|\$.+\$|[\w)]\s*\^|[=+*/]")


class Suggestion(NamedTuple):
    """A grader for the rows of a file, and why it fits."""

    grader: Grader | None
    """None if nothing in the rows shows how to grade answers."""
    field: str | None
    """The field of the rows with the right answer; None if it is the demonstration, or if there is none."""
    reason: str
    """One sentence."""


class _Reference(NamedTuple):
    """Where graders find the right answer to a row, and its values in the sample."""

    field: str | None
    template: str
    code: str
    """The same in Python."""
    values: list[Any]

    @property
    def name(self) -> str:
        return f"`{self.field}`" if self.field else "the demonstration"

    def texts(self) -> list[str]:
        return [value if isinstance(value, str) else json.dumps(value) for value in self.values]


def suggest(rows: Sequence[Row], fields: Collection[str]) -> Suggestion:
    """Return the grader that fits `rows`, a sample of a file in which every row has these item `fields`."""
    if not rows:
        return Suggestion(None, None, "The file has no rows.")
    if all(row.preference is not None for row in rows):
        return Suggestion(None, None, "Every row has a pair of answers, which `dpo` trains without a grader.")
    if "reasoning_gym" in fields:
        reason = "Every row has the data of its own verifier in `reasoning_gym`."
        return Suggestion(ReasoningGymGrader(name="answer"), "reasoning_gym", reason)
    for reference in _references(rows, fields):
        for kind in (_json, _numbers, _labels, _formulas, _texts):
            if (found := kind(reference, rows)) is not None:
                return found
    return Suggestion(
        None,
        None,
        f"No row has a field with the right answer, such as `reference_answer`, nor {_missing_demonstration(rows)}: "
        "add such a field, describe a good answer to a judge, or write a Python grader.",
    )


def _missing_demonstration(rows: Sequence[Row]) -> str:
    if any(row.expert is None for row in rows):
        return "a demonstration to compare with"
    return "a demonstration that is a text, without tool calls"


def _references(rows: Sequence[Row], fields: Collection[str]) -> Iterable[_Reference]:
    """Yield the fields that may hold the right answer, the most likely first, then the demonstrations."""
    names = [name for name in fields if name not in _ROW_FORMAT and _rank(name) is not None]
    for name in sorted(names, key=lambda name: (_rank(name), name)):
        values = [row.item.get(name) for row in rows]
        if re.fullmatch(r"[^\W\d][\w-]*", name) and all(map(_is_usable, values)):
            yield _Reference(name, f"{{{{item.{name}}}}}", f"item[{name!r}]", values)
    if (demonstration := _demonstration(rows, fields)) is not None:
        yield demonstration


def _rank(name: str) -> int | None:
    words = re.sub(r"[^a-z]+", "_", name.lower()).rstrip("s_")
    ranks = (rank for rank, usual in enumerate(REFERENCE_NAMES) if words == usual or words.endswith(f"_{usual}"))
    return next(ranks, None)


def _is_usable(value: Any) -> bool:
    return value is not None and (not isinstance(value, str | list | dict) or bool(value)) and value != " "


def _demonstration(rows: Sequence[Row], fields: Collection[str]) -> _Reference | None:
    """Return the demonstrations as references if templates reach them: all are text."""
    if "completion" in fields and all(isinstance(row.item["completion"], str) for row in rows):
        return _Reference(None, "{{item.completion}}", 'item["completion"]', [row.item["completion"] for row in rows])
    contents = [row.item["messages"][-1].get("content") for row in rows]
    if any(row.expert is None for row in rows) or not all(isinstance(text, str) for text in contents):
        return None
    # Counted from the end: other rows of the file may have more messages, or fewer.
    return _Reference(None, "{{item.messages[-1].content}}", 'item["messages"][-1]["content"]', contents)


def _json(reference: _Reference, rows: Sequence[Row]) -> Suggestion | None:
    documents = [as_document(value) for value in reference.values]
    if not all(isinstance(document, dict | list) for document in documents):
        return None
    if all(
        _is_list_of_scalars(value) for value in reference.values
    ):  # accepted answers, which `math` takes as they are
        return None
    same = PythonGrader(name="same", source=compare_source(reference.code))
    shape = JsonSchemaGrader.model_validate({"name": "shape", "schema": schema_of(documents)})
    grader = MultiGrader(
        name="answer", graders={"shape": shape, "same": same}, calculate_output="0.2 * shape + 0.8 * same"
    )
    reason = (
        f"{_in_all(reference, rows)} JSON: `shape` checks the fields and types of an answer, and `same` compares its "
        "values."
    )
    return Suggestion(grader, reference.field, reason)


def _is_list_of_scalars(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | int | float) for item in value)


def _numbers(reference: _Reference, rows: Sequence[Row]) -> Suggestion | None:
    if all(map(_is_number, reference.values)):
        reason = f"{_in_all(reference, rows)} a number: `math` compares it with the last number of an answer."
    elif all(isinstance(value, str) and _ends_in_number(value) for value in reference.values):
        reason = (
            f"{_in_all(reference, rows)} a text that ends in a number: `math` compares that with the last number of an "
            "answer."
        )
    else:
        return None
    return Suggestion(
        MathGrader(name="answer", reference=reference.template, answer="last_number"), reference.field, reason
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, list):
        return bool(value) and all(map(_is_number, value))
    text = str(value).strip()
    return len(text) <= MAX_LABEL_CHARACTERS and read_number(text.strip("$ ")) is not None


def _ends_in_number(text: str) -> bool:
    end = text[-_MAX_NUMBER_CHARACTERS:]
    return _MARKED_RESULT.search(end) is not None and final_number(end) != ""


def _labels(reference: _Reference, rows: Sequence[Row]) -> Suggestion | None:
    texts = reference.texts()
    labels = sorted(set(texts))
    is_short = all(len(label) <= MAX_LABEL_CHARACTERS and "\n" not in label for label in labels)
    if not 2 <= len(labels) <= MAX_LABELS or len(texts) < ROWS_PER_LABEL * len(labels) or not is_short:
        return None
    shown = ", ".join(f"`{label}`" for label in labels[:4]) + (", ..." if len(labels) > 4 else "")
    found = f"{_in_all(reference, rows)} one of {len(labels)} labels ({shown})"
    demonstrations = _demonstrations(rows)
    if not demonstrations or reference.field is None or _share(texts, demonstrations, str.__eq__) >= MIN_SHARE:
        return Suggestion(_check("eq", reference), reference.field, f"{found}: an answer must be exactly the label.")
    source = _last_label_source(labels, reference.code)
    return Suggestion(
        PythonGrader(name="answer", source=source),
        reference.field,
        f"{found}, and the demonstrations say more than the label: the last label in an answer counts.",
    )


def _formulas(reference: _Reference, rows: Sequence[Row]) -> Suggestion | None:
    texts = [text for value in reference.values for text in (value if isinstance(value, list) else [value])]
    if not all(isinstance(text, str | int | float) and not isinstance(text, bool) for text in texts):
        return None
    if not all(_is_number(text) or ("\\boxed{" in str(text)) or _is_formula(str(text)) for text in texts):
        return None
    return Suggestion(
        MathGrader(name="answer", reference=reference.template, answer="expression"),
        reference.field,
        f"{_in_all(reference, rows)} a mathematical expression: `math` compares it with the final expression of an "
        "answer.",
    )


def _is_formula(text: str) -> bool:
    prose = re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", text)
    return len(text) <= MAX_SHORT_CHARACTERS and bool(_FORMULA.search(text)) and not prose


def _texts(reference: _Reference, rows: Sequence[Row]) -> Suggestion | None:
    if any(isinstance(value, list | dict) for value in reference.values):
        return None
    texts, demonstrations = reference.texts(), _demonstrations(rows)
    is_short = all(len(text) <= MAX_SHORT_CHARACTERS and "\n" not in text for text in texts)
    if is_short and reference.field is not None and demonstrations:
        found = f"{_in_all(reference, rows)} a short text"
        if _share(texts, demonstrations, str.__eq__) >= MIN_SHARE:
            return Suggestion(
                _check("eq", reference), reference.field, f"{found}: an answer must be exactly this text."
            )
        if _share(texts, demonstrations, lambda text, answer: text.casefold() in answer.casefold()) >= MIN_SHARE:
            reason = f"{found}, and the demonstrations contain it: an answer must contain it too, in any case."
            return Suggestion(_check("ilike", reference), reference.field, reason)
    grader = TextSimilarityGrader(
        name="answer",
        input=ANSWER,
        reference=reference.template,
        evaluation_metric="fuzzy_match" if is_short else "rouge_l",
    )
    reason = (
        f"{_in_all(reference, rows)} {'a short' if is_short else 'free'} text: `text_similarity` pays for the words "
        "that an answer shares with it; a judge (`score_model`) can grade the meaning instead."
    )
    return Suggestion(grader, reference.field, reason)


def _check(operation: str, reference: _Reference) -> StringCheckGrader:
    return StringCheckGrader.model_validate(
        {"name": "answer", "input": ANSWER, "operation": operation, "reference": reference.template}
    )


def _last_label_source(labels: Sequence[str], code: str) -> str:
    """Return a grader that pays for the last label an answer names, however often it names others before."""
    return (
        "import re\n\n"
        f"LABELS = {json.dumps(sorted(labels, key=len, reverse=True), ensure_ascii=False)}\n\n\n"
        "def grade(sample, item):\n"
        '    pattern = "|".join(re.escape(label) for label in LABELS)\n'
        '    found = re.findall(rf"(?<!\\w)(?:{pattern})(?!\\w)", sample["output_text"], re.IGNORECASE)\n'
        f"    return 1.0 if found and found[-1].lower() == str({code}).lower() else 0.0\n"
    )


def _in_all(reference: _Reference, rows: Sequence[Row]) -> str:
    where = "In the row" if len(rows) == 1 else f"In all {plural(len(rows), 'row')} read"
    return f"{where}, {reference.name} is"


def _demonstrations(rows: Sequence[Row]) -> list[str]:
    """Return the demonstrations if every row has one."""
    texts = [row.expert for row in rows]
    return [text.strip() for text in texts if text is not None] if None not in texts else []


def _share(texts: Sequence[str], answers: Sequence[str], agrees: Callable[[str, str], bool]) -> float:
    return sum(agrees(text.strip(), answer) for text, answer in zip(texts, answers, strict=True)) / len(texts)
