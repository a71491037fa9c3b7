"""Two ranks take the same step as one, and end together."""

import dataclasses
import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing import ProcessFailure

from app.core.spec.reports import DemonstrationsGraded, Evaluated, Failed, Finished, Metrics, TrainerExit
from app.core.spec.subprocess_environment import RANK
from tests.forked import Program
from tests.processes import command_line
from tests.tiny_model import write_rows
from tests.waiting import all_end, eventually
from tests.worker.training import plain
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.rank_of_two import LOSSES
from tests.worker.training.runs import REPOSITORY, STEPS, Job, of_kind, parse, read_until, trainer_process
from tests.worker.training.test_optimizer import mixed_groups
from tests.worker.training.updates import gradient
from worker.training.batching import DataOrder
from worker.training.distributed import PeerLost, Ranks, in_order, lost_peers
from worker.training.launcher import cause
from worker.training.model import Policy
from worker.training.types import Prompt


def test_single_rank_does_not_communicate() -> None:
    ranks = Ranks()
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    assert (ranks.sum(5), ranks.gather("x")) == (5, ["x"])


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_joined_shares_are_in_order(size: int) -> None:
    assert in_order([Ranks(rank, size).share(range(7)) for rank in range(size)]) == list(range(7))


def test_shares_are_disjoint_and_complete() -> None:
    items = list(range(7))
    shares = [Ranks(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert {len(share) for share in shares} == {2, 3}


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one(llama: Policy, model_directory: ModelDirectory, tmp_path: Path) -> None:
    module, environment = "tests.worker.training.rank_of_two", os.environ | {"OMP_NUM_THREADS": "1"}
    with ExitStack() as running:
        ranks = [
            running.enter_context(
                Program(
                    module,
                    (tmp_path, model_directory("llama"), rank),
                    directory=REPOSITORY,
                    environment=environment,
                    stdout=tmp_path / f"{rank}.out",
                    stderr=tmp_path / f"{rank}.err",
                )
            )
            for rank in range(2)
        ]
        assert [process.wait(240) for process in ranks] == [0, 0]
    outputs = [(tmp_path / f"{rank}.out").read_text().splitlines() for rank in range(2)]
    for number, (name, options) in enumerate(LOSSES.items()):
        expected, alone = gradient(llama, mixed_groups(), **options)
        for rank, lines in enumerate(outputs):
            tokens, loss = lines[number].split()
            assert int(tokens) == alone.trained_tokens
            assert float(loss) == pytest.approx(alone.loss, abs=1e-6)
            assert plain.distance(load_file(tmp_path / f"{name}-{rank}.safetensors"), expected) < 1e-6


def test_lost_connection_is_a_lost_peer() -> None:
    with pytest.raises(PeerLost, match="Connection closed"), lost_peers():
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(RuntimeError, match="cannot be multiplied"), lost_peers():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def failures(*codes: int) -> dict[int, ProcessFailure]:
    """Failures of ranks 1, 0, 2 in the order in which the agent saw them."""
    return {rank: ProcessFailure(rank, 1, code, "") for rank, code in zip((1, 0, 2), codes, strict=False)}


@pytest.mark.parametrize(
    ("codes", "rank"),
    [
        ((65, TrainerExit.peer_lost), 1),  # one rank has bad data
        ((TrainerExit.peer_lost, 65), 0),
        ((65, 65), 0),  # both have; the first has reported it
        ((-9, TrainerExit.peer_lost, TrainerExit.peer_lost), 1),  # the kernel killed one
        ((TrainerExit.peer_lost, -9), 0),
        ((-9, 71), 0),  # the agent killed one that waited on a GPU
        ((-9, TrainerExit.peer_lost, -9), 1),
        ((75, 75), 0),
    ],
)
def test_cause_is_the_rank_that_failed_first(codes: tuple[int, ...], rank: int) -> None:
    assert cause(failures(*codes)) == (rank, failures(*codes)[rank])


def two(job: Job) -> Job:
    """The job's spec for two processes."""
    path = job.run_dir / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 2}))
    return job


@pytest.fixture
def job(tmp_path: Path, chat_directory: Path) -> Job:
    return Job(tmp_path / "run", chat_directory)


@pytest.mark.slow
def test_two_ranks_report_once_and_share_work(job: Job, tmp_path: Path) -> None:
    """The grades of demonstrations and the evaluations are those of one process."""
    rows = [json.loads(line) for line in write_rows(tmp_path / "rows.jsonl", 8).read_text().splitlines()]
    for line in (2, 3, 7):
        rows[line - 1]["reference_answer"] = "none"
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    options: dict[str, Any] = {"training": tmp_path / "rows.jsonl", "demonstrations": "graded"}
    job.write(**options)
    with trainer_process(two(job)) as process:
        out = process.output(240)
    assert process.returncode == TrainerExit.succeeded, (job.run_dir / "trainer.log").read_text()
    reports = parse(out)
    assert [row.step for row in of_kind(reports, Metrics)] == list(range(STEPS + 1))
    assert len(of_kind(reports, Finished)) == 1
    assert (job.run_dir / "adapter" / "adapter_model.safetensors").is_file()
    _, alone = job.sibling("alone").run(n_epochs=1, **options)
    graded = of_kind(reports, DemonstrationsGraded)
    assert [one.rejected for one in graded] == [(), (2, 3, 7)]
    assert graded == of_kind(alone, DemonstrationsGraded)
    shared, whole = (next(one for one in of_kind(found, Evaluated) if not one.is_result) for found in (reports, alone))
    assert shared.rows.lines == whole.rows.lines
    assert [sample["line"] for sample in shared.samples] == [sample["line"] for sample in whole.samples]
    for name, scores in whole.rows.metrics.items():
        assert shared.rows.metrics[name].values == pytest.approx(scores.values, abs=1e-6), name
    assert shared.values == pytest.approx(whole.values, abs=1e-6)


@pytest.mark.slow
def test_dead_rank_and_stop_end_all_ranks(job: Job) -> None:
    job.write(n_epochs=50)
    with trainer_process(two(job)) as process:
        read_until(process, Metrics, 1)
        family = psutil.Process(process.pid).children(recursive=True)
        [other] = [
            child for child in family if "worker.training" in command_line(child) and child.environ()[RANK] == "1"
        ]
        assert other.environ()["MASTER_ADDR"] == "localhost"  # not a host name that no name server may know
        other.kill()
        assert process.wait(240) == 1
        assert all_end(family, 10)
    log = (job.run_dir / "trainer.log").read_text()
    assert log.splitlines()[-1] == "Process 1 of the trainer was killed by SIGKILL"
    assert "Traceback" not in log  # of rank 0, which lost its partner
    again = dataclasses.replace(job, run_dir=job.run_dir.with_name("stopped"))
    again.write(n_epochs=50)
    with trainer_process(two(again)) as process:
        read_until(process, Metrics, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == TrainerExit.stopped


@pytest.mark.slow
def test_stop_reaches_ranks_that_have_just_started(job: Job) -> None:
    job.write(n_epochs=50)
    with trainer_process(two(job)) as process:
        launcher = psutil.Process(process.pid)
        eventually(launcher.children)
        process.send_signal(signal.SIGTERM)
        out = process.output(240)
    assert process.returncode == TrainerExit.stopped, (job.run_dir / "trainer.log").read_text()
    assert [row.step for row in of_kind(parse(out), Metrics)] == [0]


def rows_of(rank: int, job: Job) -> set[int]:
    """Lines of the training file that process `rank` of two gets in the first epoch."""
    order = DataOrder([Prompt(line, "", (1,), (), {}) for line in range(1, 9)], 2, 2, job.seed)
    ranks = Ranks(rank, 2)
    return {prompt.line for step in range(1, STEPS // 2 + 1) for prompt in ranks.share(order.step(step))}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.slow
def test_job_fails_with_the_failed_ranks_error(rank: int, job: Job, tmp_path: Path) -> None:
    """Rows without a reference cannot be graded; all of them fall to one process."""
    ungradable = rows_of(rank, job)
    assert len(ungradable) == 4
    rows = [json.loads(line) for line in write_rows(tmp_path / "rows.jsonl", 8).read_text().splitlines()]
    for line in ungradable:
        del rows[line - 1]["reference_answer"]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    job.write(training=tmp_path / "rows.jsonl")
    with trainer_process(two(job)) as process:
        family = psutil.Process(process.pid)
        out = process.output(240)
    assert process.returncode == TrainerExit.bad_data
    reports = parse(out)
    [failed] = of_kind(reports, Failed)
    assert failed is reports[-1]
    assert failed.code == "grader_errors"
    assert failed.message.endswith("item.reference_answer does not exist in this row")
    assert not family.is_running()
    assert "Traceback" not in (job.run_dir / "trainer.log").read_text()
