"""Opens the source of a run's teacher answers: a server, a base model of this installation, or none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from app.core.chat.tokenizer import ChatTokenizer
from app.core.egress.ip_policy import PrivateHosts
from app.core.egress.json_client import ChatServer
from app.core.retry import RetryPolicy
from app.core.spec.job import TrainerSpec
from app.core.spec.subprocess_environment import TEACHER_API_KEY
from worker.training.batching import DataOrder
from worker.training.distributed import Ranks
from worker.training.interfaces import Reporter, TeacherAnswerSource
from worker.training.model import Policy
from worker.training.teachers.answers import TeacherAnswerCache
from worker.training.teachers.budget import BudgetLedger
from worker.training.teachers.local_model import LocalTeacher
from worker.training.teachers.prefetch import CONCURRENT_REQUESTS, TeacherPrefetcher
from worker.training.teachers.server import TeacherServer

RETRY_POLICY: Final = RetryPolicy(attempts=6, longest_wait_seconds=60.0)
TIMEOUT_SECONDS: Final = 300.0
"""Per request, including the whole answer: reasoning models take minutes."""


@contextmanager
def open_teachers(
    trainer_spec: TrainerSpec,
    order: DataOrder,
    total_steps: int,
    policy: Policy,
    tokenizer: ChatTokenizer,
    ranks: Ranks,
    report: Reporter,
    retry_policy: RetryPolicy | None = None,
) -> Iterator[TeacherAnswerSource | None]:
    """Yields the source of teacher answers for a run over `order`; None for a job without a teacher."""
    teacher = trainer_spec.spec.teacher
    if teacher is None:
        yield None
        return
    cache = TeacherAnswerCache(trainer_spec, tokenizer, report)
    if trainer_spec.teacher_url is None:
        yield LocalTeacher(trainer_spec, teacher, cache, policy, order, total_steps, ranks)
        return
    host = urlsplit(trainer_spec.teacher_url).hostname or ""
    # A server that the operator configured may be in a private network.
    allowed = (host,) if trainer_spec.teacher_is_operators else trainer_spec.allowed_private_hosts
    sampling = teacher.sampling or trainer_spec.spec.settings.sampling
    with ChatServer(
        trainer_spec.teacher_url,
        os.environ.get(TEACHER_API_KEY),
        PrivateHosts.parse(allowed),
        server_name="the teacher",
        retry_policy=retry_policy or RETRY_POLICY,
        timeout_seconds=TIMEOUT_SECONDS,
        max_connections=CONCURRENT_REQUESTS,
    ) as chat:
        server = TeacherServer(chat, teacher.model, sampling, tokenizer.count)
        ledger = BudgetLedger(teacher.budget, trainer_spec.teacher_spent)
        prefetcher = TeacherPrefetcher(
            cache, server, ledger, order, total_steps, trainer_spec.spec.group, sampling, is_first_rank=ranks.rank == 0
        )
        try:
            yield prefetcher
        finally:
            prefetcher.close()
