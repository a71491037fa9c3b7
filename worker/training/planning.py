"""The plan of a run: resolves its `auto` values, a control's with the budget of the job that it is compared with."""

from collections.abc import Sequence
from pathlib import Path

from app.core.chat.encoding import rules_of
from app.core.chat.row_check import count_rows
from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import ImitationMethod, TrainerSpec
from app.core.spec.plan import Plan, resolve
from app.core.spec.rows import read_rows
from worker.training.types import Prompt


def plan_run(trainer_spec: TrainerSpec, prompts: Sequence[Prompt], tokenizer: ChatTokenizer, parameters: int) -> Plan:
    """Returns the plan of a run on `prompts` with a base model of `parameters` weights that compute a token."""
    budget = _budget(trainer_spec, prompts, tokenizer, parameters)
    return resolve(trainer_spec.spec, rows=len(prompts), parameters=parameters, budget=budget)


def _budget(
    trainer_spec: TrainerSpec, prompts: Sequence[Prompt], tokenizer: ChatTokenizer, parameters: int
) -> Plan | None:
    """Returns the plan of the job that this control is compared with; None for a job that is no control.

    `prompts` are the control's own. With graded demonstrations both jobs leave out the same ones, and an imitation job
    trains exactly those that are left.
    """
    compared = trainer_spec.budget_of
    if compared is None:
        return None
    if compared.grades_demonstrations and isinstance(compared.settings, ImitationMethod):
        rows = sum(prompt.demonstration is not None for prompt in prompts)
    else:
        rules = rules_of(compared, trainer_spec.context_length)
        rows = count_rows(read_rows(Path(trainer_spec.training_path)), tokenizer, rules).used
    return resolve(compared, rows=rows, parameters=parameters) if rows else None
