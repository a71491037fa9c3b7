"""The dependency rule as two tables: which unit may import which, and which unit may use a third-party package.

Imports are read from the syntax tree, so an import inside a function counts too. An import that is not listed fails,
and so does a permission that no import uses: each line of the tables is a decision that the code relies on.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.import_graph import ROOTS, Import, cycle, imports, modules, within

REPOSITORY: Final = Path(__file__).parent.parent

MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    unit: frozenset(allowed.split())
    for unit, allowed in {
        # base modules of core
        "app": "",
        "app.core": "",
        "app.core.errors": "",
        "app.core.ids": "",
        "app.core.deadline": "",
        "app.core.lookup_cache": "",
        "app.core.tracing": "",
        "app.core.logging": "",
        "app.core.prometheus": "",
        "app.core.secrets": "app.core.errors",
        "app.core.paths": "",
        "app.core.plurals": "",
        "app.core.retry": "",
        "app.core.scratch": "",
        "app.core.parse_errors": "",
        "app.core.egress": "app.core.deadline app.core.errors app.core.retry",
        "app.core.extras": "app.core.errors",
        "app.core.settings": "app.core.egress app.core.errors",
        "app.core.broker": "app.core.errors",
        "app.core.db": "app.core.errors",
        "app.core.storage": "app.core.errors app.core.extras app.core.paths app.core.scratch",
        "app.core.migrate": "app.core.errors",
        # slices of core, bottom up
        "app.core.spec": "app.core.parse_errors",
        "app.core.graders": "app.core.deadline app.core.egress app.core.plurals app.core.retry app.core.spec",
        "app.core.chat": "app.core.deadline app.core.errors app.core.plurals app.core.spec",
        "app.core.workers": "app.core.db app.core.spec",
        "app.core.accounts": "app.core.db app.core.errors app.core.ids",
        "app.core.files": "app.core.db app.core.deadline app.core.errors app.core.extras app.core.ids"
        " app.core.parse_errors app.core.scratch app.core.spec app.core.storage app.core.plurals",
        "app.core.lint": "app.core.files app.core.graders app.core.spec app.core.plurals",
        "app.core.models": "app.core.db app.core.errors app.core.ids app.core.parse_errors app.core.spec"
        " app.core.paths app.core.storage",
        "app.core.estimates": "app.core.models app.core.spec",
        "app.core.exports": "app.core.accounts app.core.db app.core.errors app.core.ids app.core.models app.core.spec"
        " app.core.storage app.core.webhooks",
        # below jobs: a transition queues its webhook deliveries in the same transaction
        "app.core.webhooks": "app.core.accounts app.core.db app.core.errors app.core.ids app.core.secrets",
        "app.core.teachers": "app.core.accounts app.core.db app.core.egress app.core.errors app.core.ids"
        " app.core.models app.core.secrets app.core.spec",
        "app.core.jobs": "app.core.accounts app.core.chat app.core.db app.core.egress app.core.errors"
        " app.core.estimates app.core.evals.tables app.core.exports app.core.files app.core.graders app.core.ids"
        " app.core.lint app.core.models app.core.prometheus app.core.spec app.core.storage app.core.teachers"
        " app.core.tracing app.core.webhooks app.core.workers app.core.plurals",
        "app.core.inference": "app.core.accounts app.core.chat app.core.db app.core.errors app.core.ids"
        " app.core.jobs app.core.models app.core.plurals app.core.prometheus app.core.retry app.core.settings"
        " app.core.spec app.core.storage",
        "app.core.evals.tables": "app.core.db",
        # above inference: a run asks models as the gateway does
        "app.core.evals": "app.core.accounts app.core.chat app.core.deadline app.core.egress app.core.errors"
        " app.core.evals.tables app.core.graders app.core.ids app.core.inference app.core.plurals"
        " app.core.settings app.core.spec app.core.webhooks",
        "app.core.tables": "app.core.db app.core.accounts.tables app.core.evals.tables app.core.exports.tables"
        " app.core.files.tables app.core.inference.tables app.core.jobs.tables app.core.models.tables"
        " app.core.teachers.tables app.core.webhooks.tables app.core.workers.tables",
        # the API, one layer over the other
        "app.auth": "app.core",
        "app.api": "app.core app.auth",
        "app.main": "app.core app.auth app.api",
        # the command line and the embedded stack start the other processes by name and import none of them
        "app.client": "app.core.errors",
        "app.local": "app.core",
        "app.sources": "app.core.errors app.core.plurals app.core.spec",
        "app.cli": "app.core app.client app.local app.sources",
        # sources of another language; the documentation; what builds both for a release
        "app.dashboard": "",
        "app.site.build": "",
        "app.hatch_build": "",
        # above all slices of core: these read every table
        "app.core.backup": "app.core.db app.core.errors app.core.jobs app.core.migrate app.core.parse_errors"
        " app.core.spec app.core.storage app.core.tables app.core.plurals",
        "app.core.doctor": "app.core.broker app.core.db app.core.errors app.core.exports app.core.inference"
        " app.core.migrate app.core.models app.core.secrets app.core.storage app.core.teachers app.core.webhooks"
        " app.core.workers app.core.plurals",
        # workers; nothing in app imports them
        "worker": "app.core worker.trackers.protocol",
        "worker.trackers": "",
        "worker.training": "app.core.chat app.core.egress app.core.spec app.core.graders app.core.retry"
        " app.core.paths app.core.scratch app.core.plurals",
        "worker.exporting": "app.core.chat app.core.errors app.core.plurals app.core.spec worker.parent_death"
        " worker.hardware worker.training.merge",
        # the embedded inference engine, a process of its own
        "worker.serving": "app.core.extras app.core.logging app.core.models app.core.plurals app.core.settings"
        " worker.training",
        "migrations": "app.core.tables",
    }.items()
}
"""Unit -> other units that its modules may import. A module belongs to the longest unit that contains it."""

THIRD_PARTY: Final[dict[str, frozenset[str]]] = {
    package: frozenset(users.split())
    for package, users in {
        # HTTP server
        "fastapi": "app.api app.auth app.main",
        "starlette": "app.api worker.serving.server",
        "uvicorn": "worker.serving.__main__",
        "anyio": "app.api",
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
        "torch": "worker.training worker.serving worker.exporting.gguf",
        "transformers": "worker.training worker.serving worker.exporting.gguf",
        "peft": "worker.training worker.serving.plain worker.exporting.gguf",
        "safetensors": "worker.training worker.serving worker.exporting.gguf",
        "bitsandbytes": "worker.training.base_model",
        "gguf": "worker.exporting.gguf",
        "xllamacpp": "worker.exporting.gguf.llama_cpp",
        "numpy": "worker.training worker.exporting.gguf",
        "tokenizers": "app.core.chat worker.serving",
        "llguidance": "worker.serving",
        "jinja2": "app.core.chat",
        "huggingface_hub": "app.core.models.sources app.sources.hub_rows worker.exporting.push",
        "datasets": "app.sources.hub_rows",
        "math_verify": "app.core.graders.checks.math",
        "nltk": "app.core.graders.checks.similarity",
        "rapidfuzz": "app.core.graders.checks.similarity",
        "rouge_score": "app.core.graders.checks.similarity",
        "reasoning_gym": "app.core.graders.checks.reasoning_gym app.sources.reasoning_gym_rows",
        "jiter": "app.core.spec.json_lines",
        "jsonschema": "app.core.graders.checks.json_schema app.core.graders.checks.item_schema app.core.spec.graders",
        "referencing": "app.core.graders.checks.json_schema app.core.graders.checks.item_schema",
        "pydantic_monty": "app.core.graders.python_sandbox",
        "standardwebhooks": "app.core.graders.toolbox app.core.webhooks.deliveries",
        # command line and outgoing HTTP
        "typer": "app.cli",
        "rich": "app.cli",
        "yaml": "app.cli",
        "httpx": "app.client app.cli app.local app.core.egress.client worker.rollout_servers worker.training.rollouts",
        "aiohttp": "app.core.inference.engine_client",
        "httpcore": "app.core.egress.client",
        "cryptography": "app.core.secrets",
        "jwt": "app.auth.id_tokens",
        # releases
        "hatchling": "app.hatch_build",
        # trackers, in processes of their own
        "wandb": "worker.trackers.wandb_run",
        "mlflow": "worker.trackers.mlflow_run",
        "tensorboardX": "worker.trackers.tensorboard_run",
        "trackio": "worker.trackers.trackio_run",
        # values, configuration, logs
        "pydantic": "app worker worker.training worker.serving",
        "pydantic_core": "app.api",
        "pydantic_settings": "app.core.settings",
        "platformdirs": "app.core.settings",
        "structlog": "app worker worker.serving",
        "filelock": "worker.base_models",
        "packaging": "app.core.extras",
    }.items()
}
"""Third-party package -> the units and modules that may import it."""

ISLANDS: Final = ("worker.training", "worker.exporting", "worker.serving")
"""Packages that do not inherit permissions from their parent package."""

FORBIDDEN_NAMES: Final = frozenset({"utils", "common", "helpers", "manager", "service"})
MAX_LINES: Final = 400
TOP_LEVEL: Final = frozenset(
    {
        *("app", "worker", "migrations", "docker", "tests", "bench", "docs", "examples"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md"),
        *("pyproject.toml", "constraints.txt", "Makefile", "alembic.ini", "action.yml"),
        *(".ci", ".github", ".gitignore", ".editorconfig", ".pre-commit-config.yaml"),
    }
)
MUST_NOT_LOAD: Final = {
    "app.main": ("torch", "transformers", "peft", "math_verify", "nltk"),
    "app.cli": (
        *("torch", "transformers", "fastapi", "starlette", "sqlalchemy", "psycopg", "reasoning_gym", "datasets"),
        *("pydantic", "jsonschema", "cryptography", "celery"),
    ),
    "app.client": ("torch", "fastapi", "sqlalchemy", "celery"),
    "worker.runner": ("torch", "transformers", "fastapi", "starlette"),
    "worker.tasks": ("torch", "transformers", "fastapi", "starlette"),
    "worker.serving.__main__": ("torch", "transformers", "llguidance", "sqlalchemy"),
}
"""Module -> packages that must not be loaded after importing it in a fresh interpreter."""


def covers(package: str, module: str) -> bool:
    """Return whether a rule for `package` applies to `module`: it is inside, and not on an island of its own."""
    return within(package, module) and not any(
        within(island, module) and not within(island, package) for island in ISLANDS
    )


@cache
def unit_of(module: str) -> str | None:
    """Return the longest matching unit of `MAY_IMPORT`; `app` and `app.core` match only themselves."""
    fitting = [unit for unit in MAY_IMPORT if within(unit, module)]
    unit = max(fitting, key=len, default=None)
    return None if unit in {"app", "app.core"} and module != unit else unit


def _violation(edge: Import) -> str | None:
    """Return why the tables forbid an import, or None if they allow it."""
    top = edge.target.partition(".")[0]
    if top not in ROOTS:
        if top not in THIRD_PARTY:
            return f"{top} is not listed in THIRD_PARTY"
        users = THIRD_PARTY[top]
        allowed = any(covers(user, edge.importer) for user in users)
        return None if allowed else f"only {', '.join(sorted(users))} may import {top}"
    unit, target_unit = unit_of(edge.importer), unit_of(edge.target)
    if unit is None:
        return "its package is not listed in MAY_IMPORT"
    if unit == target_unit or any(covers(allowed, edge.target) for allowed in MAY_IMPORT[unit]):
        return None
    return f"{unit} may import {', '.join(sorted(MAY_IMPORT[unit])) or 'nothing'}"


def violations(root: Path) -> list[str]:
    """Return every violation of the tables, one readable line each."""
    unlisted = [
        f"{module}: its package is not listed in MAY_IMPORT" for module in modules(root) if unit_of(module) is None
    ]
    broken = [
        f"{edge.importer}:{edge.line} imports {edge.target}, but {reason}"
        for edge in imports(root)
        if (reason := _violation(edge))
    ]
    return sorted({*unlisted, *broken})


def unused_permissions(root: Path) -> list[str]:
    """Return the permissions of both tables that no import of the tree uses."""
    edges = imports(root)
    internal = {
        f"MAY_IMPORT: {unit} imports nothing from {target}"
        for unit, targets in MAY_IMPORT.items()
        for target in targets
        if not any(unit_of(edge.importer) == unit and covers(target, edge.target) for edge in edges)
    }
    third_party = {
        f"THIRD_PARTY: {user} does not import {package}"
        for package, users in THIRD_PARTY.items()
        for user in users
        if not any(within(package, edge.target) and covers(user, edge.importer) for edge in edges)
    }
    return sorted(internal | third_party)


def core_edges(root: Path) -> dict[str, set[str]]:
    """Return module -> imported modules, within app.core."""
    edges: dict[str, set[str]] = {}
    for edge in imports(root):
        if edge.importer != edge.target and covers("app.core", edge.importer) and covers("app.core", edge.target):
            edges.setdefault(edge.importer, set()).add(edge.target)
    return edges


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write a small tree to test the checker on."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_every_import_is_permitted() -> None:
    broken = violations(REPOSITORY)
    assert not broken, "\n" + "\n".join(broken)


def test_every_permission_is_used() -> None:
    unused = unused_permissions(REPOSITORY)
    assert not unused, "\n" + "\n".join(unused)


def test_every_unit_exists() -> None:
    # The dashboard has TypeScript sources and no Python package.
    assert set(MAY_IMPORT) - set(modules(REPOSITORY)) <= {"app.dashboard"}


def test_the_table_has_no_cycle() -> None:
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
def test_checker_reports_a_violation(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    root = plant(tmp_path, {"worker/training/trainer.py": "", "worker/runner.py": "", name: text})

    [violation] = violations(root)
    assert complaint in violation


def test_checker_accepts_permitted_imports(tmp_path: Path) -> None:
    files = {
        "app/core/spec/job.py": "import json\nimport pydantic\nfrom app.core.spec import methods\n",
        "app/core/spec/methods.py": "",
        "app/core/jobs/leases.py": "from app.core.files import uploads\nfrom . import state_machine\n",
        "app/core/jobs/state_machine.py": "",
        "app/core/files/uploads.py": "import sqlalchemy.orm\n",
        "app/api/routes/jobs.py": "from app.core.jobs import leases\nfrom fastapi import APIRouter\n",
        "worker/runner.py": "from app.core.jobs.leases import Claim\nfrom worker import process_control\n",
        "worker/process_control.py": "import celery\n",
        "worker/training/trainer.py": "import torch\nfrom app.core.spec.job import JobSpec\n",
        "migrations/env.py": "from alembic import context\nfrom app.core.tables import metadata\n",
    }
    assert violations(plant(tmp_path, files)) == []


def test_checker_finds_a_cycle(tmp_path: Path) -> None:
    files = {
        "app/core/jobs/leases.py": "from app.core.jobs import journal\n",
        "app/core/jobs/journal.py": "def write():\n    from app.core.jobs.leases import Claim\n",
    }
    assert {"app.core.jobs.leases", "app.core.jobs.journal"} == set(cycle(core_edges(plant(tmp_path, files))))


def test_checker_finds_an_unused_permission(tmp_path: Path) -> None:
    root = plant(tmp_path, {"worker/runner.py": "import celery\nfrom app.core.jobs import leases\n"})

    unused = unused_permissions(root)

    assert "THIRD_PARTY: worker does not import kombu" in unused
    assert "THIRD_PARTY: worker does not import celery" not in unused
    assert "MAY_IMPORT: worker imports nothing from app.core" not in unused


@pytest.mark.parametrize("module", MUST_NOT_LOAD)
def test_import_stays_light(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert module in loaded
    assert not loaded & set(MUST_NOT_LOAD[module])


def test_packed_decoding_does_without_peft() -> None:
    """PEFT costs the engine memory and start-up time, and only the plain path needs it."""
    targets: dict[str, set[str]] = {}
    for edge in imports(REPOSITORY):
        targets.setdefault(edge.importer, set()).add(edge.target)
    reached, pending = set[str](), ["worker.serving.batch"]
    while pending:
        module = pending.pop()
        pending += targets.get(module, set()) - reached
        reached.add(module)
    assert "worker.serving.base" in reached
    assert "peft" not in reached


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules(REPOSITORY).values()
        if path.relative_to(REPOSITORY).parts[0] != "migrations"
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_file_has_a_vague_name() -> None:
    vague = {module for module in modules(REPOSITORY) if FORBIDDEN_NAMES & set(module.split("."))}
    assert vague == set()


def test_top_level_is_complete() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    # In CI another user often owns the checkout; git would refuse to read it.
    git = ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z"]
    tracked = subprocess.run(git, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert {name.partition("/")[0] for name in tracked.split("\0") if name} - TOP_LEVEL == set()
