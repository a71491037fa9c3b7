"""Measures inference: `python -m bench.serving MODEL_DIR [--gguf FILE] [--rounds N] [--json FILE]`.

The embedded engine, `transformers serve` with continuous batching, and llama.cpp (xllamacpp, with FILE: the same
weights as bf16 GGUF) run side by side. Each round asks one after another, so that other load on the machine hits all of
them alike. Reports tokens per second of 8 concurrent streams, CPU seconds per 1,000 tokens, the time to the first token
of a single request, and the embedded engine with four adapters in one batch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from app.core.models import weights
from app.local.ports import claim_port

HOST: Final = "127.0.0.1"
STREAMS: Final = 8
TOKENS: Final = 64
READY_SECONDS: Final = 120.0
SUBJECTS: Final = ("a lighthouse", "the sea", "a clock", "two foxes", "an old map", "winter", "a violin", "the moon")
ADAPTERS: Final = 4
RANK: Final = 16


@dataclass
class Target:
    """A server that is measured."""

    name: str
    url: str
    pid: int
    body: Callable[[str, int], dict[str, Any]]
    """Body of a streaming completion for a prompt and a number of tokens."""
    rates: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Answer:
    tokens: int
    first_token_seconds: float


def prompt(subject: str) -> str:
    """Return a rendered chat whose answer is longer than the measurement."""
    question = f"Write a long story about {subject}, with many characters and at least ten chapters."
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def ask(client: httpx.Client, target: Target, subject: str, tokens: int) -> Answer:
    """Stream one completion."""
    started = time.perf_counter()
    first, generated = 0.0, 0
    body = target.body(prompt(subject), tokens)
    with client.stream("POST", f"{target.url}/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{target.name}: {response.status_code} {response.read().decode()}")
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                generated = chunk["usage"]["completion_tokens"]
            if chunk.get("choices") and not first:
                first = time.perf_counter() - started
    return Answer(generated, first)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(target: Target, tokens: int = TOKENS) -> None:
    """Add one round of a target: a single request, then concurrent streams."""
    with httpx.Client(timeout=300, trust_env=False) as client:
        target.first_token_ms.append(ask(client, target, SUBJECTS[0], 4).first_token_seconds * 1000)
        cpu, started = cpu_seconds(target.pid), time.perf_counter()
        with ThreadPoolExecutor(STREAMS) as pool:
            answers = list(pool.map(lambda subject: ask(client, target, subject, tokens), SUBJECTS))
        generated = sum(answer.tokens for answer in answers)
        target.rates.append(generated / (time.perf_counter() - started))
        target.cpu_seconds += cpu_seconds(target.pid) - cpu
        target.tokens += generated


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[int]:
    """Run a server for the block; yields its process id."""
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT) as child,
    ):
        try:
            yield child.pid
        finally:
            child.terminate()


def wait_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        threading.Event().wait(0.2)
    raise SystemExit(f"{url} is not ready; the end of its log:\n{log.read_text()[-2000:]}")


@contextmanager
def embedded(model: Path, directory: Path) -> Iterator[Target]:
    """Start the embedded engine, with adapters loaded."""
    port = claim_port(HOST, 0)
    url, log = f"http://{HOST}:{port}", directory / "embedded.log"
    environment = {"GROUPTUNE_MODELS_DIR": str(model.parent), "GROUPTUNE_STATE_DIR": str(directory)}
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))

    def body(text: str, tokens: int) -> dict[str, Any]:
        return {
            "model": model.name,
            "prompt": tokenizer.encode(text).ids,
            "max_tokens": tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    with process([sys.executable, "-m", "worker.serving", "--port", str(port)], environment, log) as pid:
        wait_ready(url, log)
        for number in range(ADAPTERS):
            path = write_adapter(model, directory / "serving" / "adapters" / f"adapter-{number}", number)
            load = {"lora_name": path.name, "lora_path": str(path), "base_model_name": model.name}
            httpx.post(f"{url}/v1/load_lora_adapter", json=load, timeout=60, trust_env=False).raise_for_status()
        yield Target("embedded", url, pid, body)


def write_adapter(model: Path, directory: Path, seed: int) -> Path:
    """Write a random adapter of all linear layers."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (outputs, inputs) in linear_shapes(model).items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(RANK, inputs, generator=random) * 0.01
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(outputs, RANK, generator=random) * 0.01
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def linear_shapes(model: Path) -> dict[str, tuple[int, int]]:
    """Return outputs and inputs of the linear layers in a model's blocks, by path."""
    paths = [path for path in weights.modules(model) if ".layers." in path]
    shapes: dict[str, tuple[int, int]] = {}
    for file in model.glob("*.safetensors"):
        size = int.from_bytes(file.read_bytes()[:8], "little")
        header = json.loads(file.read_bytes()[8 : 8 + size])
        shapes |= {path: tuple(header[f"{path}.weight"]["shape"]) for path in paths if f"{path}.weight" in header}
    return shapes


@contextmanager
def transformers_serve(model: Path, directory: Path) -> Iterator[Target]:
    port = claim_port(HOST, 0)
    url, log = f"http://{HOST}:{port}", directory / "transformers.log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--continuous-batching"]

    def body(text: str, tokens: int) -> dict[str, Any]:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": str(model), "prompt": text, "max_tokens": tokens, "temperature": 0.0, **options}

    with process([*command, "--host", HOST, "--port", str(port)], {"HF_HUB_OFFLINE": "1"}, log) as pid:
        wait_ready(url, log)
        yield Target("transformers serve", url, pid, body)


_LLAMA: Final = """
import sys, threading, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.port = sys.argv[1], int(sys.argv[2])
settings.hostnames, settings.verbosity = ["127.0.0.1"], 0
settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 8192, int(sys.argv[3]), 0
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(sys.argv[4])
server = xllamacpp.Server(settings)
threading.Event().wait()
"""


@contextmanager
def llama_cpp(gguf: Path, directory: Path) -> Iterator[Target]:
    port = claim_port(HOST, 0)
    url, log = f"http://{HOST}:{port}", directory / "llama.log"
    threads = len(os.sched_getaffinity(0))
    command = [sys.executable, "-c", _LLAMA, str(gguf), str(port), str(STREAMS), str(threads)]

    def body(text: str, tokens: int) -> dict[str, Any]:
        options = {"stream": True, "stream_options": {"include_usage": True}, "cache_prompt": False}
        return {"prompt": text, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, **options}

    with process(command, {}, log) as pid:
        wait_ready(url, log)
        yield Target("llama.cpp", url, pid, body)


def with_adapters(target: Target, count: int) -> Target:
    """Return the embedded engine, asked for `count` adapters in turn."""
    numbers = iter(range(10**9))
    lock = threading.Lock()

    def body(text: str, tokens: int) -> dict[str, Any]:
        with lock:
            number = next(numbers) % count
        return {**target.body(text, tokens), "model": f"adapter-{number}"}

    return Target(f"embedded, {count} adapter{'s' * (count > 1)}", target.url, target.pid, body)


def report(targets: list[Target]) -> list[dict[str, Any]]:
    rows = [
        {
            "target": target.name,
            "tokens_per_second": round(statistics.median(target.rates), 1),
            "cpu_seconds_per_1000_tokens": round(1000 * target.cpu_seconds / target.tokens, 1),
            "first_token_ms_p50": round(statistics.median(target.first_token_ms)),
            "rates": [round(rate, 1) for rate in target.rates],
        }
        for target in targets
    ]
    for row in rows:
        print(json.dumps(row))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--without-transformers", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gt-bench-")))
        own = stack.enter_context(embedded(options.model.absolute(), directory))
        targets = [own, with_adapters(own, 1), with_adapters(own, ADAPTERS)]
        if not options.without_transformers:
            targets.append(stack.enter_context(transformers_serve(options.model.absolute(), directory)))
        if options.gguf:
            targets.append(stack.enter_context(llama_cpp(options.gguf, directory)))
        for target in targets:  # loads models and fills caches
            measure(Target(target.name, target.url, target.pid, target.body), tokens=4)
        for _ in range(options.rounds):
            for target in targets:
                measure(target)
        rows = report(targets)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
