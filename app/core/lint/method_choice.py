"""Suggests methods for a data file, best first, with the reason. docs/method.md has the same rules as a table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from app.core.files.validation_report import FileReport
from app.core.lint.report import LintReport
from app.core.plurals import plural
from app.core.spec.job import MethodType

MIN_PASSING_SHARE: Final = 0.25
MIN_PASSING: Final = 20
"""With fewer demonstrations that pass, or a smaller share, too little is left to imitate. Neither is measured."""
MIN_SEVERAL_SHARE: Final = 0.2
"""Share of rows with several valid answers from which they decide."""


class MethodSuggestion(NamedTuple):
    """A method for the rows of a file, and why it fits."""

    method: MethodType
    demonstrations: Literal["all", "graded"]
    """The field `demonstrations` of the method, if it has one."""
    reason: str
    """One sentence."""


@dataclass(frozen=True)
class FileFacts:
    """What decides about the method."""

    rows: int
    demonstrations: int
    teacher_rows: int
    pairs: int
    has_grader: bool
    passing_share: float | None = None
    """Share of the graded demonstrations that pass; None if none was graded."""
    several_share: float = 0.0
    """Share of the graded rows with two or more different answers that pass."""

    @classmethod
    def of(cls, report: FileReport, lint: LintReport | None, *, has_grader: bool) -> "FileFacts":
        """Collect the facts from a file's validation report, and from its lint with the grader if there is one."""
        graded = 0 if lint is None else lint.rows_graded
        return cls(
            rows=report.rows,
            demonstrations=report.expert_rows,
            teacher_rows=report.teacher_rows,
            pairs=report.preference_rows,
            has_grader=has_grader,
            passing_share=None if lint is None else lint.passing_share,
            several_share=lint.several_valid / graded if lint is not None and graded else 0.0,
        )

    @property
    def is_imitable(self) -> bool:
        return self.demonstrations > 0

    @property
    def fails(self) -> bool:
        """Whether some demonstrations do not pass the grader."""
        return self.passing_share is not None and self.passing_share < 1

    @property
    def too_few_pass(self) -> bool:
        """Whether demonstrations fail, and too few are left without them."""
        share = 1.0 if self.passing_share is None else self.passing_share
        return self.fails and (share < MIN_PASSING_SHARE or share * self.demonstrations < MIN_PASSING)

    def of_demonstrations(self, share: float) -> str:
        """Format a share of the graded demonstrations, such as `28% of the demonstrations`."""
        return f"{share:.0%} of the graded demonstrations" if 0.01 <= share <= 0.99 else "Some demonstrations"


class Rule(NamedTuple):
    """A kind of file and the method for it."""

    file: str
    """The kind of file, in words."""
    method: MethodType
    demonstrations: Literal["all", "graded"]
    why: str
    """The general reason, for documents."""
    applies: Callable[[FileFacts], bool]
    reason: Callable[[FileFacts], str]
    """The reason for one file, in one sentence."""


def _or_grader(facts: FileFacts, sentence: str) -> str:
    return sentence if facts.has_grader else f"{sentence} Write a grader first: no field of the rows suggests one."


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "Pairs of a preferred and a non-preferred answer",
        MethodType.dpo,
        "all",
        "Only `dpo` learns from pairs. It needs no grader.",
        lambda facts: 2 * facts.pairs >= facts.rows > 0,
        lambda facts: (
            f"{facts.pairs:,} of {plural(facts.rows, 'row')} have a pair of answers, which only `dpo` trains."
        ),
    ),
    Rule(
        "Prompts without demonstrations and teacher answers",
        MethodType.reinforcement,
        "all",
        "Rollouts are the only answers to learn from. A grader is needed.",
        lambda facts: not facts.is_imitable and not facts.teacher_rows and not facts.pairs,
        lambda facts: _or_grader(
            facts, "No row has a demonstration or a teacher answer, so only rollouts can be trained."
        ),
    ),
    Rule(
        "Teacher answers without demonstrations",
        MethodType.gft,
        "all",
        "Only groups learn from teacher answers, and the grader decides which are good.",
        lambda facts: not facts.is_imitable and facts.teacher_rows > 0,
        lambda facts: _or_grader(
            facts, "The rows have teacher answers and no demonstrations; only `gft` trains those."
        ),
    ),
    Rule(
        "Demonstrations, without a grader",
        MethodType.supervised,
        "all",
        "Only imitation works without a grader.",
        lambda facts: facts.is_imitable and not facts.has_grader,
        lambda facts: "The rows have demonstrations, and no field from which a grader could be suggested.",
    ),
    Rule(
        f"Demonstrations of which under {100 * MIN_PASSING_SHARE:.0f} %, or fewer than {MIN_PASSING}, pass the grader",
        MethodType.gft,
        "all",
        "Too few demonstrations are left to imitate. A group learns from rollouts and teacher answers as well. If none "
        "passes, check the grader first.",
        lambda facts: facts.is_imitable and facts.has_grader and facts.too_few_pass,
        lambda facts: (
            "No graded demonstration passes: check the grader first. If it is right, `gft` also learns from rollouts."
            if not facts.passing_share
            else f"About {plural(round(facts.passing_share * facts.demonstrations), 'demonstration')} "
            f"({facts.passing_share:.0%}) pass the grader, too few to imitate alone; a group also learns from rollouts."
        ),
    ),
    Rule(
        "Demonstrations of which some fail the grader",
        MethodType.supervised,
        "graded",
        "With systematic errors in about 28 % of the demonstrations, imitation of the others was right in 80 % of the "
        "held-out problems, `gft` in 73 %, and imitation of all in 65 %.",
        lambda facts: facts.is_imitable and facts.has_grader and facts.fails and not facts.too_few_pass,
        lambda facts: (
            f"{facts.of_demonstrations(1 - (facts.passing_share or 0.0))} fail the grader: imitate the others, which "
            "are enough."
        ),
    ),
    Rule(
        f"Several valid answers in {100 * MIN_SEVERAL_SHARE:.0f} % of the rows or more",
        MethodType.gft,
        "all",
        "Imitation learns the answer that is shown; a group rewards each valid one. In a task of which the base model "
        "solved 10 %, `gft` with seven rollouts was right in 32 % after 20 steps, imitation in 27 %: three seeds "
        "cannot tell them apart. In a task that it never solved, `gft` was right in 1 %, imitation in 18 %.",
        lambda facts: facts.is_imitable and facts.has_grader and facts.several_share >= MIN_SEVERAL_SHARE,
        lambda facts: (
            f"{facts.several_share:.0%} of the graded rows have several different answers that pass: a group rewards "
            "each. If the model never finds one, imitate first."
        ),
    ),
    Rule(
        "Demonstrations in less than half of the rows",
        MethodType.gft,
        "all",
        "Imitation would leave the other rows out; a group trains them with rollouts. With demonstrations in a "
        "tenth of the rows, `gft` was right in 70 %, `reinforcement` in 72 %, imitation in 62 %, and `gft` moved the "
        "model a fifth as far as imitation.",
        lambda facts: facts.is_imitable and facts.has_grader and 2 * facts.demonstrations < facts.rows,
        lambda facts: (
            f"Only {facts.demonstrations:,} of {plural(facts.rows, 'row')} have a demonstration: `gft` trains the "
            "others, too."
        ),
    ),
    Rule(
        "Demonstrations that all pass the grader",
        MethodType.supervised,
        "all",
        "With one way to the right answer, imitation was right in 85 % of the held-out problems after 100 s, `gft` in "
        "66 to 75 % after four minutes.",
        lambda facts: facts.is_imitable and facts.has_grader and not facts.fails,
        lambda facts: (
            "All graded demonstrations pass the grader: imitation is the fastest way to learn from them."
            if facts.passing_share is not None
            else "The rows have demonstrations, which are not graded: imitation is the fastest way to learn from them."
        ),
    ),
    Rule(
        "Demonstrations, and the model must keep its other abilities",
        MethodType.gft,
        "all",
        "At equal prompts and similar accuracy, `gft` moved the model half as far from its base (forward KL 0.42 "
        "against 0.79).",
        lambda facts: facts.is_imitable and facts.has_grader,
        lambda facts: "Choose it if the model must keep its other abilities: it moves less far from its base.",
    ),
)
"""Best first: the first rule that applies gives the suggestion, the others alternatives."""


def suggest_methods(facts: FileFacts) -> list[MethodSuggestion]:
    """Return the methods that fit a file, best first, each with its first reason; empty for a file without rows."""
    if not facts.rows:
        return []
    found: dict[tuple[MethodType, str], MethodSuggestion] = {}
    for rule in RULES:
        if rule.applies(facts):
            key = (rule.method, rule.demonstrations)
            found.setdefault(key, MethodSuggestion(rule.method, rule.demonstrations, rule.reason(facts)))
    return list(found.values())


def table() -> str:
    """Return the rules as a Markdown table."""
    lines = ["| your file | method | why |", "|---|---|---|"]
    for rule in RULES:
        graded = ' with `demonstrations: "graded"`' if rule.demonstrations == "graded" else ""
        lines.append(f"| {rule.file} | `{rule.method}`{graded} | {rule.why} |")
    return "\n".join(lines) + "\n"
