"""Seconds and bytes of counted work, from the model's shape and the device: the prior that finished jobs correct.

Every constant is a rough guess; the formulas only need to scale correctly. `calibration` learns a factor per part.
"""

import math
from dataclasses import dataclass
from typing import Final

from app.core.estimates.workload import STARTING_SAMPLES, Work
from app.core.models.shape import Shape
from app.core.spec.graders import BaseGrader, parts
from app.core.spec.hardware import Hardware, data_sheet
from app.core.spec.job import GroupMethod, JobSpec, PreferenceMethod
from app.core.spec.plan import MAX_SEQUENCES, TOKEN_BUDGET, activation_bytes, token_budget
from app.core.spec.sharding import is_sharded

FORMULA: Final = 2
"""Version of these formulas; measurements made with other versions are ignored."""

GPU_UTILISATION: Final = 0.35
"""Fraction of the data sheet's FLOPs that training achieves."""
GPU_BANDWIDTH_SHARE: Final = 0.6
UNKNOWN_GPU_FLOPS: Final = 100e12
UNKNOWN_GPU_BYTES: Final = 0.6e12
FLOPS_A_THREAD: Final = 60e9
BYTES_A_THREAD: Final = 8e9
"""Per second."""
MEMORY_CHANNELS: Final = 8
"""Threads that saturate a CPU's memory bandwidth."""
LAYER_SECONDS: Final = 0.5e-3
"""Seconds of Python and kernel launches in the forward pass of one layer, however small."""
TOKEN_SECONDS: Final = 1.5e-3
"""Further seconds per decoded token, for all sequences together: sampling, masks, lists."""
BATCH_SECONDS: Final = 20e-3
"""Further seconds per micro-batch: packing, the loss, its share of the optimiser step."""
SCALING: Final = 0.85
"""Start-up seconds of each further process."""
IMPORT_SECONDS: Final = 8.0
LOAD_BYTES: Final = 0.5e9
PULL_BYTES: Final = 20e6
"""Bytes per second over the network."""
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
"""Seconds per call; graders that wait for other servers make 64 calls at once."""
CHECKPOINT_SECONDS: Final = 0.3
END_SECONDS: Final = 2.0
"""Seconds for the export, the end of the trainer, and the upload."""

PROCESS_BYTES: Final = 0.42e9
"""Bytes of Python, torch and transformers on a CPU."""
CONTEXT_BYTES: Final = 1.2e9
"""Bytes of the CUDA context and unused allocator memory; the trainer's own measurement includes neither."""
GATHERED_BLOCKS: Final = 3
"""Blocks of a sharded base in memory during a pass: one in use, the next one as it is gathered, and one more: gloo's
copy of the latter, or, in the forward pass on a GPU, the buffer that the former was gathered in."""
ADAPTER_BYTES: Final = 20
"""Bytes per adapter weight: fp32 value, gradient, two moments, and the copy of the best adapter."""


@dataclass(frozen=True)
class Seconds:
    """Seconds by part of a job."""

    setup: float
    """From the claim to the first step."""
    rollout: float
    grading: float
    """Grading time that does not overlap with the rollouts."""
    update: float
    rest: float
    """Evaluations, checkpoints and the export."""

    @property
    def total(self) -> float:
        return self.setup + self.rollout + self.grading + self.update + self.rest


@dataclass(frozen=True)
class Speed:
    """The rates of a device."""

    flops: float
    bytes: float


def speed(hardware: Hardware) -> Speed:
    """Sum of all processes that train one job together."""
    if hardware.accelerator is None:
        threads = hardware.threads
        return Speed(FLOPS_A_THREAD * threads, BYTES_A_THREAD * min(threads, MEMORY_CHANNELS))
    sheet = data_sheet(hardware.accelerator)
    flops = UNKNOWN_GPU_FLOPS if sheet is None else sheet.flops
    bandwidth = UNKNOWN_GPU_BYTES if sheet is None else sheet.bytes_per_second
    together = 1 + SCALING * (hardware.processes - 1)
    return Speed(flops * GPU_UTILISATION * together, bandwidth * GPU_BANDWIDTH_SHARE * together)


def seconds(spec: JobSpec, work: Work, shape: Shape, hardware: Hardware) -> Seconds:
    """Return the prior's seconds for each part."""
    device = speed(hardware)
    rollout = 0.0
    if work.own_a_group:
        sampled = work.groups_a_step * (1 + work.resampled_groups / work.groups)
        rollout = work.steps * _decoding(sampled, work.own_a_group, spec, work, shape, device)
    # With a divergence, groups without contrast are trained too.
    grouped = isinstance(spec.settings, GroupMethod) and not spec.settings.kl_coefficient
    live = work.live_share if grouped else 1.0
    tokens = live * (work.prompt_tokens + work.response_tokens)
    passes = work.steps * math.ceil(tokens / work.steps / _token_budget(spec, shape, hardware))
    reference = 2 if isinstance(spec.settings, GroupMethod) and spec.settings.kl_coefficient else 0
    updates = spec.settings.updates_per_batch if isinstance(spec.settings, GroupMethod) else 1
    update = (
        updates * passes * (BATCH_SECONDS + 3 * shape.layers * LAYER_SECONDS)
        + (4 * updates + reference) * shape.active * tokens / device.flops
    )
    starting = (
        _decoding(min(work.held_out, STARTING_SAMPLES), 1, spec, work, shape, device) if work.evaluations else 0.0
    )
    saved = CHECKPOINT_SECONDS + adapter_weights(spec, shape) * ADAPTER_BYTES / LOAD_BYTES
    graded = (work.groups + work.resampled_groups) * work.members if isinstance(spec.settings, GroupMethod) else 0.0
    scored = work.reference_tokens
    reference_pass = _passes(scored, shape) + 2 * shape.active * scored / device.flops
    return Seconds(
        setup=reference_pass
        + IMPORT_SECONDS
        + shape.bytes / LOAD_BYTES
        + (0.0 if shape.is_pulled else shape.bytes / PULL_BYTES),
        rollout=rollout,
        grading=graded * _grader_seconds(spec.settings.grader),
        update=update,
        rest=work.evaluations * _evaluation(spec, work, shape, device)
        + starting
        + (work.checkpoints + 1) * saved
        + END_SECONDS,
    )


def _evaluation(spec: JobSpec, work: Work, shape: Shape, device: Speed) -> float:
    """Seconds of one evaluation: rollouts and grading of the held-out rows, and a forward pass over their answers."""
    answers = work.answers_an_evaluation
    drawn = _decoding(work.held_out, answers // work.held_out, spec, work, shape, device) if answers else 0.0
    known = 2 if isinstance(spec.settings, PreferenceMethod) else 1
    scored = work.held_out * (work.lengths.prompt + known * work.lengths.expert) + answers * work.lengths.own
    products = 2 * shape.active * scored / device.flops
    return drawn + _passes(scored, shape) + products + answers * _grader_seconds(spec.settings.grader)


def _passes(tokens: float, shape: Shape) -> float:
    """Seconds of the fixed costs of forward passes over packed tokens."""
    return math.ceil(tokens / TOKEN_BUDGET) * (BATCH_SECONDS + shape.layers * LAYER_SECONDS)


def _decoding(prompts: float, count: int, spec: JobSpec, work: Work, shape: Shape, device: Speed) -> float:
    """Return the seconds to sample `count` answers to each prompt: prefill, then token by token.

    A batch continues until its longest answer ends; each token takes at least the time to read the weights.
    """
    own = work.lengths.own
    sequences = prompts * count
    batches = math.ceil(sequences / MAX_SEQUENCES)
    longest = min(spec.settings.sampling.max_tokens, 2 * own)
    live = sequences / batches * own / longest
    token = (
        TOKEN_SECONDS
        + shape.layers * LAYER_SECONDS
        + max(shape.bytes / device.bytes, 2 * shape.active * live / device.flops)
    )
    prefill = 2 * shape.active * prompts * work.lengths.prompt / device.flops
    return batches * longest * token + prefill


def _grader_seconds(grader: BaseGrader | None) -> float:
    if grader is None:
        return 0.0
    return sum(GRADER_SECONDS.get(str(getattr(part, "type", "")), 0.0) for part in parts(grader))


def adapter_weights(spec: JobSpec, shape: Shape) -> float:
    """Number of weights of the LoRA adapter: r (in + out) for every adapted layer."""
    lora = spec.hyperparameters.lora
    hidden, kv, inner = shape.hidden, shape.kv_width, shape.intermediate
    whole = 2 * (hidden + hidden) + 2 * (hidden + kv) + 3 * (hidden + inner)
    share = 1.0 if isinstance(lora.target_modules, str) else min(1.0, len(lora.target_modules) / 7)
    return lora.r * shape.layers * whole * share


def memory_bytes(spec: JobSpec, work: Work, shape: Shape, hardware: Hardware, budget: float | None = None) -> float:
    """Return the peak memory of a trainer process as the process measures it (`gft/peak_memory_bytes`).

    `budget` is the most tokens of its micro-batches, by default that of the trainer, which shrinks to one response if
    they do not fit.
    """
    width = _width(shape)
    base = _held_bytes(spec, shape, hardware)
    lengths = work.lengths
    group = lengths.prompt + (work.response_tokens / work.groups if work.groups else 0.0)
    if budget is None:
        budget = _token_budget(spec, shape, hardware)
    packed = min(budget, group * math.ceil(work.groups_a_step / hardware.processes))
    activations = packed * _token_bytes(shape)
    if _adapts_experts(spec):
        activations += shape.experts * width
    decoding = 0.0
    sequences = max(work.groups_a_step / hardware.processes * work.own_a_group, float(work.answers_an_evaluation))
    if sequences:
        longest = min(spec.settings.sampling.max_tokens, 2 * lengths.own)
        tokens = min(MAX_SEQUENCES, sequences) * (lengths.prompt + longest)
        decoding = tokens * shape.layers * 2 * shape.kv_width * width * 2  # growing a cache copies it
        if hardware.accelerator is None and not _is_sharded(spec, shape, hardware):
            decoding += base  # a copy of the weights, packed for decoding
    process = PROCESS_BYTES if hardware.accelerator is None else 0.0
    return process + base + adapter_weights(spec, shape) * ADAPTER_BYTES + max(activations, decoding)


def _token_budget(spec: JobSpec, shape: Shape, hardware: Hardware) -> int:
    """Return the most packed tokens of a micro-batch, as the trainer chooses it from the free memory."""
    gpu = hardware.accelerator_memory_bytes if hardware.accelerator else None
    if _is_sharded(spec, shape, hardware):  # its micro-batches cannot shrink
        return TOKEN_BUDGET
    taken = _held_bytes(spec, shape, hardware) + adapter_weights(spec, shape) * ADAPTER_BYTES
    return token_budget(None if gpu is None else gpu - taken, _token_bytes(shape))


def _token_bytes(shape: Shape) -> int:
    return activation_bytes(shape.layers, shape.hidden, shape.intermediate, _width(shape))


def _width(shape: Shape) -> int:
    """Return the bytes of one number of the model's activations."""
    return 4 if shape.bytes > 3 * shape.parameters else 2


def _base_bytes(spec: JobSpec, shape: Shape) -> float:
    """Return the bytes of the whole base model as it is loaded."""
    if spec.hyperparameters.base_precision == "native":
        return float(shape.bytes)
    embedded = shape.vocabulary * shape.hidden
    # Experts are stacked in one parameter, and bitsandbytes quantises linear layers only.
    experts = shape.experts * shape.bytes / shape.parameters
    return embedded * 2 + experts + max(0, shape.parameters - embedded - shape.experts) * 0.6


def _is_sharded(spec: JobSpec, shape: Shape, hardware: Hardware) -> bool:
    gpu = hardware.accelerator_memory_bytes if hardware.accelerator else None
    return is_sharded(spec.hyperparameters.sharding, hardware.processes, _base_bytes(spec, shape), gpu)


def _held_bytes(spec: JobSpec, shape: Shape, hardware: Hardware) -> float:
    """Return the most bytes of the base model that one process holds."""
    base = _base_bytes(spec, shape)
    if not _is_sharded(spec, shape, hardware):
        return base
    embedded = min(base, float(shape.vocabulary * shape.hidden * _width(shape)))
    return base / hardware.processes + embedded + GATHERED_BLOCKS * (base - embedded) / shape.layers


def _adapts_experts(spec: JobSpec) -> bool:
    """Return whether experts get an adapter. PEFT adds it to all experts, and the sum lives until the backward pass."""
    lora = spec.hyperparameters.lora
    return lora.target_modules == "all-linear" and not (lora.dropout or lora.use_dora)


def least_memory_bytes(spec: JobSpec, work: Work, shape: Shape, hardware: Hardware) -> float:
    """The same with one response per micro-batch; with a sharded base, micro-batches do not shrink."""
    if _is_sharded(spec, shape, hardware):
        return memory_bytes(spec, work, shape, hardware)
    lengths = work.lengths
    longest = max(lengths.expert, lengths.teacher, lengths.own)
    return memory_bytes(spec, work, shape, hardware, lengths.prompt + longest)


def reserved_bytes(hardware: Hardware) -> float:
    """Memory in addition to the trainer's own measurement: the CUDA context, or the rest of the process."""
    return CONTEXT_BYTES if hardware.accelerator else 0.05 * hardware.memory_bytes
