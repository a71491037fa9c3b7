"""An MLflow tracking server for the service benchmark, with the same number of runs and points on the same Postgres."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final, NotRequired, TypedDict
from urllib.parse import quote

from sqlalchemy import create_engine, make_url, text

DATABASE: Final = "mlflow"
BATCH: Final = 1_000
"""Points per request, the most that MLflow accepts."""
ENVIRONMENT: Final = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
WRITERS: Final = 32
"""Number of runs that points are written to, so that writers do not wait for each other."""


class Target(TypedDict):
    """One request."""

    path: str
    method: NotRequired[str]
    body: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """The server's store and the requests of each case."""

    store: str
    retrieve: list[Target]
    page: list[Target]
    chart: list[Target]
    write: list[Target]


_RUNS: Final = text(
    """
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
                      source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT md5(n::text), 'run-' || n, 'LOCAL', 'bench', '', 'bench', 'FINISHED', 1700000000000 + n * 1000,
           1700000000000 + n * 1000 + 500, '', 'active', '/tmp/mlruns', 0
    FROM generate_series(1, CAST(:runs AS int)) AS n
    """
)
_PARAMS: Final = text(
    "INSERT INTO params (key, value, run_uuid) "
    "SELECT 'param-' || n, 'value', run_uuid FROM runs, generate_series(1, 10) AS n"
)
_LATEST: Final = text(
    "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
    "SELECT 'loss', 0.5, 1700000000000, 100, false, run_uuid FROM runs"
)
_POINTS: Final = text(
    """
    INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)
    SELECT 'loss', sin(step / 1000.0) + random(), 1700000000000 + step, step, false, md5('1')
    FROM generate_series(1, CAST(:points AS int)) AS step
    """
)


def prepare(postgres_url: str, python: str, *, jobs: int, points: int) -> Peer:
    """Create a database with MLflow's schema on the same Postgres, with `jobs` runs and one series of `points`."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {DATABASE}"))
    server.dispose()
    url = make_url(postgres_url).set(database=DATABASE)
    store = f"postgresql+psycopg2://{url.username}@/{DATABASE}?host={quote(str(url.query['host']), safe='/')}"
    # Opening the store creates the schema and the default experiment.
    open_store = (
        "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as S; S(sys.argv[1], '/tmp')"
    )
    done = subprocess.run([python, "-c", open_store, store], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"MLflow could not prepare its database:\n{done.stderr[-2000:]}")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(_RUNS, {"runs": jobs})
        connection.execute(_PARAMS)
        connection.execute(_LATEST)
        connection.execute(_POINTS, {"points": points})
        runs = list(connection.scalars(text("SELECT run_uuid FROM runs ORDER BY md5(run_uuid)")))
        long_run: str = connection.scalars(text("SELECT md5('1')")).one()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()
    return Peer(
        store,
        retrieve=[{"path": f"/api/2.0/mlflow/runs/get?run_id={run}"} for run in runs],
        page=[_post("runs/search", {"experiment_ids": ["0"], "max_results": 20})],
        chart=[
            {
                "path": "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
                f"?run_ids={long_run}&metric_key=loss&max_results=1500"
            }
        ],
        write=[_post("runs/log-batch", _batch(run, turn)) for turn in range(8) for run in runs[:WRITERS]],
    )


def _post(path: str, body: dict[str, Any]) -> Target:
    return {"path": f"/api/2.0/mlflow/{path}", "method": "POST", "body": body}


def _batch(run: str, turn: int) -> dict[str, Any]:
    names = [f"metric-{number}" for number in range(20)]
    steps = range(turn * BATCH, turn * BATCH + BATCH // len(names))
    points = [
        {"key": name, "value": step * 0.001, "timestamp": 1700000000000 + step, "step": step}
        for step in steps
        for name in names
    ]
    return {"run_id": run, "metrics": points}


def command(python: str, peer: Peer, port: int) -> tuple[str, ...]:
    """The command that starts the server, with MLflow's defaults."""
    address = ("--host", "127.0.0.1", "--port", str(port))
    return (python, "-m", "mlflow", "server", "--backend-store-uri", peer.store, *address)
