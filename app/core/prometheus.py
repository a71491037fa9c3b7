"""Prometheus metrics. Every label has a small closed set of values: no ids, paths or names from clients.

The API and each worker are separate processes with separate registries.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
API: Final = CollectorRegistry()
WORKER: Final = CollectorRegistry()
PORTS_TRIED: Final = 10

HTTP_SECONDS: Final = Histogram(
    "grouptune_http_request_seconds",
    "Time until the response starts, by route template.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=API,
)
INFERENCE_REQUESTS: Final = Counter(
    "grouptune_inference_requests",
    "Requests to inference engines, by engine and outcome; a request that was repeated counts at each engine.",
    ["engine", "outcome"],
    registry=API,
)
FIRST_TOKEN_SECONDS: Final = Histogram(
    "grouptune_inference_first_token_seconds",
    "Time until the first token of a streamed answer, by engine, with the wait for its adapter.",
    ["engine"],
    buckets=(0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
    registry=API,
)
INFERENCE_TOKENS: Final = Counter(
    "grouptune_inference_tokens", "Tokens of answered requests, by kind.", ["engine", "kind"], registry=API
)
ENGINE_UP: Final = Gauge("grouptune_engine_up", "Whether an inference engine is available.", ["engine"], registry=API)
ENGINE_ADAPTERS: Final = Gauge(
    "grouptune_engine_adapters", "Adapters that are loaded on an inference engine.", ["engine"], registry=API
)
ADAPTER_LOADS: Final = Counter(
    "grouptune_adapter_loads", "Adapters loaded on inference engines, by outcome.", ["engine", "outcome"], registry=API
)
ATTEMPTS: Final = Counter(
    "grouptune_attempts", "Attempts that this worker has ended, by outcome.", ["outcome"], registry=WORKER
)
LEASE_LOSSES: Final = Counter(
    "grouptune_lease_losses",
    "Lost leases: expired leases found by a sweep, and attempts that a runner ended after losing its lease.",
    ["seen_by"],
    registry=WORKER,
)
STEP_SECONDS: Final = Histogram(
    "grouptune_step_seconds",
    "Time of an optimiser step, by method.",
    ["method"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500),
    registry=WORKER,
)
GRADER_ERRORS: Final = Counter("grouptune_grader_errors", "Answers that could not be graded.", registry=WORKER)
GPU_QUARANTINED: Final = Gauge(
    "grouptune_gpu_quarantined", "Whether this worker takes no more jobs because its GPU is broken.", registry=WORKER
)
FILES_VALIDATED: Final = Counter(
    "grouptune_files_validated", "Validated files, by resulting status.", ["status"], registry=WORKER
)
EXPORTS: Final = Counter(
    "grouptune_exports",
    "Attempts at exports that this worker has ended, by outcome.",
    ["outcome"],
    registry=WORKER,
)
EVAL_RUNS: Final = Counter(
    "grouptune_eval_runs",
    "Attempts at runs of evals that this worker has ended, by outcome.",
    ["outcome"],
    registry=WORKER,
)
WEBHOOKS: Final = Counter(
    "grouptune_webhook_tries", "Webhook delivery attempts, by resulting state.", ["state"], registry=WORKER
)


@dataclass(frozen=True)
class Backlog:
    """The unfinished jobs, from the database."""

    jobs: Mapping[str, int]
    """Jobs that are not finished, by status."""
    wanted_workers: int
    """Workers that the queued and running jobs take at once."""
    oldest_queued_seconds: float
    """How long the oldest job that could run has waited; 0 without one."""


class _BacklogCollector(Collector):
    def __init__(self, read: Callable[[], Backlog | None]) -> None:
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        backlog = self._read()
        yield GaugeMetricFamily(
            "grouptune_database_up", "Whether the API reaches Postgres.", value=float(backlog is not None)
        )
        if backlog is None:
            return
        jobs = GaugeMetricFamily("grouptune_jobs", "Jobs that are not finished, by status.", labels=["status"])
        for status, count in backlog.jobs.items():
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily(
            "grouptune_wanted_workers",
            "Workers that the queued and running jobs take at once.",
            value=backlog.wanted_workers,
        )
        yield GaugeMetricFamily(
            "grouptune_queue_oldest_seconds",
            "How long the oldest job that could run has waited.",
            value=backlog.oldest_queued_seconds,
        )


def exposition(read_backlog: Callable[[], Backlog | None]) -> bytes:
    """Return the API's metrics as text. `read_backlog` returns None while the database is unavailable."""
    backlog = CollectorRegistry()
    backlog.register(_BacklogCollector(read_backlog))
    return generate_latest(API) + generate_latest(backlog)


def serve_worker(host: str, port: int, *, ports: int = PORTS_TRIED) -> int:
    """Serve the worker's metrics from a thread, on the first free one of `ports` ports; return that port.

    Ten ports, because all workers of a machine share the settings. Raises `OSError` when all ports are taken.
    """
    for candidate in range(port, port + ports - 1):
        try:
            start_http_server(candidate, host, WORKER)
        except OSError:
            continue
        return candidate
    start_http_server(port + ports - 1, host, WORKER)
    return port + ports - 1
