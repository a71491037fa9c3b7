"""Seconds and bytes of counted work, from the model's shape and the device: the prior that finished jobs correct.

Every constant here is a guess that has a reason; what matters is how costs grow. `fit` learns the factor of each part.
"""

import math
from dataclasses import dataclass
from typing import Final

from app.core.estimates.workload import BASE_SAMPLES, Work
from app.core.models.shape import Shape
from app.core.spec.graders import BaseGrader, parts
from app.core.spec.hardware import Hardware, data_sheet
from app.core.spec.job import GroupMethod, JobSpec
from app.core.spec.plan import MAX_SEQUENCES, TOKEN_BUDGET

FORMULA: Final = 1
"""Of these formulas: what was measured against others is not compared with them."""

GPU_UTILISATION: Final = 0.35
"""Of the data sheet's FLOPs, in training."""
GPU_BANDWIDTH_SHARE: Final = 0.6
UNKNOWN_GPU_FLOPS: Final = 100e12
UNKNOWN_GPU_BYTES: Final = 0.6e12
FLOPS_A_THREAD: Final = 60e9
BYTES_A_THREAD: Final = 8e9
"""A second."""
MEMORY_CHANNELS: Final = 8
"""Threads that a CPU's memory keeps busy."""
LAYER_SECONDS: Final = 0.5e-3
"""A layer's forward pass in Python and launches, however small the layer is."""
TOKEN_SECONDS: Final = 1.5e-3
"""What else a decoded token costs, for all sequences together: the choice, the masks, the lists."""
BATCH_SECONDS: Final = 20e-3
"""What else a micro-batch costs: packing, the loss, its share of the optimiser."""
SCALING: Final = 0.85
"""Of each further process."""
IMPORT_SECONDS: Final = 8.0
LOAD_BYTES: Final = 0.5e9
PULL_BYTES: Final = 20e6
"""A second, over the network."""
GRADER_SECONDS: Final = {
    "string_check": 3e-5,
    "text_similarity": 5e-4,
    "regex": 5e-4,
    "json_schema": 1e-3,
    "math": 4e-3,
    "python": 3e-3,
    "endpoint": 0.3 / 64,
    "score_model": 1.5 / 64,
    "label_model": 1.5 / 64,
}
"""A call; those that wait for others ask for 64 at once."""
CHECKPOINT_SECONDS: Final = 0.3
END_SECONDS: Final = 2.0
"""The export, the trainer's end, the upload's own."""
LIVE_SHARE: Final = 0.8
"""Groups with contrast, of a method that compares."""

PROCESS_BYTES: Final = 0.42e9
"""Python, torch and transformers on a CPU."""
CONTEXT_BYTES: Final = 1.2e9
"""CUDA's own and what its allocator leaves unused; the trainer's own count has neither."""
ADAPTER_BYTES: Final = 20
"""A weight of the adapter: fp32 value, gradient, two moments, the best one so far."""


@dataclass(frozen=True)
class Seconds:
    """By part of a job."""

    setup: float
    """From the claim to the first step."""
    rollout: float
    grading: float
    """Beyond the rollouts that it runs beside."""
    update: float
    rest: float
    """Evaluations, checkpoints and the export."""

    @property
    def total(self) -> float:
        return self.setup + self.rollout + self.grading + self.update + self.rest


@dataclass(frozen=True)
class Speed:
    """What a device does in a second."""

    flops: float
    bytes: float


def speed(hardware: Hardware) -> Speed:
    """Of all processes that train a job together."""
    if hardware.accelerator is None:
        threads = hardware.threads
        return Speed(FLOPS_A_THREAD * threads, BYTES_A_THREAD * min(threads, MEMORY_CHANNELS))
    sheet = data_sheet(hardware.accelerator)
    flops = UNKNOWN_GPU_FLOPS if sheet is None else sheet.flops
    bandwidth = UNKNOWN_GPU_BYTES if sheet is None else sheet.bytes_per_second
    together = 1 + SCALING * (hardware.processes - 1)
    return Speed(flops * GPU_UTILISATION * together, bandwidth * GPU_BANDWIDTH_SHARE * together)


def seconds(spec: JobSpec, work: Work, shape: Shape, hardware: Hardware) -> Seconds:
    """What the prior expects of each part."""
    device = speed(hardware)
    rollout = 0.0
    if work.own_a_group:
        rollout = work.steps * _decoding(work.groups_a_step, work.own_a_group, spec, work, shape, device)
    live = LIVE_SHARE if isinstance(spec.settings, GroupMethod) else 1.0
    tokens = live * (work.prompt_tokens + work.response_tokens)
    passes = work.steps * math.ceil(tokens / work.steps / TOKEN_BUDGET)
    reference = 2 if isinstance(spec.settings, GroupMethod) and spec.settings.kl_coefficient else 0
    update = (
        passes * (BATCH_SECONDS + 3 * shape.layers * LAYER_SECONDS)
        + (4 + reference) * shape.parameters * tokens / device.flops
    )
    base = _decoding(min(work.held_out, BASE_SAMPLES), 1, spec, work, shape, device) if work.evaluations else 0.0
    saved = CHECKPOINT_SECONDS + adapter_weights(spec, shape) * ADAPTER_BYTES / LOAD_BYTES
    graded = work.groups * work.members if isinstance(spec.settings, GroupMethod) else 0.0
    return Seconds(
        setup=IMPORT_SECONDS + shape.bytes / LOAD_BYTES + (0.0 if shape.is_pulled else shape.bytes / PULL_BYTES),
        rollout=rollout,
        grading=graded * _grader_seconds(spec.settings.grader),
        update=update,
        rest=work.evaluations * _evaluation(spec, work, shape, device)
        + base
        + (work.checkpoints + 1) * saved
        + END_SECONDS,
    )


def _evaluation(spec: JobSpec, work: Work, shape: Shape, device: Speed) -> float:
    """Of the held-out rows: their answers, drawn and graded, and a pass over what is said about them."""
    answers = work.answers_an_evaluation
    drawn = _decoding(work.held_out, answers // work.held_out, spec, work, shape, device) if answers else 0.0
    scored = work.held_out * (work.lengths.prompt + work.lengths.expert) + answers * work.lengths.own
    passes = math.ceil(scored / TOKEN_BUDGET) * (BATCH_SECONDS + shape.layers * LAYER_SECONDS)
    products = 2 * shape.parameters * scored / device.flops
    return drawn + passes + products + answers * _grader_seconds(spec.settings.grader)


def _decoding(prompts: float, count: int, spec: JobSpec, work: Work, shape: Shape, device: Speed) -> float:
    """Seconds to draw `count` answers to each of so many prompts: prefill, then token after token.

    A batch goes on until its longest answer ends; each token costs at least the time to read the weights.
    """
    own = work.lengths.own
    sequences = prompts * count
    batches = math.ceil(sequences / MAX_SEQUENCES)
    longest = min(spec.settings.sampling.max_tokens, 2 * own)
    live = sequences / batches * own / longest
    token = (
        TOKEN_SECONDS
        + shape.layers * LAYER_SECONDS
        + max(shape.bytes / device.bytes, 2 * shape.parameters * live / device.flops)
    )
    prefill = 2 * shape.parameters * prompts * work.lengths.prompt / device.flops
    return batches * longest * token + prefill


def _grader_seconds(grader: BaseGrader | None) -> float:
    if grader is None:
        return 0.0
    return sum(GRADER_SECONDS.get(str(getattr(part, "type", "")), 0.0) for part in parts(grader))


def adapter_weights(spec: JobSpec, shape: Shape) -> float:
    """Weights of the LoRA adapter: r (in + out) of every adapted layer."""
    lora = spec.hyperparameters.lora
    hidden, kv, inner = shape.hidden, shape.kv_width, shape.intermediate
    whole = 2 * (hidden + hidden) + 2 * (hidden + kv) + 3 * (hidden + inner)
    share = 1.0 if isinstance(lora.target_modules, str) else min(1.0, len(lora.target_modules) / 7)
    return lora.r * shape.layers * whole * share


def memory_bytes(
    spec: JobSpec, work: Work, shape: Shape, hardware: Hardware, token_budget: float = TOKEN_BUDGET
) -> float:
    """The most that a trainer process uses at once: what it counts itself (`gft/peak_memory_bytes`).

    `token_budget` is that of its micro-batches, which shrink to one response where they do not fit.
    """
    width = 4 if shape.bytes > 3 * shape.parameters else 2
    base = float(shape.bytes)
    if spec.hyperparameters.base_precision == "4bit":
        embedded = shape.vocabulary * shape.hidden
        base = embedded * 2 + max(0, shape.parameters - embedded) * 0.6
    lengths = work.lengths
    group = lengths.prompt + (work.response_tokens / work.groups if work.groups else 0.0)
    packed = min(token_budget, group * math.ceil(work.groups_a_step / hardware.processes))
    activations = packed * shape.layers * (10 * shape.hidden + 3 * shape.intermediate) * width
    decoding = 0.0
    sequences = max(work.groups_a_step / hardware.processes * work.own_a_group, float(work.answers_an_evaluation))
    if sequences:
        longest = min(spec.settings.sampling.max_tokens, 2 * lengths.own)
        tokens = min(MAX_SEQUENCES, sequences) * (lengths.prompt + longest)
        decoding = tokens * shape.layers * 2 * shape.kv_width * width * 2  # a cache is copied while it grows
        if hardware.accelerator is None:
            decoding += base  # weights in the layout that decoding likes
    process = PROCESS_BYTES if hardware.accelerator is None else 0.0
    return process + base + adapter_weights(spec, shape) * ADAPTER_BYTES + max(activations, decoding)


def least_memory_bytes(spec: JobSpec, work: Work, shape: Shape, hardware: Hardware) -> float:
    """The same with one response a micro-batch."""
    lengths = work.lengths
    longest = max(lengths.expert, lengths.teacher, lengths.own)
    return memory_bytes(spec, work, shape, hardware, lengths.prompt + longest)


def reserved_bytes(hardware: Hardware) -> float:
    """What is not the trainer's own: CUDA's context, or the rest of the machine."""
    return CONTEXT_BYTES if hardware.accelerator else 0.05 * hardware.memory_bytes
