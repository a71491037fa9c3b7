"""The compared methods: which rows each one trains on, and the job or chain of jobs that trains.

All jobs have the same batch, schedule, adapter and rows; only what a method is about differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.core.spec.job import BASE_LEARNING_RATE, MethodType
from bench.evidence.api import Sampled, Service
from bench.evidence.scenarios import (
    Row,
    Scenario,
    demonstration,
    question,
    with_demonstration,
    without,
)

BATCH: Final = 8
SAMPLES: Final = 4
"""Stored answers of the base model to each prompt."""
TEMPERATURE: Final = 0.7
"""At temperature 1, many rollouts of a model this small are gibberish."""
HELD_OUT_IN_JOB: Final = 16
"""Held-out rows of each job, for forward KL and entropy. So few are not split: the last adapter is published."""
MAX_EPOCHS: Final = 50

IMITATION, GROUP, PREFERENCE = "imitation", "group", "preference"
RATES: Final = {
    IMITATION: (3e-4, 1e-3, 3e-3),
    GROUP: (3e-4, 1e-3, 3e-3),
    PREFERENCE: (3e-5, 1e-4, 3e-4),
}
"""Learning rates by family; the quick matrix tries the first two."""


@dataclass
class Preparation:
    """What a method may use to prepare its rows: the service, and the sampled answers of the base model."""

    service: Service
    scenario: Scenario
    seed: int
    sampled: Sampled = field(default_factory=Sampled)

    def passes(self, rows: Sequence[Row], answers: Sequence[str | None]) -> list[bool]:
        """Return whether each answer to its row passes; False without an answer."""
        asked = [(item, text) for item, text in zip(rows, answers, strict=True) if text is not None]
        verdicts = iter(self.service.passes(self.scenario.grader, asked))
        return [text is not None and next(verdicts) for text in answers]

    def own_answers(self, rows: Sequence[Row]) -> list[list[str]]:
        """Sample `SAMPLES` answers of the base model to each row."""
        return self.service.answers(
            self.service.model,
            rows,
            max_tokens=self.scenario.max_tokens,
            count=SAMPLES,
            temperature=TEMPERATURE,
            seed=self.seed * 100_000,
            spent=self.sampled,
        )


Prepare = Callable[[Sequence[Row], Preparation], list[Row]]


def demonstrations(rows: Sequence[Row], _: Preparation) -> list[Row]:
    """Keep the rows that have a demonstration."""
    return [item for item in rows if demonstration(item) is not None]


def passing_answers(rows: Sequence[Row], use: Preparation) -> list[Row]:
    """Return a row for each distinct right answer of the group: demonstration and teacher answers."""
    return _passing(rows, [_given(item) for item in rows], use)


def own_passing_answers(rows: Sequence[Row], use: Preparation) -> list[Row]:
    """Return a row for each distinct right answer that the base model samples (rejection sampling)."""
    return _passing(rows, use.own_answers(rows), use)


def stored_groups(rows: Sequence[Row], use: Preparation) -> list[Row]:
    """Add sampled answers of the base model to the given ones, as a group that training never renews."""
    own = use.own_answers(rows)
    return [
        item | {"teacher_responses": [*item.get("teacher_responses", ()), *(text for text in texts if text.strip())]}
        for item, texts in zip(rows, own, strict=True)
    ]


def best_and_worst(rows: Sequence[Row], use: Preparation) -> list[Row]:
    """Return the first right and the last wrong answer of each stored group; groups without contrast are left out."""
    pairs = []
    for item in stored_groups(rows, use):
        texts = list(dict.fromkeys(_given(item)))
        verdicts = use.passes([item] * len(texts), texts)
        right = [text for text, passed in zip(texts, verdicts, strict=True) if passed]
        wrong = [text for text, passed in zip(texts, verdicts, strict=True) if not passed]
        if right and wrong:
            answers = {
                name: [{"role": "assistant", "content": text}]
                for name, text in (("preferred_output", right[0]), ("non_preferred_output", wrong[-1]))
            }
            pairs.append(
                without(item, "messages", "teacher_responses") | {"input": {"messages": question(item)}} | answers
            )
    return pairs


def everything(rows: Sequence[Row], _: Preparation) -> list[Row]:
    """Keep all rows as they are."""
    return list(rows)


@dataclass(frozen=True)
class Stage:
    """One job. `settings` are those of the method without grader, sampling and hyperparameters."""

    type: MethodType
    family: str
    settings: dict[str, Any] = field(default_factory=dict)
    prepare: Prepare = demonstrations

    @property
    def rollouts(self) -> int:
        """Answers that each group samples from the policy."""
        return int(self.settings.get("group", {}).get("self", 0))

    def used_rows(self, job: dict[str, Any], rows: int) -> int:
        """Return how many of the rows of its training file the job has trained on."""
        is_filtered = self.type is MethodType.supervised and job["demonstrations"] is not None
        return int(job["demonstrations"]["passed"]) if is_filtered else rows

    def body(
        self, scenario: Scenario, *, model: str, files: tuple[str, str], seed: int, rate: float, steps: int
    ) -> Row:
        """Return the body of the job. `files` are the training and the held-out file."""
        return {
            "model": model,
            "training_file": files[0],
            "validation_file": files[1],
            "seed": seed,
            "suffix": "evidence",
            "method": {
                "type": self.type.value,
                self.type.value: {
                    "grader": scenario.grader,
                    "sampling": {"temperature": TEMPERATURE, "max_tokens": scenario.max_tokens},
                    **self.settings,
                    "hyperparameters": {
                        "batch_size": BATCH,
                        "n_epochs": MAX_EPOCHS,
                        "max_steps": steps,
                        "learning_rate_multiplier": rate / BASE_LEARNING_RATE[self.type],
                        "lr_schedule": "cosine",
                        "eval_interval": steps,
                        "checkpoint_interval": steps,
                        "max_length": scenario.max_length,
                    },
                },
            },
        }


@dataclass(frozen=True)
class Method:
    """A row of the tables: one job, or a chain in which each job starts from the model of the one before."""

    name: str
    label: str
    description: str
    """What its jobs are, for the page."""
    stages: tuple[Stage, ...]
    parts: tuple[str, ...] = ()
    """Of a chain: the methods whose chosen learning rate each stage but the last one takes."""
    fits: Callable[[Scenario], bool] = lambda _: True
    """Whether the scenario can show anything about it."""

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to try, of the last stage."""
        return RATES[self.stages[-1].family]


def _gft(
    tau: float, expert: int = 1, teacher: int = 3, own: int = 4, prepare: Prepare = everything, **settings: Any
) -> Stage:
    group = {"expert": expert, "teacher": teacher, "self": own}
    return Stage(MethodType.gft, GROUP, {"tau": tau, "group": group} | settings, prepare)


_SFT: Final = Stage(MethodType.supervised, IMITATION)
_GRPO: Final = Stage(MethodType.reinforcement, GROUP, {"group": {"expert": 0, "teacher": 0, "self": 8}}, everything)
_GFT: Final = _gft(0.7)


def _has_teachers(scenario: Scenario) -> bool:
    return scenario.has_teachers


def _has_wrong(scenario: Scenario) -> bool:
    return scenario.has_wrong_demonstrations


BASE: Final = Method("base", "no training", "the base model", ())
METHODS: Final = {
    method.name: method
    for method in (
        Method("sft", "SFT", "`supervised` on all demonstrations", (_SFT,)),
        Method(
            "sft-graded",
            "SFT on graded demonstrations",
            "`supervised` with `demonstrations: graded`: only those that pass the grader",
            (Stage(MethodType.supervised, IMITATION, {"demonstrations": "graded"}),),
            fits=_has_wrong,
        ),
        Method(
            "gft", "GFT", "`gft` with tau 0.7 and groups of 1 demonstration, 3 teacher answers, 4 rollouts", (_GFT,)
        ),
        Method(
            "rejection",
            "rejection sampling",
            f"`supervised` on the right ones of {SAMPLES} sampled answers of the base model to each prompt",
            (Stage(MethodType.supervised, IMITATION, prepare=own_passing_answers),),
        ),
        Method("grpo", "GRPO", "`reinforcement` with 8 rollouts", (_GRPO,)),
        Method(
            "gft-no-teacher",
            "GFT without teachers",
            "`gft` with groups of 1 demonstration and 7 rollouts",
            (_gft(0.7, teacher=0, own=7),),
        ),
        Method(
            "gft-no-push-down",
            "GFT without push-down",
            "`gft` with `off_policy_push_down: none`: wrong demonstrations and teacher answers get no gradient",
            (_gft(0.7, off_policy_push_down="none"),),
        ),
        Method(
            "sft-passing",
            "SFT on all right answers",
            "`supervised` on every right answer of the group: demonstrations and teacher answers",
            (Stage(MethodType.supervised, IMITATION, prepare=passing_answers),),
            fits=_has_teachers,
        ),
        Method(
            "gft-graded",
            "GFT on graded demonstrations",
            "`gft` with `demonstrations: graded`: one that fails the grader leaves its group",
            (_gft(0.7, demonstrations="graded"),),
            fits=_has_wrong,
        ),
        Method("dft", "DFT", "`dft` on all demonstrations", (Stage(MethodType.dft, IMITATION),)),
        Method("gft-tau-0", "GFT with tau 0", "`gft` with an unbounded weight of unlikely tokens", (_gft(0.0),)),
        Method("gft-tau-1", "GFT with tau 1", "`gft` with every token weighted by its probability", (_gft(1.0),)),
        Method(
            "dpo",
            "DPO",
            f"`dpo` on a right and a wrong answer of the group and {SAMPLES} sampled answers of the base model",
            (Stage(MethodType.dpo, PREFERENCE, prepare=best_and_worst),),
        ),
        Method(
            "offline-grpo",
            "offline GRPO",
            f"`gft` with tau 0 on stored groups: the given answers and {SAMPLES} sampled ones of the base model",
            (_gft(0.0, teacher=7, own=0, prepare=stored_groups),),
        ),
        Method("sft-grpo", "SFT, then GRPO", "a chain of two jobs", (_SFT, _GRPO), ("sft",)),
        Method("gft-grpo", "GFT, then GRPO", "a chain of two jobs", (_GFT, _GRPO), ("gft",)),
        Method(
            "sft-gft-grpo", "SFT, then GFT, then GRPO", "a chain of three jobs", (_SFT, _GFT, _GRPO), ("sft", "gft")
        ),
    )
}
"""By name, the most informative first."""


def _given(item: Row) -> list[str]:
    own = demonstration(item)
    teachers = [text if isinstance(text, str) else text["content"] for text in item.get("teacher_responses", ())]
    return ([] if own is None else [own]) + teachers


def _passing(rows: Sequence[Row], answers: Sequence[Sequence[str]], use: Preparation) -> list[Row]:
    pairs = [(item, text) for item, texts in zip(rows, answers, strict=True) for text in dict.fromkeys(texts)]
    verdicts = use.passes([item for item, _ in pairs], [text for _, text in pairs])
    return [
        with_demonstration(without(item, "teacher_responses"), text.strip())
        for (item, text), passed in zip(pairs, verdicts, strict=True)
        if passed
    ]
