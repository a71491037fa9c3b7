"""The workers' Celery application with `protocol_trainer.py` as the trainer: it runs hundreds of jobs a minute."""

import sys
from functools import partial
from pathlib import Path

from worker import tasks
from worker.celery_app import app
from worker.member_runner import MemberRunner
from worker.runner import Runner

TRAINER = (sys.executable, "-S", str(Path(__file__).with_name("protocol_trainer.py")), "from_metadata")

tasks.Runner = partial(Runner, trainer_command=TRAINER)  # type: ignore[assignment,attr-defined]
tasks.MemberRunner = partial(MemberRunner, trainer_command=TRAINER)  # type: ignore[assignment,attr-defined]

__all__ = ["app"]
