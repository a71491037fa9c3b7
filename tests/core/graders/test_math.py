"""The `math` grader: answers as people write them, exact comparison, and properties of both."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.core.graders.math_answers import NeedsAlgebra, equal, final_answer, final_number
from app.core.graders.run import Grade, GraderPool, Sample, grade
from app.core.spec.graders import MathGrader
from tests.properties import examples

MATH = MathGrader(reference="{{item.answer}}")
NUMBER = MathGrader(reference="{{item.answer}}", answer="last_number")
CASES = [json.loads(line) for line in (Path(__file__).parent / "math_answers.jsonl").read_text().splitlines()]
"""A reference, a response, and its reward; null for an error."""


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(MATH, workers=2, limit_seconds=20) as opened:
        yield opened


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['reference']} | {case['text']}"[:60])
def test_answer_as_people_write_it(pool: GraderPool, case: dict[str, Any]) -> None:
    grader = MATH if case["answer"] == "expression" else NUMBER
    graded = grade(grader, Sample(output_text=case["text"]), {"answer": case["reference"]}, pool._tools)
    assert graded.reward == case["reward"], graded.error


@pytest.mark.parametrize(
    ("reference", "text", "reward"),
    [
        ("4", "4", 1),
        ("4", "4.0", 1),
        ("4", r"\boxed{4}", 1),
        ("-4", "4", 0),
        ("1/2", r"so it is \boxed{0.5}.", 1),
        ("0.5", r"$\frac{1}{2}$", 1),
        (r"\frac{1}{2}", "1/2", 1),
        ("1/3", "0.333333", 1),
        ("1,000", "1000", 1),
        ("72", "First 70, then 2 more.\nThe answer is 72.", 1),
        ("72", "Adding up:\n#### 73", 0),
        ("She has 5 + 67 clips.\n#### 72", r"\boxed{72}", 1),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", 1),
        (r"2\sqrt{3}", "2", 0),
        ("2", r"2\sqrt{3}", 0),
        ("x^2+1", r"\boxed{1+x^2}", 1),
        ("(1,2)", r"\boxed{(1,2)}", 1),
        ("3", "x = 3", 1),
        ("50%", r"\boxed{50\%}", 1),
        ("4", "I do not know.", 0),
        ("4", "", 0),
        ("4", r"\boxed{", 0),
    ],
)
def test_math(pool: GraderPool, reference: str, text: str, reward: float) -> None:
    assert pool.grade_many([(Sample(output_text=text), {"answer": reference})]) == [
        Grade(reward=reward, scores={"math": reward}, passed=reward == 1)
    ]


@pytest.mark.parametrize("reference", ["", " ", r"\boxed{}"])
def test_math_reference_without_answer_is_an_error(pool: GraderPool, reference: str) -> None:
    [graded] = pool.grade_many([(Sample(output_text="maybe 4?"), {"answer": reference})])
    assert graded.reward is None
    assert f"the reference {reference!r} contains no answer" in str(graded.error)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("60 + 92 = 152.", "152"),
        ("so it is 1,234.50, I think", "1,234.50"),
        ("x = -3", "-3"),
        ("5-3", "3"),
        ("(2)-7", "7"),
        ("\\boxed{-8}", "-8"),
        ("3.", "3"),
        ("12, 15", "15"),
        ("none", ""),
    ],
)
def test_last_number_of_a_text(text: str, number: str) -> None:
    assert final_number(text) == number


def test_last_number_ignores_a_repeated_question(pool: GraderPool) -> None:
    repeated, solved = Sample(output_text="60 + 92 is an expression."), Sample(output_text="60 + 92 = 152.")
    answers = [(repeated, {"answer": "152"}), (solved, {"answer": "152"})]
    assert [grade.reward for grade in pool.grade_many(answers)] == [1.0, 1.0]
    with GraderPool(NUMBER) as numbers:
        assert [grade.reward for grade in numbers.grade_many(answers)] == [0.0, 1.0]


@pytest.mark.parametrize("reference", ["3, 5", "{3, 5}", [3, 5]])
@pytest.mark.parametrize(
    ("text", "reward"), [("3 and 5", 1), (r"\boxed{5,3}", 1), ("5, 3, 1", 0), ("3.5", 0), ("4", 0)]
)
def test_list_in_any_order(pool: GraderPool, reference: Any, text: str, reward: float) -> None:
    assert grade(MATH, Sample(output_text=text), {"answer": reference}, pool._tools).reward == reward


def test_reference_list_names_accepted_answers(pool: GraderPool) -> None:
    accepted = {"answer": ["1/2", r"\pi"]}
    texts = ["0.5", r"\boxed{\pi}", "2"]
    assert [graded.reward for graded in pool.grade_many([(Sample(output_text=text), accepted) for text in texts])] == [
        1,
        1,
        0,
    ]


def test_plain_answers_start_no_process() -> None:
    with GraderPool(MATH) as opened:
        for text in ("4", "It is \u22124.", r"\boxed{4{,}000}", "1/4", "no", "4, 5"):
            assert opened.grade_many([(Sample(output_text=text), {"answer": "4"})])[0].error is None
        assert opened._tools._pools == {}


# --- Properties: rewriting a number keeps its reward; another sign or digit loses it.

DIGIT_SHIFTS = {"plain": 0, "full-width": 0xFF10, "Arabic-Indic": 0x660, "Devanagari": 0x966, "mathematical": 0x1D7D8}


def grouped(separator: str) -> Callable[[str], str]:
    return lambda digits: f"{int(digits):,}".replace(",", separator)


def indian(digits: str) -> str:
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)][::-1]
    return ",".join([*pairs, tail])


SEPARATORS = ("", ",", "{,}", r"\,", "\u2009", "\u202f", "'", "\u2019", "_")
GROUPINGS: st.SearchStrategy[Callable[[str], str]] = st.sampled_from([indian, *map(grouped, SEPARATORS)])
MINUS = st.sampled_from(["-", "\u2212", "\ufe63", "\uff0d"])
FRAMES = st.sampled_from(
    [
        "{}",
        "\\boxed{{{}}}",
        "The answer is {}.",
        "答案是{}。",
        "答えは {} です",
        "정답은 {}입니다",
        "Die Antwort ist {}!",
        "#### {}",
        "**{}**",
        "x = {}",
        "\\boxed{{{}}} (see step 12)",
        "First \\boxed{{7}}, no: \\boxed{{{}}}",
        "The answer is {}. I checked it 2 times.",
        "<think>maybe 3</think>It is {} km",
        "\\({}\\)",
    ]
)
INTEGERS = st.integers(min_value=10, max_value=10**12).map(str)
DECIMALS = st.from_regex(r"[1-9][0-9]{0,6}\.[0-9]{1,5}", fullmatch=True)
MODES = st.sampled_from([final_answer, final_number])


@st.composite
def written(draw: st.DrawFn, number: str) -> str:
    """The number in another notation and inside a response."""
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    whole, point, decimals = digits.partition(".")
    group = draw(GROUPINGS)
    text = group(whole) + point + decimals
    shift = draw(st.sampled_from(sorted(DIGIT_SHIFTS.values())))
    if shift and "\\" not in text and "{" not in text:
        text = "".join(chr(shift + int(char)) if char.isascii() and char.isdigit() else char for char in text)
    return draw(FRAMES).format((draw(MINUS) if sign else "") + text)


def is_right(reference: str, response: str, find: Callable[[str], str] = final_answer) -> bool:
    """Return the grader's verdict; algebra is never needed here."""
    answer = find(response)
    return bool(answer) and equal(final_answer(reference), answer)


numbers = st.tuples(st.sampled_from(["", "-"]), INTEGERS | DECIMALS).map("".join)


@settings(max_examples=examples(150))
@given(st.data(), numbers, MODES)
def test_rewritten_number_stays_right(data: st.DataObject, number: str, find: Callable[[str], str]) -> None:
    assert is_right(number, data.draw(written(number)), find)
    assert is_right(data.draw(written(number)), number)


@settings(max_examples=examples(150))
@given(st.data(), numbers, MODES)
def test_changed_digit_is_wrong(data: st.DataObject, number: str, find: Callable[[str], str]) -> None:
    place = data.draw(st.sampled_from([place for place, char in enumerate(number) if char.isdigit()]))
    digit = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != number[place]]))
    changed = number[:place] + digit + number[place + 1 :]
    assume(changed.lstrip("-")[0] != "0")
    assert not is_right(number, data.draw(written(changed)), find)


@settings(max_examples=examples(150))
@given(st.data(), numbers, MODES)
def test_changed_sign_is_wrong(data: st.DataObject, number: str, find: Callable[[str], str]) -> None:
    changed = number[1:] if number.startswith("-") else f"-{number}"
    assert not is_right(number, data.draw(written(changed)), find)


def fraction_forms(value: Fraction) -> list[str]:
    sign, (whole, rest) = "-" if value < 0 else "", divmod(abs(value), 1)
    top, bottom = abs(value.numerator), value.denominator
    forms = [f"{sign}{top}/{bottom}", f"{sign}\\frac{{{top}}}{{{bottom}}}", f"{sign}\\dfrac{{{top}}}{{{bottom}}}"]
    forms.append(f"{sign}{2 * top}/{2 * bottom}")
    if whole and rest:
        forms += [f"{sign}{whole} {rest}", f"{sign}{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}"]
    if bottom in (2, 4, 5, 8, 10):
        forms.append(f"{sign}{float(abs(value))}")
    return forms


fractions = st.fractions(min_value=-50, max_value=50, max_denominator=12).filter(lambda value: value.denominator > 1)


@given(st.data(), fractions, fractions, FRAMES, MODES)
def test_fractions(
    data: st.DataObject, value: Fraction, other: Fraction, frame: str, find: Callable[[str], str]
) -> None:
    reference = data.draw(st.sampled_from(fraction_forms(value)))
    assert is_right(reference, frame.format(data.draw(st.sampled_from(fraction_forms(value)))), find)
    assume(value != other)
    assume("." not in reference or abs(value - other) > Fraction(1, 20))  # the reference may be rounded
    assert not is_right(reference, frame.format(data.draw(st.sampled_from(fraction_forms(other)))), find)


@given(st.integers(0, 50), st.from_regex(r"[0-9]{0,3}", fullmatch=True), st.from_regex(r"[0-9]{1,4}", fullmatch=True))
def test_repeating_decimal(whole: int, head: str, period: str) -> None:
    assume(set(period) - {"0", "9"})
    shift, cycle = 10 ** len(head), 10 ** len(period) - 1
    value = whole + Fraction(int(head or 0), shift) + Fraction(int(period), shift * cycle)
    digits = f"{whole}.{head}"
    dotted = [f"{digits}{period * 3}{dots}" for dots in ("...", "\u2026", r"\ldots")]
    forms = [rf"{digits}\overline{{{period}}}", rf"{digits}\bar{{{period}}}", f"{digits}({period})"]
    for form in forms + dotted:
        assert is_right(str(value), form), form
        assert is_right(rf"{digits}\overline{{{period}}}", form), form
        assert not is_right(str(value + Fraction(1, shift)), form), form
    for form in dotted:
        assert not is_right(f"{digits}{period * 3}", form), form


ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ((9, "billion"), (6, "million"), (3, "thousand"), (2, "hundred"))


def spelled(number: int, link: str) -> str:
    """The number in English words; `link` stands behind "hundred"."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    unit, name = next((10**power, name) for power, name in SCALES if number >= 10**power)
    rest = number % unit
    return f"{spelled(number // unit, link)} {name}" + (f"{link}{spelled(rest, link)}" if rest else "")


@given(st.integers(0, 10**12 - 1) | st.integers(0, 2000), st.integers(0, 2000), st.sampled_from([" ", " and "]), MODES)
def test_number_words(number: int, other: int, link: str, find: Callable[[str], str]) -> None:
    text = spelled(number, link)
    assert is_right(str(number), f"The answer is {text}.", find)
    assert is_right(str(-number), f"minus {text}", find)
    assert is_right(text, str(number))
    assume(number != other)
    assert not is_right(str(other), text, find)


PAIRS = [
    "{} remainder {}",
    "{} R {}",
    "{}, remainder {}",
    "{} Rest {}",
    "{} reste {}",
    "{} resto {}",
    "{} with a remainder of {}",
    "{} to {}",
    "{}% to {}%",
    "from {} km to {} km",
    "{} bis {}",
    "{} vs. {}",
    "{}...{}",
    "{} apples and {} pears",
    "{} Äpfel und {} Birnen",
    "{} pounds {} ounces",
    r"\({}\) apples and \({}\) pears",
    "${}$ to ${}$",
    r"{} \text{{ remainder }} {}",
    "{} and 1/{}",
    "{}_{}",
    "{} in base {}",
]


@settings(max_examples=examples(150))
@given(st.integers(11, 99), st.integers(3, 9), st.sampled_from(PAIRS), FRAMES, MODES)
def test_two_numbers_are_not_one(first: int, second: int, pair: str, frame: str, find: Callable[[str], str]) -> None:
    answer = find(frame.format(pair.format(first, second)))
    for number in (str(first), str(second), f"1/{second}"):
        with contextlib.suppress(NeedsAlgebra):
            assert not (answer and equal(number, answer)), answer


@given(st.integers(1, 99), st.integers(2, 9), st.sampled_from(["and", "&", "und", "et", "y"]), FRAMES, MODES)
def test_mixed_number_with_a_word(whole: int, bottom: int, link: str, frame: str, find: Callable[[str], str]) -> None:
    for fraction in (f"1/{bottom}", rf"\frac{{1}}{{{bottom}}}"):
        response = frame.format(f"{whole} {link} {fraction}")
        assert is_right(str(whole + Fraction(1, bottom)), response, find)
        assert not is_right(f"1/{bottom}", response, find)
        assert not is_right(str(whole), response, find)


@given(st.from_regex(r"[1-9][0-9]{0,2}(\.[0-9])?", fullmatch=True), st.sampled_from("kKMB"), FRAMES, MODES)
def test_letter_for_thousand(number: str, letter: str, frame: str, find: Callable[[str], str]) -> None:
    value = Fraction(number) * {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}[letter]
    response = frame.format(f"${number}{letter}").replace("{$", "{\\$")
    assume("\\(" not in frame and "km" not in frame)
    assert is_right(str(value), response, find)
    assert not is_right(number, response, find)


CURRENCIES = {"US", "USD", "EUR", "GBP", "INR", "CHF", "CAD", "AUD", "CNY", "RMB", "JPY"}


@given(st.from_regex(r"[A-Z]{2,4}-?", fullmatch=True), st.integers(2, 99), FRAMES, MODES)
def test_number_in_a_name_is_no_answer(name: str, number: int, frame: str, find: Callable[[str], str]) -> None:
    assume(name not in CURRENCIES)  # "EUR2" is two euros
    assume(str(number) not in re.findall(r"\d+", frame))  # a number of the frame may be the answer
    answer = find(frame.format(f"{name}{number}"))
    with contextlib.suppress(NeedsAlgebra):
        assert not (answer and equal(str(number), answer)), answer


@given(st.text(max_size=80) | st.text(alphabet="12 .,/^-=(){}[]\\$%abxfrcoxed:", max_size=60), numbers)
def test_any_text_is_graded(text: str, reference: str) -> None:
    for find in (final_answer, final_number):
        with contextlib.suppress(NeedsAlgebra):
            assert equal(final_answer(reference), find(text)) in (True, False)


HOSTILE = [
    "½",
    "1,",
    "1 ",
    "a",
    "x = ",
    r"\(",
    r"\[",
    "$",
    "{",
    "(1",
    r"\boxed{",
    r"\text{a} 1",
    "answer ",
    "1 and ",
    "12,34,",
    "1.1",
    "0.(1)",
    "1 to ",
    "a1",
    "A-1",
    "\u0664",
    "5 apples and ",
    "1...",
    r"\dot{1}",
    "1_",
]


@pytest.mark.parametrize("fragment", HOSTILE)
def test_hostile_text_takes_linear_time(fragment: str) -> None:
    """These functions run in the trainer, without a time limit; quadratic time would be tens of seconds here."""
    text = fragment * (60_000 // len(fragment))
    started = time.process_time()
    for find in (final_answer, final_number):
        with contextlib.suppress(NeedsAlgebra):
            equal("5, 6", find(text + "!5"))
    assert time.process_time() - started < 3
