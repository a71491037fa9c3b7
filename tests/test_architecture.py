"""The dependency rule as tables: who may import whom, and which third-party package belongs where.

Read from the syntax tree, so an import inside a function counts like one at the top. Whatever is not listed
fails: a new package or dependency is a line here, and that line is the decision.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.import_graph import ROOTS, Import, cycle, imports, modules, within

REPOSITORY: Final = Path(__file__).parent.parent

_KERNEL: Final = "app.core.db app.core.errors app.core.ids app.core.clock app.core.tracing"

MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    unit: frozenset(allowed.split())
    for unit, allowed in {
        # kernel of the kernel
        "app": "",
        "app.core": "",
        "app.core.errors": "",
        "app.core.ids": "",
        "app.core.clock": "",
        "app.core.tracing": "",
        "app.core.logging": "",
        "app.core.secrets": "app.core.errors",
        "app.core.egress": "app.core.errors",
        "app.core.settings": "app.core.egress.ip_policy app.core.errors",
        "app.core.prometheus": "",
        "app.core.broker": "app.core.errors",
        "app.core.db": "app.core.errors",
        "app.core.storage": "app.core.errors app.core.ids",
        "app.core.migrate": "app.core.errors",
        # slices of core, bottom up
        "app.core.spec": "",
        "app.core.graders": "app.core.egress app.core.spec",
        "app.core.chat": "app.core.errors app.core.spec",
        "app.core.workers": f"app.core.spec {_KERNEL}",
        "app.core.accounts": f"app.core.spec {_KERNEL}",
        "app.core.files": f"app.core.spec app.core.storage {_KERNEL}",
        "app.core.lint": "app.core.files app.core.graders app.core.spec",
        "app.core.models": f"app.core.spec app.core.storage {_KERNEL}",
        "app.core.estimates": f"app.core.spec app.core.models {_KERNEL}",
        # below jobs: their transitions write what webhooks say, in the same transaction
        "app.core.webhooks": f"app.core.accounts app.core.secrets {_KERNEL}",
        "app.core.teachers": "app.core.accounts app.core.egress app.core.models app.core.secrets"
        f" app.core.spec {_KERNEL}",
        "app.core.jobs": "app.core.accounts app.core.egress app.core.files app.core.lint app.core.models"
        " app.core.spec app.core.storage app.core.prometheus app.core.teachers app.core.webhooks app.core.workers"
        f" app.core.chat app.core.estimates app.core.graders {_KERNEL}",
        "app.core.tables": "app.core.db app.core.accounts.tables app.core.files.tables app.core.jobs.tables"
        " app.core.models.tables app.core.teachers.tables app.core.webhooks.tables app.core.workers.tables",
        # the API, layer over layer
        "app.auth": "app.core",
        "app.api": "app.core app.auth",
        "app.main": "app.core app.auth app.api",
        # the command line and the embedded stack start the other processes by name and import none of them
        "app.client": "app.core.errors app.core.spec",
        "app.local": "app.core",
        "app.sources": "app.core.errors app.core.spec",
        "app.cli": "app.core app.client app.local app.sources",
        # sources of another language, and what builds them for a release
        "app.dashboard": "",
        # above all slices of core: they look at every table
        "app.core.backup": f"app.core.spec app.core.storage app.core.jobs app.core.tables app.core.migrate {_KERNEL}",
        "app.core.doctor": f"app.core.broker app.core.migrate app.core.models app.core.secrets app.core.storage"
        f" app.core.webhooks app.core.workers {_KERNEL}",
        # workers; nothing in app imports them
        "worker": "app.core worker.trackers.protocol",
        "worker.trackers": "",
        "worker.training": "app.core.chat app.core.egress app.core.spec app.core.graders",
        "migrations": "app.core.tables",
    }.items()
}
"""Unit -> what its modules may import besides their own unit. The longest fitting name is a module's unit."""

THIRD_PARTY: Final[dict[str, frozenset[str]]] = {
    package: frozenset(users.split())
    for package, users in {
        # HTTP server
        "fastapi": "app.api app.auth app.main",
        "starlette": "app.api app.auth app.main",
        "anyio": "app.api",
        "uvicorn": "app.cli",
        # SQL
        "sqlalchemy": "app.core migrations",
        "alembic": "app.core.migrate migrations",
        "psycopg": "app.core app.local",
        # data files
        "pyarrow": "app.core.files.parquet",
        # blobs
        "obstore": "app.core.storage.s3",
        # traces
        "opentelemetry": "app.core.tracing",
        # numbers for Prometheus
        "prometheus_client": "app.core.prometheus",
        # dispatch
        "celery": "app.core.broker worker",
        "kombu": "app.core.broker worker",
        "redis": "app.core.accounts.rate_limit",
        # training
        "torch": "worker.training",
        "transformers": "worker.training",
        "peft": "worker.training",
        "safetensors": "worker.training",
        "bitsandbytes": "worker.training.base_model",
        "gguf": "worker.training",
        "numpy": "worker.training",
        "tokenizers": "app.core.chat",
        "jinja2": "app.core.chat",
        "huggingface_hub": "app.core.models.sources app.sources.hub_rows",
        "datasets": "app.sources.hub_rows",
        "math_verify": "app.core.graders.checks.math",
        "nltk": "app.core.graders.checks.similarity",
        "rapidfuzz": "app.core.graders.checks.similarity",
        "rouge_score": "app.core.graders.checks.similarity",
        "reasoning_gym": "app.core.graders.checks.reasoning_gym app.sources.reasoning_gym_rows",
        "jsonschema": "app.core.graders.checks.json_schema app.core.spec.graders",
        "referencing": "app.core.graders.checks.json_schema",
        "pydantic_monty": "app.core.graders.toolbox",
        "standardwebhooks": "app.core.graders.toolbox app.core.webhooks.deliveries",
        # command line and outgoing HTTP
        "typer": "app.cli",
        "rich": "app.cli",
        "yaml": "app.cli",
        "httpx": "app.client app.cli app.local app.core.egress.client app.core.models worker.training.rollouts",
        "httpcore": "app.core.egress.client",
        "cryptography": "app.core.secrets",
        "jwt": "app.auth.id_tokens",
        # releases
        "hatchling": "app.dashboard.hatch_build",
        # trackers, in processes of their own
        "wandb": "worker.trackers.wandb_run",
        "mlflow": "worker.trackers.mlflow_run",
        "tensorboardX": "worker.trackers.tensorboard_run",
        "trackio": "worker.trackers.trackio_run",
        # values, configuration, logs
        "pydantic": "app worker worker.training",
        "pydantic_core": "app.api",
        "pydantic_settings": "app.core.settings",
        "platformdirs": "app.core.settings",
        "structlog": "app worker",
        "filelock": "worker.base_models",
    }.items()
}
"""Third-party package -> the packages and modules that may import it."""

ISLANDS: Final = ("worker.training",)
"""Packages that inherit no permission from the package around them."""

FORBIDDEN_NAMES: Final = frozenset({"utils", "common", "helpers", "manager", "service"})
MAX_LINES: Final = 400
TOP_LEVEL: Final = frozenset(
    {
        *("app", "worker", "migrations", "docker", "tests", "bench", "docs", "examples"),
        *("README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"),
        *("pyproject.toml", "constraints.txt", "Makefile", "alembic.ini", "action.yml"),
        *(".ci", ".github", ".gitignore", ".editorconfig"),
    }
)
LOADS_NEITHER: Final = {
    "app.main": ("torch", "transformers", "peft", "math_verify", "nltk"),
    "app.cli": (
        *("torch", "transformers", "fastapi", "starlette", "sqlalchemy", "psycopg", "reasoning_gym", "datasets"),
        *("pydantic", "jsonschema", "cryptography", "celery"),
    ),
    "app.client": ("torch", "fastapi", "sqlalchemy", "celery"),
    "worker.runner": ("torch", "transformers", "fastapi", "starlette"),
    "worker.tasks": ("torch", "transformers", "fastapi", "starlette"),
}
"""Module -> what must not be loaded after importing it in a fresh interpreter."""


def covers(package: str, module: str) -> bool:
    """Whether what is said of a package goes for a module: it lies in it, and on no island of its own."""
    return within(package, module) and not any(
        within(island, module) and not within(island, package) for island in ISLANDS
    )


def unit_of(module: str) -> str | None:
    """The longest unit of `MAY_IMPORT` that fits; a bare root or `app.core` fits only itself."""
    fitting = [unit for unit in MAY_IMPORT if within(unit, module)]
    unit = max(fitting, key=len, default=None)
    return None if unit in {"app", "app.core"} and module != unit else unit


def _why_not(found: Import) -> str | None:
    top = found.target.partition(".")[0]
    if top not in ROOTS:
        if top not in THIRD_PARTY:
            return f"{top} is not listed in THIRD_PARTY"
        users = THIRD_PARTY[top]
        allowed = any(covers(user, found.importer) for user in users)
        return None if allowed else f"{top} belongs to {', '.join(sorted(users))}"
    unit, target_unit = unit_of(found.importer), unit_of(found.target)
    if unit is None:
        return "its package is not listed in MAY_IMPORT"
    if unit == target_unit or any(covers(allowed, found.target) for allowed in MAY_IMPORT[unit]):
        return None
    return f"{unit} may import {', '.join(sorted(MAY_IMPORT[unit])) or 'nothing'}"


def violations(root: Path) -> list[str]:
    """What breaks the tables, one readable line each."""
    unlisted = [
        f"{module}: its package is not listed in MAY_IMPORT" for module in modules(root) if unit_of(module) is None
    ]
    broken = [
        f"{found.importer}:{found.line} imports {found.target}, but {reason}"
        for found in imports(root)
        if (reason := _why_not(found))
    ]
    return sorted({*unlisted, *broken})


def core_edges(root: Path) -> dict[str, set[str]]:
    """Module -> modules it imports, within app.core."""
    edges: dict[str, set[str]] = {}
    for found in imports(root):
        if found.importer != found.target and covers("app.core", found.importer) and covers("app.core", found.target):
            edges.setdefault(found.importer, set()).add(found.target)
    return edges


def plant(root: Path, files: dict[str, str]) -> Path:
    """Writes a small tree to check the checker with."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_every_import_is_allowed_by_the_tables() -> None:
    found = violations(REPOSITORY)
    assert not found, "\n" + "\n".join(found)


def test_the_table_itself_has_no_cycle() -> None:
    edges = {
        unit: {other for other in MAY_IMPORT if any(covers(name, other) or other == unit_of(name) for name in allowed)}
        for unit, allowed in MAY_IMPORT.items()
    }
    assert not cycle(edges)


def test_core_has_no_import_cycle() -> None:
    assert not cycle(core_edges(REPOSITORY))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("worker/runner.py", "import torch\n", "worker.runner:1 imports torch"),
        ("worker/runner.py", "def run():\n    import torch.nn\n", "worker.runner:2 imports torch.nn"),
        (
            "worker/runner.py",
            "import importlib\nimportlib.import_module('torch')\n",
            "runner:2 imports torch",
        ),
        ("worker/runner.py", "from worker.training import trainer\n", "imports worker.training.trainer"),
        ("worker/training/trainer.py", "import structlog\n", "worker.training.trainer:1 imports structlog"),
        ("worker/training/trainer.py", "from app.core.jobs import leases\n", "imports app.core.jobs"),
        ("worker/training/trainer.py", "from .. import runner\n", "imports worker.runner"),
        ("app/core/db.py", "from fastapi import Depends\n", "app.core.db:1 imports fastapi"),
        ("app/core/db.py", "import left_pad\n", "left_pad is not listed in THIRD_PARTY"),
        ("app/core/db.py", "if TYPE_CHECKING:\n    import app.api\n", "app.core.db:2 imports app.api"),
        ("app/core/spec/job.py", "from app.core.graders import text\n", "imports app.core.graders"),
        ("app/core/spec/job.py", "from app.core import db\n", "imports app.core"),
        ("app/core/files/uploads.py", "from ..jobs import state_machine\n", "imports app.core.jobs"),
        ("app/api/routes/jobs.py", "import worker.tasks\n", "imports worker.tasks"),
        ("app/api/routes/jobs.py", "from sqlalchemy import select\n", "imports sqlalchemy"),
        ("app/billing/invoices.py", "", "app.billing.invoices: its package is not listed"),
        ("app/core/billing.py", "", "app.core.billing: its package is not listed"),
    ],
)
def test_the_checker_reports_a_planted_violation(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    root = plant(tmp_path, {"worker/training/trainer.py": "", "worker/runner.py": "", name: text})

    found = violations(root)

    assert len(found) == 1
    assert complaint in found[0]


def test_the_checker_accepts_what_the_tables_allow(tmp_path: Path) -> None:
    files = {
        "app/core/spec/job.py": "import json\nimport pydantic\nfrom app.core.spec import methods\n",
        "app/core/spec/methods.py": "",
        "app/core/jobs/leases.py": "from app.core.files import uploads\nfrom . import states\n",
        "app/core/jobs/state_machine.py": "",
        "app/core/files/uploads.py": "import sqlalchemy.orm\n",
        "app/api/routes/jobs.py": "from app.core.jobs import leases\nfrom fastapi import APIRouter\n",
        "worker/runner.py": "from app.core.jobs.leases import Claim\nfrom worker import control\n",
        "worker/process_control.py": "import celery\n",
        "worker/training/trainer.py": "import torch\nfrom app.core.spec.job import JobSpec\n",
        "migrations/env.py": "from alembic import context\nfrom app.core.tables import metadata\n",
    }
    assert violations(plant(tmp_path, files)) == []


def test_the_checker_finds_a_planted_cycle(tmp_path: Path) -> None:
    files = {
        "app/core/jobs/leases.py": "from app.core.jobs import journal\n",
        "app/core/jobs/journal.py": "def write():\n    from app.core.jobs.leases import Claim\n",
    }
    assert {"app.core.jobs.leases", "app.core.jobs.journal"} == set(cycle(core_edges(plant(tmp_path, files))))


@pytest.mark.parametrize("module", LOADS_NEITHER)
def test_importing_it_stays_light(module: str) -> None:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        pytest.skip(f"{module} does not exist")
    code = f"import json, sys, {module}; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert module in loaded
    assert not loaded & set(LOADS_NEITHER[module])


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules(REPOSITORY).values()
        if path.relative_to(REPOSITORY).parts[0] != "migrations"
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_files_are_named_after_what_they_know() -> None:
    named = {module for module in modules(REPOSITORY) if FORBIDDEN_NAMES & set(module.split("."))}
    assert named == set()


def test_the_top_level_holds_only_what_belongs_there() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    # The owner of a checkout in CI is often somebody else; git would refuse to read it.
    git = ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z"]
    tracked = subprocess.run(git, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert {name.partition("/")[0] for name in tracked.split("\0") if name} - TOP_LEVEL == set()
