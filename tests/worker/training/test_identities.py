"""Each method's steps, as whole runs take them, against the same steps by plain transformers, PEFT and torch's AdamW.

Of a run only what it published is used: checkpoints, metrics, and the texts and sources of its groups. Tokens, masks,
rewards, advantages and losses are worked out here once more.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer

from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import CheckpointSaved, GroupRecord, Groups, MemberRecord, Metrics, Source, TrainerExit
from tests import tiny_model
from tests.worker.training import plain
from tests.worker.training.runs import Job, of_kind

TEMPERATURE: Final = 0.8
TAU: Final = 0.05
STEPS: Final = 4
ROWS: Final = [
    ("1+1=", "1+1=2", ["2", "it is 2!", "3"], "2"),
    ("what is 2+2?", "4", [], "4"),
    ("3+3=", "seven, I think", ["6"], "6"),
    ("0+5=", "5 is the sum of 0 and 5", ["0+5=5", "?", "four", "5"], "5"),
    ("say: (", "(", ["(", "(("], "("),
    ("4+4=", "8", ["4+4 is 8"], "8"),
    ("9+0=", "9", ["nine", "0"], "9"),
    ("anything?", "yes", ["no", "perhaps"], ""),
]
"""Question, demonstration, teacher answers, and what a right answer contains; to the last one every answer is right."""
CONTAINS: Final = StringCheckGrader(
    name="contains", input="{{sample.output_text}}", reference="{{item.wanted}}", operation="like"
)
JSON_ALONE: Final = StringCheckGrader(
    name="json", input="{{sample.output_json.answer}}", reference="{{item.wanted}}", operation="eq"
)


@dataclass(frozen=True)
class Method:
    """A kind of job: its settings and, independent of the engine, what it pays and how it weighs a token."""

    name: str
    options: dict[str, Any]
    weigh: Callable[[Tensor], Tensor]
    """C(p)."""
    reward: Callable[[str, str], float | None] | None = None
    """Of a text, given what is wanted; None where it cannot be graded. Without it the advantage is 1."""
    turns: int = 1
    """Questions and demonstrations in a row, all trained; the earlier ones are those of the rows before it."""


def contains(text: str, wanted: str) -> float:
    return float(wanted in text)


def json_alone(text: str, wanted: str) -> float | None:
    return float(json.loads(text)["answer"] == wanted) if text.startswith('{"answer"') else None


def rectified(p: Tensor) -> Tensor:
    return torch.where(p >= TAU, torch.ones_like(p), p)


SAMPLING: Final = Sampling(temperature=TEMPERATURE, max_tokens=9)
KINDS: Final = {
    "supervised": Method("supervised", {}, torch.ones_like),
    "dft": Method("dft", {}, lambda p: p),
    "supervised conversations": Method("supervised", {}, torch.ones_like, turns=3),
    "reinforcement": Method(
        "reinforcement",
        {"grader": CONTAINS, "sampling": SAMPLING, "group": GroupMix(expert=0, teacher=0, self_=6)},
        torch.ones_like,
        contains,
    ),
    "gft": Method(
        "gft",
        {"grader": CONTAINS, "sampling": SAMPLING, "tau": TAU, "group": GroupMix(expert=1, teacher=3, self_=2)},
        rectified,
        contains,
    ),
    "gft with grades that fail": Method(
        "gft",
        {"grader": JSON_ALONE, "sampling": SAMPLING, "tau": TAU, "group": GroupMix(expert=1, teacher=4, self_=1)},
        rectified,
        json_alone,
    ),
}


@dataclass(frozen=True)
class Trained:
    """A finished run of a method."""

    method: Method
    job: Job
    groups: dict[int, tuple[GroupRecord, ...]]
    values: dict[int, dict[str, float | None]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spread weights: some tokens are probable and some are not."""
    return tiny_model.build(tmp_path_factory.mktemp("identities") / "tiny", spread=0.2)


def answers(method: Method, row: int) -> tuple[str, str, list[str], str]:
    """ROWS[row - 1] as the grader of `method` reads it."""
    question, expert, teachers, wanted = ROWS[row - 1]
    if method.reward is not json_alone:
        return question, expert, teachers, wanted
    # The demonstrations are right, every second teacher is not, and what is no JSON fails, as every rollout does.
    answered = [json.dumps({"answer": "no" if k % 2 else wanted}) for k, _ in enumerate(teachers)]
    return question, json.dumps({"answer": wanted}), [*answered, "no JSON"], wanted


def chat(method: Method, row: int) -> list[dict[str, str]]:
    """The messages of ROWS[row - 1]."""
    turns = [answers(method, number)[:2] for number in range(max(1, row - method.turns + 1), row + 1)]
    return [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    method = KINDS[request.param]
    directory = tmp_path_factory.mktemp(method.name)
    rows = directory / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as out:
        for number in range(1, len(ROWS) + 1):
            _, _, teachers, wanted = answers(method, number)
            fields = {"messages": chat(method, number), "teacher_responses": teachers, "wanted": wanted}
            out.write(json.dumps(fields) + "\n")
    job = Job(directory / "run", base, method.name)
    options: dict[str, Any] = {"training": rows, "n_epochs": 1, "learning_rate_multiplier": 10.0, "max_length": 160}
    options |= method.options
    assert job.run(stopped=True, **options)[0] is TrainerExit.stopped
    code, reports = job.run(resume_from=job.checkpoint(0), **options)
    assert code is TrainerExit.succeeded
    assert len(of_kind(reports, CheckpointSaved)) == STEPS
    return Trained(
        method,
        job,
        {one.step: one.groups for one in of_kind(reports, Groups)},
        {one.step: one.values for one in of_kind(reports, Metrics)},
    )


@dataclass(frozen=True)
class Batch:
    """A step's sequences [B, T], padded on the right; `labels` is -100 where nothing is trained."""

    ids_B_T: Tensor
    attention_B_T: Tensor
    labels_B_T: Tensor
    advantages_B: Tensor
    tokens: int
    """N: also those of groups without contrast, but not of members whose grade failed."""


def batch(one: Trained, step: int) -> Batch:
    tokenizer: Any = AutoTokenizer.from_pretrained(one.job.base, local_files_only=True)
    sequences = []
    tokens = 0
    for group in one.groups[step]:
        messages = chat(one.method, group.row)
        for member, advantage in zip(group.members, advantages(one.method, group), strict=True):
            history = messages[: len(messages) - 1 if member.turn is None else 2 * member.turn - 1]
            prompt = tokenizer.apply_chat_template(
                history, add_generation_prompt=True, tokenize=True, return_dict=False
            )
            ends = [tokenizer.convert_tokens_to_ids("<|im_end|>")] if member.finished else []
            response = [*tokenizer(member.text, add_special_tokens=False)["input_ids"], *ends]
            assert len(response) == member.tokens
            if advantage is not None:
                tokens += len(response)
                sequences.append((prompt, response, advantage))
    width = max(len(prompt) + len(response) for prompt, response, _ in sequences)

    def padded(rows: list[list[int]], filling: int) -> Tensor:
        return torch.tensor([row + [filling] * (width - len(row)) for row in rows])

    return Batch(
        padded([prompt + response for prompt, response, _ in sequences], tokenizer.pad_token_id),
        padded([[1] * (len(prompt) + len(response)) for prompt, response, _ in sequences], 0),
        padded([[-100] * len(prompt) + response for prompt, response, _ in sequences], -100),
        torch.tensor([advantage for *_, advantage in sequences]),
        tokens,
    )


def advantages(method: Method, group: GroupRecord) -> Sequence[float | None]:
    if method.reward is None:
        return [1.0] * len(group.members)
    wanted = answers(method, group.row)[3]
    rewards = [method.reward(member.text, wanted) for member in group.members]
    graded = [reward for reward in rewards if reward is not None]
    if len(graded) == 1:
        return rewards
    mean, deviation = statistics.fmean(graded), statistics.stdev(graded)
    return [None if reward is None else (reward - mean) / (deviation + 1e-6) for reward in rewards]


def model_at(one: Trained, step: int) -> tuple[Any, torch.optim.AdamW]:
    """PEFT's model and torch's optimiser as they were after `step`."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(plain.plain_base(one.job.base), config).eval()
    adapter = load_file(one.job.checkpoint(step) / "adapter_state.safetensors")
    moments = load_file(one.job.checkpoint(step) / "optimizer_state.safetensors")
    parameters = plain.trained(model)
    assert parameters.keys() == adapter.keys()
    optimizer = torch.optim.AdamW(list(parameters.values()), weight_decay=0.0)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(adapter[name])
            if step:
                optimizer.state[value] = {key: moments[f"{name}|{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
    return model, optimizer


def loss_of(method: Method, model: Any, one: Batch) -> Tensor:
    """The loss from the definition, over the logits of the whole padded batch."""
    temperature = TEMPERATURE if method.reward else 1.0
    logits_B_T_V = model(input_ids=one.ids_B_T, attention_mask=one.attention_B_T, use_cache=False).logits[:, :-1]
    labels_B_T = one.labels_B_T[:, 1:]
    costs_B_T = functional.cross_entropy(
        (logits_B_T_V / temperature).transpose(1, 2), labels_B_T, ignore_index=-100, reduction="none"
    )
    weights_B_T = method.weigh((-costs_B_T).exp().detach()) * one.advantages_B[:, None]
    return (weights_B_T * costs_B_T).sum() / one.tokens


def cancellation(method: Method, model: Any, one: Batch) -> float:
    """How much larger the gradient would be if all were trained up.

    What good and bad answers begin with alike is pulled both ways and cancels; what was rounded on the way does not.
    """
    upwards = dataclasses.replace(one, advantages_B=one.advantages_B.abs())
    norms = [
        float(
            torch.stack(
                [value.norm() for value in plain.gradients(model, loss_of(method, model, each)).values()]
            ).norm()
        )
        for each in (one, upwards)
    ]
    return norms[1] / norms[0] if norms[0] else 1.0


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_step_equals_the_plain_step(trained: Trained, step: int) -> None:
    """Same loss, same clipped gradient (the moments hold it), same weights."""
    values, sequences = trained.values[step], batch(trained, step)
    model, optimizer = model_at(trained, step - 1)
    loss = loss_of(trained.method, model, sequences)
    assert values["loss"] == pytest.approx(float(loss.detach()), abs=1e-6)
    cancelled = cancellation(trained.method, model, sequences)
    torch.autograd.backward(loss)
    norm = torch.nn.utils.clip_grad_norm_(list(plain.trained(model).values()), 1.0)
    assert values["grad_norm"] == pytest.approx(float(norm), rel=1e-5, abs=1e-9)
    optimizer.param_groups[0]["lr"] = values["learning_rate"]
    if sequences.advantages_B.any():  # without any contrast the run takes no step, not even one of the moments alone
        optimizer.step()
    moments = load_file(trained.job.checkpoint(step) / "optimizer_state.safetensors")
    weights = load_file(trained.job.checkpoint(step) / "adapter_state.safetensors")
    parameters = plain.trained(model)
    found = {name: moments[f"{name}|exp_avg"] for name in parameters}
    expected = {name: optimizer.state[value]["exp_avg"] for name, value in parameters.items()}
    assert plain.distance(found, expected) < 5e-6 * cancelled
    for name, value in parameters.items():
        assert torch.allclose(weights[name], value, atol=1e-6, rtol=0), name


@pytest.mark.parametrize("trained", ["supervised"], indirect=True)
def test_supervised_loss_equals_transformers(trained: Trained) -> None:
    """Its own loss function over `labels`, as its Trainer calls it."""
    for step in range(1, STEPS + 1):
        model, _ = model_at(trained, step - 1)
        one = batch(trained, step)
        output = model(
            input_ids=one.ids_B_T,
            attention_mask=one.attention_B_T,
            labels=one.labels_B_T,
            num_items_in_batch=one.tokens,
        )
        assert trained.values[step]["loss"] == pytest.approx(float(output.loss.detach()), abs=1e-6)


def members(trained: Trained, source: Source) -> list[MemberRecord]:
    return [
        member
        for groups in trained.groups.values()
        for group in groups
        for member in group.members
        if member.source is source
    ]


@pytest.mark.parametrize("trained", ["supervised conversations"], indirect=True)
def test_conversations_cover_all_turns(trained: Trained) -> None:
    assert {member.turn for member in members(trained, Source.expert)} == {None, 1, 2, 3}


@pytest.mark.parametrize("trained", ["reinforcement", "gft", "gft with grades that fail"], indirect=True)
def test_groups_cover_the_compared_cases(trained: Trained) -> None:
    """Of many sizes, with and without contrast, rectified or not; failed grades in the one kind that has them."""
    groups = [group for step in trained.groups.values() for group in step]
    flat = [group for group in groups if group.zero_variance]
    assert 0 < len(flat) < len(groups)
    rollouts = members(trained, Source.self)
    if trained.method.reward is json_alone:
        assert all(member.advantage is None and member.error for member in rollouts)
    else:
        assert {member.reward for member in rollouts} == {0.0, 1.0}
        assert {member.finished for member in rollouts} == {True, False}
    if trained.method.name == "gft":
        assert len({len(group.members) for group in groups}) >= 3
        shares = [share for group in groups for member in group.members if (share := member.rectified_frac) is not None]
        assert any(0 < share < 1 for share in shares)
