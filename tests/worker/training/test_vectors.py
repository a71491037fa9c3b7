"""The golden vectors: through the whole engine, through its output head, and by the command-line check."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from bench import check_vectors
from tests.worker.training import architectures, golden, plain
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.golden import CASES, VECTORS
from tests.worker.training.test_attention import BLOCKS, FUSED
from tests.worker.training.updates import PLENTY, gradient, updater
from worker.training.attention import CPU_LIMITS
from worker.training.types import PromptGroup

REPOSITORY: Final = Path(__file__).parents[3]
LIVE: Final = [name for name, case in CASES.items() if any(case["advantages"])]
LOSS_DIGITS: Final = 1e-12
GRADIENT_DIGITS: Final = 1e-8
"""Relative. The vectors are written with twelve digits behind the point, many of their gradients' numbers are small."""


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model in float64 and in fp32."""
    directory = tmp_path_factory.mktemp("golden") / str(request.param)
    return architectures.build(directory, golden.ARCHITECTURE, request.param)


@pytest.mark.parametrize("name", LIVE)
def test_loss_and_gradient_of_golden_vectors(name: str, base: Path) -> None:
    """Packed with a shared prompt, either attention, any chunk of the head, one micro-batch or several."""
    one = golden.realise(name, base)
    precision = one.policy.head.weight_V_H.dtype
    # The loss moves by its slope times what the logits move by. In fp32 that decides, in float64 it is next to nothing.
    slope = float(one.given("grad_logits", torch.float64).abs().sum())
    loss_tolerance = LOSS_DIGITS + one.rounding * slope
    gradient_tolerance = GRADIENT_DIGITS + 4 * one.rounding
    assert torch.allclose(one.logits, one.given("logits", precision), rtol=0, atol=1e-10 + one.rounding)
    expected = one.adapter_gradient
    apart = [PromptGroup(one.group.prompt, [member]) for member in one.group.members]
    for groups, budget, rows_at_a_time, limits in (
        ([one.group], PLENTY, 1000, CPU_LIMITS),
        ([one.group], PLENTY, 4, FUSED),
        ([one.group], 100, 1, CPU_LIMITS),
        ([one.group], 1, 3, BLOCKS),
        (apart, PLENTY, 5, CPU_LIMITS),  # what all prompts begin with is shared between groups
    ):
        one.policy.chunk_elements = rows_at_a_time * architectures.VOCABULARY
        one.policy.cpu_limits = limits
        found, result = gradient(one.policy, groups, tau=one.case["tau"], token_budget=budget)
        assert result.loss * one.added == pytest.approx(one.case["loss"], abs=loss_tolerance)
        found = {name: value * one.added for name, value in found.items()}
        assert plain.distance(found, expected) < gradient_tolerance


@pytest.mark.parametrize("name", [name for name in CASES if name not in LIVE])
def test_vectors_without_contrast_are_skipped(name: str, model_directory: ModelDirectory) -> None:
    case = golden.CASES[name]
    assert case["loss"] == 0
    one = golden.realise(name, model_directory(golden.ARCHITECTURE))
    result = updater(one.policy, tau=case["tau"]).update([one.group], 1.0)
    assert (result.loss, result.grad_norm, result.packed_tokens, result.applied) == (0.0, 0.0, 0, False)


@pytest.mark.parametrize("rows_at_a_time", [1, 2, 7])
@pytest.mark.parametrize("name", list(CASES))
def test_head_values_in_chunks_of_any_size(name: str, rows_at_a_time: int) -> None:
    kinds = len(CASES[name]["logits"][0][0])
    assert max(check_vectors.errors(CASES[name], rows_at_a_time * kinds).values()) <= check_vectors.TOLERANCE


def altered(directory: Path, field: str) -> Path:
    """A copy in which one number of one case is off by a millionth."""
    content = json.loads(VECTORS.read_text(encoding="utf-8"))
    holder: Any = content["cases"][2]
    key: Any = field
    while isinstance(holder[key], list):
        holder, key = holder[key], 0
    holder[key] += 1e-6
    path = directory / "altered.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.slow
def test_golden_vectors_pass_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "bench/check_vectors.py", str(VECTORS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 cases" in done.stdout


@pytest.mark.parametrize(
    "field",
    ["advantages", "token_logprob", "coefficient", "loss", "grad_logits", "rectified_frac", "mean_entropy", "logits"],
)
def test_an_altered_number_fails(field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_vectors.main([str(altered(tmp_path, field))]) == 1
    assert "WRONG  in k8_one_correct" in capsys.readouterr().out


def test_not_a_number_fails(tmp_path: Path) -> None:
    path = tmp_path / "nan.json"
    content = json.loads(VECTORS.read_text(encoding="utf-8"))
    content["cases"][-1]["loss"] = float("nan")
    path.write_text(json.dumps(content), encoding="utf-8")
    assert check_vectors.main([str(path)]) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cases": []}', '{"cases": [{"name": "empty"}]}', "\0"])
def test_junk_file_exits_with_2(content: str, tmp_path: Path) -> None:
    path = tmp_path / "junk.json"
    path.write_text(content, encoding="utf-8")
    assert check_vectors.main([str(path)]) == 2


@pytest.mark.parametrize("arguments", [[], ["one", "two"], ["/does/not/exist"]])
def test_wrong_arguments_exit_with_2(arguments: list[str]) -> None:
    assert check_vectors.main(arguments) == 2
