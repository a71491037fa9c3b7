"""Measures the memory of a sharded base model: `python -m bench.sharding [--processes 1 2 4]`.

Trains a random Llama of 48 narrow layers (fp32, gloo, CPU) for two steps. Reports, of the process with the highest
value:

    tensors_mb   the base that it holds between two passes, and the highest sum of tensors that exist at the same time
                 during a step: gathered blocks, buffers of collectives, activations. This is what a GPU would need.
    resident_mb  its peak resident memory during the steps, above what it used before it loaded the model. That includes
                 code which is imported by then, and memory that the C library keeps after it is freed.

One process holds the whole base. The target for n processes is 1/n of the base and 10 % more.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from transformers import AutoModelForCausalLM, LlamaConfig

SHAPE: Final[dict[str, Any]] = {
    "vocab_size": 512,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
TOKENS: Final = 8
STEPS: Final = 2


def resident(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(value) * 1024


def highest(recorded: Any, path: Path) -> int:
    """Return the highest sum of the bytes that were allocated and not yet freed while `recorded` ran."""
    recorded.export_chrome_trace(str(path))
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(one["ts"], one["args"]) for one in events if one.get("name") == "[memory]"]
    return highest_sum([(one["Addr"], int(one["Bytes"])) for _, one in sorted(changes, key=lambda change: change[0])])


def highest_sum(changes: Sequence[tuple[int, int]]) -> int:
    """Return the highest sum of bytes at a time, of allocations (positive) and frees (negative) by address, in order.

    The profiler misses what a thread of gloo frees after the collective: the next allocation at the address shows it.
    """
    held: dict[int, int] = {}
    total = most = 0
    for address, size in changes:
        total -= held.pop(address, 0)
        if size > 0:
            held[address] = size
            total += size
        most = max(most, total)
    return most


def train(directory: Path, rank: int, processes: int, results: Any) -> None:
    """Train as one rank, and put its two peaks and the base's bytes into `results`."""
    import torch  # noqa: PLC0415 - in the measured process only
    from torch import distributed  # noqa: PLC0415
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    from app.core.spec.job import Lora  # noqa: PLC0415
    from worker.training.batching import pack  # noqa: PLC0415
    from worker.training.distributed import Ranks  # noqa: PLC0415
    from worker.training.model import load_policy  # noqa: PLC0415
    from worker.training.sharding import base_bytes  # noqa: PLC0415

    torch.set_num_threads(1)
    ranks = Ranks(rank, processes)
    if processes > 1:
        meeting = f"file://{directory / f'meet-{processes}'}"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    batch = pack([[(tuple(range(3, TOKENS)), (1,))]], torch.device("cpu"))
    start = resident("VmRSS")
    policy = load_policy(
        directory, Lora(r=1, alpha=1), seed=0, sharding="full" if processes > 1 else "none", ranks=ranks
    )
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak

    def step() -> None:
        with policy.lockstep(gradients=True):
            policy.backward(policy.logprobs(batch, 1.0)[0].sum())

    for _ in range(STEPS):
        step()
    peak = resident("VmHWM") - start
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    held = base_bytes(policy.causal)
    total = held if policy.sharded is None else policy.sharded.total_bytes
    results.put((peak, held + highest(recorded, directory / f"trace-{processes}-{rank}.json"), total))
    if processes > 1:
        distributed.destroy_process_group()


def measure(directory: Path, processes: int) -> tuple[int, int, int]:
    """Return the highest peaks of all ranks, resident and of tensors, and the base's size. Exits if a rank fails."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=train, args=(directory, rank, processes, results)) for rank in range(processes)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit(f"{processes} processes failed")
    found = [results.get() for _ in ranks]
    return max(one[0] for one in found), max(one[1] for one in found), found[0][2]


def main() -> None:
    """Print one JSON object per number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    wanted = parser.parse_args().processes
    with tempfile.TemporaryDirectory() as directory:
        factory: Any = AutoModelForCausalLM
        factory.from_config(LlamaConfig(**SHAPE)).save_pretrained(directory)
        for processes in wanted:
            peak, tensors, base = measure(Path(directory), processes)
            row = {
                "processes": processes,
                "base_mb": round(base / 1e6, 1),
                "tensors_mb": round(tensors / 1e6, 1),
                "share": round(tensors / base, 3),
                "resident_mb": round(peak / 1e6, 1),
                "resident_share": round(peak / base, 3),
            }
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
