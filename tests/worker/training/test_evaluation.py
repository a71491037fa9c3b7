"""Held-out evaluation with the real sampler and grader."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.core.chat.encoding import Turn
from app.core.chat.tokenizer import ChatTokenizer
from app.core.graders.run import ExternalServices, GraderPool
from app.core.retry import RetryPolicy
from app.core.spec.graders import EndpointGrader, StringCheckGrader
from app.core.spec.intervals import wilson
from app.core.spec.job import Evaluation, Sampling
from app.core.spec.reports import Metrics, TrainerExit
from tests import tiny_model
from tests.answers import answer_ids, answer_turn
from tests.http_server import Received, Reply, http_server
from tests.worker.training import plain
from tests.worker.training.architectures import randomise
from tests.worker.training.runs import Job, of_kind, results
from worker.training.evaluation import SAMPLES_SHOWN, Evaluator, pass_at_k
from worker.training.model import Policy
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.types import JobFailure, Prompt

SAMPLING = Sampling(max_tokens=5, temperature=1.7, top_p=0.9)


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    grader = StringCheckGrader(input="{{sample.output_text}}", reference="{{item.reference_answer}}", operation="eq")
    with GraderPool(grader) as opened:
        yield opened


@pytest.fixture
def sampler(chat_policy: Policy, chat_tokenizer: ChatTokenizer) -> Sampler:
    return Sampler(randomise(chat_policy, scale=1.0), chat_tokenizer.end_ids, chat_tokenizer.pad_id)


@pytest.fixture
def chat(chat_tokenizer: ChatTokenizer) -> ChatTokenizer:
    return chat_tokenizer


def evaluator(
    rows: list[Prompt], sampler: Sampler, chat: ChatTokenizer, pool: GraderPool | None, **options: Any
) -> Evaluator:
    chosen: dict[str, Any] = {"seed": 3, "token_budget": 100} | options
    wanted = Evaluation(pass_samples=chosen.pop("pass_samples", 0))
    return Evaluator(rows, wanted, SAMPLING, sampler, chat, pool, **chosen)


def prompt(chat: ChatTokenizer, line: int, expert: str | None = None, **item: Any) -> Prompt:
    question = f"{line}+{line}="
    turns = () if expert is None else (answer_turn(chat, expert, question),)
    return Prompt(line, question, chat.prompt_ids([{"role": "user", "content": question}]), (), item, turns=turns)


def held_out(chat: ChatTokenizer, sampler: Sampler) -> list[Prompt]:
    """Ten rows: what the policy says greedily is right on 1 to 4, row 10 cannot be graded."""
    plain_rows = [prompt(chat, line) for line in range(1, 11)]
    greedy = [drawn[0] for drawn in sampler.sample([one.ids for one in plain_rows], 1, SAMPLING, None)]
    answers = [chat.text(one.ids) if line <= 4 else "?" for line, one in enumerate(greedy, start=1)]
    return [*[prompt(chat, line, "7", reference_answer=answers[line - 1]) for line in range(1, 10)], plain_rows[9]]


def test_values_and_samples(sampler: Sampler, chat: ChatTokenizer, pool: GraderPool) -> None:
    rows = held_out(chat, sampler)
    found = evaluator(rows, sampler, chat, pool).evaluate(3)
    assert found.step == 3
    assert found.values["eval/reward"] == pytest.approx(4 / 9)
    assert found.values["eval/accuracy"] == pytest.approx(0.4)  # what could not be graded is not passed
    assert found.values["eval/grader_errors"] == 1
    assert 1 <= (found.values["eval/mean_length"] or 0) <= 5
    assert len(found.samples) == SAMPLES_SHOWN
    assert [sample["prompt"] for sample in found.samples] == [row.text for row in rows[:SAMPLES_SHOWN]]
    assert [sample["reward"] for sample in found.samples] == [1.0] * 4 + [0.0] * 4
    assert list(found.rows.metrics["eval/accuracy"].values) == [1.0] * 4 + [0.0] * 6
    assert found.rows.metrics["eval/reward"].values[-1] is None
    assert found.rows.intervals()["eval/accuracy"] == wilson(4, 10)
    assert found.rows.intervals()["eval/reward"] == wilson(4, 9)
    assert found.samples[0]["response"] == found.samples[0]["reference"] == rows[0].item["reference_answer"]


def test_evaluation_is_deterministic(sampler: Sampler, chat: ChatTokenizer, pool: GraderPool) -> None:
    rows = held_out(chat, sampler)
    first = evaluator(rows, sampler, chat, pool, pass_samples=3).evaluate(0)
    torch.manual_seed(123)
    again = evaluator(rows, sampler, chat, pool, pass_samples=3)
    assert again.evaluate(0) == first
    assert again.evaluate(0) == first


def test_nothing_graded_is_null(sampler: Sampler, chat: ChatTokenizer, pool: GraderPool) -> None:
    found = evaluator([prompt(chat, 1)], sampler, chat, pool).evaluate(0)
    assert found.values["eval/reward"] is None
    assert found.values["eval/loss"] is None
    assert found.values["eval/accuracy"] == 0


def endpoint(url: str) -> GraderPool:
    outside = ExternalServices(
        allowed_private_hosts=("127.0.0.1",), retry_policy=RetryPolicy(1, longest_wait_seconds=0.0)
    )
    return GraderPool(EndpointGrader(url=url, batch_size=4), outside)


def rows_of(request: Received) -> list[str]:
    return [sent["item"]["row"] for sent in json.loads(request.body)["samples"]]


def half(request: Received) -> Reply:
    return Reply(json.dumps({"results": [{"reward": 0.5} for _ in rows_of(request)]}).encode())


def test_outage_of_the_grader_ends_the_attempt(sampler: Sampler, chat: ChatTokenizer) -> None:
    """The reward server dies in the middle: the answers graded before are no measure of the policy."""
    answered = itertools.count()

    def reply(request: Received) -> Reply:
        return half(request) if next(answered) == 0 else Reply(b"gone", 503)

    rows = [prompt(chat, line, row=str(line)) for line in range(1, 9)]
    with http_server(reply) as url, endpoint(url) as pool, pytest.raises(JobFailure, match="503: gone") as caught:
        evaluator(rows, sampler, chat, pool).evaluate(3)
    assert (caught.value.exit_code, caught.value.code) == (TrainerExit.dependency_down, "grader_unavailable")
    assert caught.value.rows == ()  # the lines are not those of the training file


def test_short_outage_is_retried(sampler: Sampler, chat: ChatTokenizer) -> None:
    failures = itertools.count()

    def reply(request: Received) -> Reply:
        return Reply(b"later", 503) if next(failures) < 2 else half(request)

    rows = [prompt(chat, line, row=str(line)) for line in range(1, 9)]
    with http_server(reply) as url, endpoint(url) as pool:
        values = evaluator(rows, sampler, chat, pool).evaluate(3).values
    assert (values["eval/reward"], values["eval/grader_errors"]) == (0.5, 0)


def test_row_on_which_the_server_fails_is_an_error(sampler: Sampler, chat: ChatTokenizer) -> None:
    """It fails no other row of its request, and the job does not wait for it."""

    def reply(request: Received) -> Reply:
        return Reply(b"broken", 500) if "3" in rows_of(request) else half(request)

    rows = [prompt(chat, line, row=str(line)) for line in range(1, 9)]
    with http_server(reply) as url, endpoint(url) as pool:
        values = evaluator(rows, sampler, chat, pool).evaluate(3).values
    assert (values["eval/reward"], values["eval/grader_errors"]) == (0.5, 1)


@pytest.mark.parametrize("token_budget", [1, 60, 10_000])
def test_values_equal_single_forward_passes(
    token_budget: int, sampler: Sampler, chat: ChatTokenizer, pool: GraderPool, chat_directory: Path
) -> None:
    rows = [prompt(chat, line, "42" * (1 + line % 3), reference_answer="4") for line in range(1, 7)]
    values = evaluator(rows, sampler, chat, pool, token_budget=token_budget).evaluate(1).values
    model = plain.plain_copy(chat_directory, sampler.policy)
    pairs = [(row.ids, [turn.ids for turn in row.turns]) for row in rows]
    temperature = SAMPLING.temperature
    with torch.no_grad():
        assert values["eval/loss"] == pytest.approx(-float(plain.logprobs(model, pairs).mean()), abs=1e-5)
        greedy = [one[0].ids for one in sampler.sample([row.ids for row in rows], 1, SAMPLING, None)]
        entropies = [entropy(model, row.ids, ids, temperature) for row, ids in zip(rows, greedy, strict=True)]
        assert values["eval/entropy"] == pytest.approx(float(torch.cat(entropies).mean()), abs=1e-4)
        with sampler.policy.base_only():
            drawn = sampler.sample([row.ids for row in rows], 1, SAMPLING, generator(3, 5))
        written = [(row.ids, [one[0].ids]) for row, one in zip(rows, drawn, strict=True)]
        of_policy = plain.logprobs(model, written, temperature)
        with model.disable_adapter():
            of_base = plain.logprobs(model, written, temperature)
    assert values["eval/forward_kl"] == pytest.approx(float((of_base - of_policy).mean()), abs=1e-4)
    assert abs(values["eval/forward_kl"] or 0.0) > 0.01


def test_loss_is_over_the_trained_turns(sampler: Sampler, chat: ChatTokenizer, chat_directory: Path) -> None:
    first, second, third = (chat.prompt_ids([{"role": "user", "content": text}]) for text in ("1+1=", "2+2=", "3+3="))
    turns = (Turn(first, answer_ids(chat, "2"), "2"), Turn(first + second, answer_ids(chat, "four"), "four"))
    rows = [
        Prompt(1, "", first + second, (), {}, turns=turns),
        Prompt(2, "", first + third, (), {}, turns=turns[:1]),  # the last message has weight 0
        prompt(chat, 3, "6"),
    ]
    found = evaluator(rows, sampler, chat, None).evaluate(1)
    values = found.values
    pairs = [(turn.context, [turn.ids]) for row in rows for turn in row.turns]
    expected = -plain.logprobs(plain.plain_copy(chat_directory, sampler.policy), pairs).detach().mean()
    assert values["eval/loss"] == pytest.approx(float(expected), abs=1e-5)
    by_row = found.rows.metrics["eval/loss"]
    assert by_row.weights == tuple(float(sum(len(turn.ids) for turn in row.turns)) for row in rows)
    products = [weight * (loss or 0.0) for weight, loss in zip(by_row.weights or (), by_row.values, strict=True)]
    assert sum(products) / sum(by_row.weights or ()) == pytest.approx(values["eval/loss"])


def entropy(model: Any, prompt_ids: tuple[int, ...], response: tuple[int, ...], temperature: float) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*prompt_ids, *response]]), use_cache=False).logits
    all_R_V = (logits[0, len(prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
    return torch.as_tensor(-(all_R_V.exp() * all_R_V).sum(-1))


def test_forward_kl_is_zero_before_training(chat_policy: Policy, chat: ChatTokenizer, pool: GraderPool) -> None:
    fresh = Sampler(chat_policy, chat.end_ids, chat.pad_id)
    values = evaluator([prompt(chat, line) for line in range(5)], fresh, chat, pool).evaluate(0).values
    assert values["eval/forward_kl"] == pytest.approx(0, abs=1e-6)


def test_forward_kl_after_a_warm_start(sampler: Sampler, chat: ChatTokenizer, chat_directory: Path) -> None:
    """Its reference is the adapter that training started from, not the base model."""
    rows = [prompt(chat, line, "7") for line in range(5)]
    policy = sampler.policy
    policy.keep_start()
    model = plain.plain_copy(chat_directory, policy)
    found = evaluator(rows, sampler, chat, None)
    assert found.evaluate(0).values["eval/forward_kl"] == pytest.approx(0, abs=1e-6)
    drawn = sampler.sample([row.ids for row in rows], 1, SAMPLING, generator(3, 5))
    written = [(row.ids, [one[0].ids]) for row, one in zip(rows, drawn, strict=True)]
    randomise(policy, seed=31)
    values = found.evaluate(1).values
    with torch.no_grad():
        of_start = plain.logprobs(model, written, SAMPLING.temperature)
        plain.copy_adapter(policy, model)
        of_policy = plain.logprobs(model, written, SAMPLING.temperature)
    assert values["eval/forward_kl"] == pytest.approx(float((of_start - of_policy).mean()), abs=1e-4)
    assert abs(values["eval/forward_kl"] or 0.0) > 0.01


def test_forward_kl_uses_fixed_starting_answers(sampler: Sampler, chat: ChatTokenizer, pool: GraderPool) -> None:
    rows = [prompt(chat, line) for line in range(5)]
    early = evaluator(rows, sampler, chat, pool)
    early.evaluate(0)
    randomise(sampler.policy, seed=31)
    late = evaluator(rows, sampler, chat, pool)  # as after a resume
    assert early.evaluate(1).values["eval/forward_kl"] == pytest.approx(late.evaluate(1).values["eval/forward_kl"])


def test_only_the_loss_without_a_grader(sampler: Sampler, chat: ChatTokenizer) -> None:
    found = evaluator([prompt(chat, 1, "2")], sampler, chat, None).evaluate(2)
    assert set(found.values) == {"eval/loss", "eval/forward_kl"}
    assert found.samples == ()


@pytest.mark.parametrize(
    ("samples", "passed", "k", "expected"),
    [
        (4, 0, 2, 0.0),
        (4, 4, 1, 1.0),
        (4, 1, 1, 0.25),
        (4, 1, 2, 0.5),
        (4, 2, 2, 5 / 6),
        (4, 2, 4, 1.0),
        (10, 3, 5, 11 / 12),
    ],
)
def test_pass_at_k_is_unbiased(samples: int, passed: int, k: int, expected: float) -> None:
    assert pass_at_k(samples, passed, k) == pytest.approx(expected)
    subsets = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_for_powers_of_two(sampler: Sampler, chat: ChatTokenizer, pool: GraderPool) -> None:
    rows = [prompt(chat, line, reference_answer="") for line in range(1, 4)]
    values = evaluator(rows, sampler, chat, pool, pass_samples=6).evaluate(0).values
    found = {name: value for name, value in values.items() if name.startswith("eval/pass@")}
    assert list(found) == ["eval/pass@1", "eval/pass@2", "eval/pass@4", "eval/pass@6"]
    drawn = sampler.sample([row.ids for row in rows], 6, SAMPLING, generator(3, 4))
    passed = [sum(chat.text(one.ids) == "" for one in several) for several in drawn]
    assert found["eval/pass@1"] == pytest.approx(sum(passed) / 18)
    assert found["eval/pass@6"] == pytest.approx(sum(one > 0 for one in passed) / 3)


def test_jobs_share_their_held_out_sample(tmp_path: Path, chat_directory: Path) -> None:
    path = tiny_model.write_rows(tmp_path / "held-out.jsonl", 60)
    evaluated = []
    for seed in (1, 2):
        job = Job(tmp_path / f"run-{seed}", chat_directory, "supervised", seed=seed)
        _, reports = job.run(validation=path, eval_samples=6, max_steps=1)
        evaluated.append([sample["prompt"] for sample in results(reports)[-1].samples])
    assert evaluated[0] == evaluated[1]
    questions = [json.loads(line)["messages"][-2]["content"] for line in path.read_text().splitlines()]
    assert evaluated[0] == [question for question in questions if question in evaluated[0]]
    assert evaluated[0] != questions[:6]
    assert len(evaluated[0]) == 6


def test_memorised_rows_raise_accuracy(tmp_path: Path) -> None:
    """Template, training, sampling and grading fit together: two answers are learnt by heart."""
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        | {"reference_answer": answer}
        for question, answer in (("a?", "yes"), ("b?", "no"))
    ]
    base = tiny_model.build(tmp_path / "tiny", spread=0.3)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    code, reports = Job(tmp_path / "run", base, "supervised").run(
        training=path, validation=path, n_epochs=40, eval_interval=40, checkpoint_interval=40
    )
    assert code is TrainerExit.succeeded
    first, last = results(reports)
    assert first.values["eval/accuracy"] == 0
    assert last.values["eval/accuracy"] == 1
    assert [sample["response"] for sample in last.samples] == ["yes", "no"]
    losses = [row.values["loss"] or 0.0 for row in of_kind(reports, Metrics) if row.step > 0]
    assert losses[-1] < 0.1 < 2 < losses[0]
