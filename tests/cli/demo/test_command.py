"""The demo's data set, job and report."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from app.api.schemas.create_job import CreateJob
from app.cli.demo import data
from app.cli.demo.question import MAX_TOKENS, ask_both, print_asked
from app.cli.demo.report import DemoReport, print_report
from app.client import Client

JOB: dict[str, Any] = {
    "id": "ftjob-1",
    "fine_tuned_model": "ft:smollm2-135m-instruct:default:demo:abcdefgh",
    "verdict": "improved",
    "comparison": {"difference": 0.65, "low": 0.5, "high": 0.76, "reason": "...", "rows": 50},
    "evaluation": {"selection_rows": 48}
    | {
        when: {
            "rows": 50,
            "intervals": {"eval/accuracy": [accuracy - 0.09, accuracy + 0.1]},
            "values": {"eval/accuracy": accuracy, "eval/reward": accuracy, "eval/mean_length": 12.5},
            "samples": [{"prompt": "What is 17 + 48?", "response": answer, "reward": reward, "reference": "65"}],
        }
        for when, accuracy, answer, reward in (("before", 0.1, "It is 56.", 0.0), ("after", 0.75, "It is 65.", 1.0))
    },
}


def test_held_out_problems_are_never_trained() -> None:
    for seed in range(5):
        train, heldout = data.problems(seed)
        assert (len(train), len(heldout)) == (data.TRAIN_ROWS, data.HELDOUT_ROWS)
        pairs = [frozenset((problem.a, problem.b)) for problem in (*train, *heldout)]
        assert len(set(pairs)) == len(pairs)


def test_data_is_deterministic_per_seed(tmp_path: Path) -> None:
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        data.write_dataset(tmp_path / f"{name}.train", tmp_path / f"{name}.heldout", seed=seed)
        written.append((tmp_path / f"{name}.train").read_bytes())
    assert written[0] == written[1] != written[2]


def test_teachers_have_their_reliability(tmp_path: Path) -> None:
    data.write_dataset(tmp_path / "train", tmp_path / "heldout", seed=3)
    rows = [json.loads(line) for line in (tmp_path / "train").read_text().splitlines()]
    assert all(row["messages"][-1]["content"].endswith(f"= {row['reference_answer']}.") for row in rows)
    for teacher, reliability in enumerate(data.TEACHER_RELIABILITY):
        right = [row["teacher_responses"][teacher].endswith(f"= {row['reference_answer']}.") for row in rows]
        assert abs(sum(right) / len(right) - reliability) < 0.08


def test_api_accepts_the_demo_job() -> None:
    assert CreateJob.model_validate(data.demo_job("file-1", "file-2", 7)).seed == 7


def test_report_as_json_and_on_the_terminal() -> None:
    report = DemoReport(JOB, seed=7, seconds=125.0, adapter=Path(f"/{'state/' * 15}jobs/ftjob-1/a1/adapter"))
    content = json.loads(json.dumps(report.to_json()))
    assert (content["before"]["accuracy"], content["after"]["accuracy"], content["seed"]) == (0.1, 0.75, 7)
    assert content["samples"][0]["after"] == {"response": "It is 65.", "reward": 1.0}
    assert content["intervals"]["after"]["accuracy"] == [0.66, 0.85]
    assert (content["verdict"], content["rows"]) == ("improved", 50)
    console = Console(file=StringIO(), width=80)
    print_report(report, "http://127.0.0.1:8000/v1", console)
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert f"adapter  {report.adapter}\n" in shown, "a path must stay on one line"
    for part in (
        "50 problems, 95 % intervals in brackets; 48 others chose the adapter.",
        "10% (1% to 20%)",
        "75% (66% to 85%)",
        "Verdict: improved, mean reward +0.65 (95 % interval +0.50 to +0.76)",
        "It is 65.",
        "Not shown: which method is best. For a comparison see\nhttp://127.0.0.1:8000/docs/evidence.html\n",
        "/a1/adapter",
        "http://127.0.0.1:8000/v1",
        JOB["fine_tuned_model"],
        "grouptune jobs groups ftjob-1 --step 1",
    ):
        assert part in shown


def test_one_question_is_asked_over_the_api(stack: Any) -> None:
    report = DemoReport(JOB, seed=7, seconds=1.0, adapter=Path("/adapter"))
    question, reference = report.best_question()
    assert (question, reference) == ("What is 17 + 48?", "65")
    with Client(stack.base_url, stack.api_key) as client:
        asked = ask_both(client, question, reference, "tiny", "gpt-4o-mini")  # an alias of `tiny`
        answer = client.post(
            "/chat/completions",
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": question}],
                "temperature": 0,
                "max_tokens": MAX_TOKENS,
            },
        )["choices"][0]["message"]["content"]
    assert asked.before == asked.after == answer
    console = Console(file=StringIO(), width=80)
    print_asked(asked, console)
    assert isinstance(console.file, StringIO)
    for part in ("What is 17 + 48?", "before", "after", "gpt-4o-mini"):
        assert part in console.file.getvalue()
