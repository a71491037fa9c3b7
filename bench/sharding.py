"""Measures the memory of a sharded base model: `python -m bench.sharding [--processes 1 2 4]`.

Trains a random Llama of 48 narrow layers (fp32, gloo, CPU) for two steps and reports the peak resident memory of each
process above what it used before it loaded the model. One process holds the whole base. The target for n processes is
1/n of the base and 10 % more.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
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


def train(directory: Path, rank: int, processes: int, results: Any) -> None:
    """Train as one rank, and put its peak above the start, and the base's bytes, into `results`."""
    import torch  # noqa: PLC0415 - in the measured process only
    from torch import distributed  # noqa: PLC0415

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
    for _ in range(STEPS):
        with policy.lockstep(gradients=True):
            policy.backward(policy.logprobs(batch, 1.0)[0].sum())
    total = base_bytes(policy.causal) if policy.sharded is None else policy.sharded.total_bytes
    results.put((rank, resident("VmHWM") - start, total))
    if processes > 1:
        distributed.destroy_process_group()


def measure(directory: Path, processes: int) -> tuple[int, int]:
    """Return the highest peak of all ranks and the base's size, both in bytes. Exits if a rank fails."""
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
    return max(peak for _, peak, _ in found), found[0][2]


def main() -> None:
    """Print one JSON object per number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    wanted = parser.parse_args().processes
    with tempfile.TemporaryDirectory() as directory:
        factory: Any = AutoModelForCausalLM
        factory.from_config(LlamaConfig(**SHAPE)).save_pretrained(directory)
        for processes in wanted:
            peak, base = measure(Path(directory), processes)
            row = {
                "processes": processes,
                "base_mb": round(base / 1e6, 1),
                "peak_mb": round(peak / 1e6, 1),
                "share": round(peak / base, 3),
            }
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
