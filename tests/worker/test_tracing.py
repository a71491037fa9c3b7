"""One trace from a client's POST to the end of its job, received by a real collector over HTTP."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.core import tracing as core_tracing
from app.core.jobs.state_machine import JobStatus
from app.core.settings import Settings
from tests.api.server import new_key, serve
from tests.http_server import Received, Reply, http_server
from tests.setup_jobs import stored_file
from tests.waiting import eventually
from tests.worker.conftest import Bench, Plant
from worker import tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Collector:
    """Collects the received spans by service and name, and the values of the header `x-tenant`."""

    def __init__(self) -> None:
        self.spans: dict[tuple[str, str], Span] = {}
        self.headers: set[str] = set()
        self._lock = threading.Lock()

    def take(self, received: Received) -> Reply:
        assert received.path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(received.body)
        with self._lock:
            self.headers.add(received.headers.get("x-tenant", ""))
            for resource in request.resource_spans:
                service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                for scope in resource.scope_spans:
                    self.spans |= {(service, span.name): span for span in scope.spans}
        return Reply(headers={"content-type": "application/x-protobuf"}, body=b"")


def attributes(span: Span) -> dict[str, object]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "") for item in span.attributes}


def test_job_is_one_trace(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    with http_server(collector.take) as address:
        for name, value in {ENDPOINT: address, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=us"}.items():
            monkeypatch.setenv(name, value)
            plant.environment[name] = value
        for name in ("DATABASE_URL", "GROUPTUNE_STATE_DIR", "GROUPTUNE_MODELS_DIR"):
            monkeypatch.setenv(name, plant.environment[name])
        monkeypatch.delenv("REDIS_URL", raising=False)
        with plant.database.transaction() as session:
            file = stored_file(session, plant.store, plant.project, plant.directory).id
        key = new_key(plant.database, plant.project)
        headers = {"authorization": f"Bearer {key}", "traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"}
        with serve(Settings()) as url, httpx.Client(base_url=url, headers=headers, trust_env=False) as http:
            body = {"model": "tiny", "training_file": file, "hyperparameters": {"n_epochs": 1}}
            answer = http.post("/v1/fine_tuning/jobs", json=body)
            assert answer.status_code == 200, answer.text
            assert http.get("/v1/files/none").status_code == 404
            http.get("/healthz")
        job_id = answer.json()["id"]
        with plant.train_worker() as worker:
            plant.wait_for(job_id, JobStatus.succeeded)
            assert worker.drain() == 0
        eventually(lambda: ("grouptune-worker", "attempt") in collector.spans)
    spans = collector.spans
    assert {name for service, name in spans if service == "grouptune-api"} == {
        "POST /v1/fine_tuning/jobs",
        "GET /v1/files/{file_id}",
    }
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    post, attempt = spans["grouptune-api", "POST /v1/fine_tuning/jobs"], spans["grouptune-worker", "attempt"]
    assert post.parent_span_id.hex() == CLIENT_SPAN
    assert attempt.parent_span_id == post.span_id
    for phase in ("prepare", "train", "conclude"):
        assert spans["grouptune-worker", f"attempt.{phase}"].parent_span_id == attempt.span_id
    assert attributes(post)["grouptune.request"] == answer.headers["x-request-id"]
    assert attributes(post)["http.response.status_code"] == 200
    values = attributes(attempt)
    assert (values["grouptune.job"], values["grouptune.attempt"], values["grouptune.outcome"]) == (
        job_id,
        1,
        "succeeded",
    )
    assert attempt.end_time_unix_nano > attempt.start_time_unix_nano >= post.end_time_unix_nano
    assert collector.headers == {"us"}
    assert ENDPOINT.encode() not in b"".join(path.read_bytes() for path in plant.directory.rglob("trainer.log"))


@contextmanager
def unresponsive_collector() -> Iterator[str]:
    """Accept connections and never respond."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_unresponsive_collector_delays_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with unresponsive_collector() as address:
        monkeypatch.setenv(ENDPOINT, address)
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
        tracing.tracer.cache_clear()
        tracer = tracing.tracer()
        assert tracer.is_on
        bench.run("train:6")
        for _ in range(100):  # more than the queue holds
            with tracer.span("more"):
                pass
        tracer.close(0.1)
        tracing.tracer.cache_clear()
    assert bench.status() is JobStatus.succeeded


def test_bad_configuration_disables_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not core_tracing.load("test").is_on
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    assert not core_tracing.load("test").is_on
    with core_tracing.load("test").span("x", parent="nonsense") as span:
        span.set(a=1)
        assert core_tracing.current() is None
