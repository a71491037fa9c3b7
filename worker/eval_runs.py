"""Runs evals, one at a time, each under a claim: samples the answer of every pending row and grades it.

Finished rows are stored at least twice a second, with the sums of their run, so a killed worker loses at most the
answers in flight.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import structlog

from app.core.accounts.projects import get_project
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, GrouptuneError, InvalidRequest
from app.core.evals import claims, prompts, records
from app.core.evals.claims import EvalClaim
from app.core.evals.rows import SourceRow
from app.core.evals.services import external_services
from app.core.evals.tables import EvalRow
from app.core.graders.run import Grade, GraderPool, Toolbox
from app.core.graders.types import Sample
from app.core.plurals import plural
from app.core.prometheus import EVAL_RUNS
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.spec.evals import CriterionResult, ModelUsage, RowError, RowOutcome, RowSample, RowStatus
from app.core.spec.graders import BaseGrader
from app.core.storage.blobs import BlobStore, StorageUnavailable
from worker.claim_keeper import CLAIM_SECONDS, TakenOver
from worker.eval_samplers import NoAnswer, Sampled, Sampler, opened
from worker.process_control import Drain

log = structlog.get_logger(__name__)

AT_ONCE: Final = 16
"""Most rows in progress; fewer if the project may have fewer inference requests in flight."""
STORE_SECONDS: Final = 0.5
RENEW_SECONDS: Final = 2.0
"""How often a claim is renewed, and a cancellation is noticed, while no row finishes."""
OUTAGE_ROWS: Final = 8
"""A run fails after this number of rows in a row without a result because of an outage: each takes up to minutes of
retries, and other runs wait."""
_PAGE: Final = 64
_OUTAGE_SECONDS: Final = 30.0
"""Wait after an outage of the blob store."""


class _Draining(Exception):
    """The worker shuts down."""


class EvalAttempt:
    """One attempt of a claimed run."""

    def __init__(
        self, database: Database, store: BlobStore, settings: Settings, ring: KeyRing, claim: EvalClaim, drain: Drain
    ) -> None:
        self._database, self._store, self._settings, self._ring = database, store, settings, ring
        self._claim, self._drain = claim, drain
        self._criteria = records.read_criteria(claim.criteria)
        self._stored_at = time.monotonic()
        self._outages = list[str]()
        """Why the latest rows have no result, since the last row that had one."""

    def run(self) -> None:
        """Finish the pending rows and end the run. Raises `DatabaseUnavailable`: then the claim expires."""
        try:
            asyncio.run(self._work())
            outcome = self._complete()
        except TakenOver:
            outcome = "taken_over"
        except _Draining:
            outcome = self._hand_back(0.0)
        except DatabaseUnavailable:
            raise
        except StorageUnavailable as error:
            log.warning("eval_run.storage_unavailable", error=error.message)
            outcome = self._hand_back(_OUTAGE_SECONDS)
        except GrouptuneError as error:
            outcome = self._fail(error)
        # The boundary of an attempt: any other error counts as a crash of the run.
        except Exception as error:
            log.exception("eval_run.crashed")
            outcome = self._crash(f"the worker failed with {type(error).__name__}: {error}")
        EVAL_RUNS.labels(outcome).inc()
        log.info("eval_run.ended", outcome=outcome)

    async def _work(self) -> None:
        at_once = self._at_once()
        source = opened(self._database, self._store, self._settings, self._ring, self._claim, at_once)
        async with source as sampler:
            with ExitStack() as stack:
                tools = stack.enter_context(Toolbox(external_services(self._settings)))
                pools = [stack.enter_context(GraderPool(each, tools=tools)) for each in self._criteria]
                await self._finish_rows(sampler, pools, at_once)

    def _at_once(self) -> int:
        with self._database.reading() as session:
            own = get_project(session, self._claim.project_id).max_inference_requests
        limit = self._settings.max_inference_requests if own is None else own
        return max(1, min(AT_ONCE, limit))

    async def _finish_rows(self, sampler: Sampler | None, pools: Sequence[GraderPool], at_once: int) -> None:
        pending: set[asyncio.Task[RowOutcome]] = set()
        waiting, last, is_read = list[EvalRow](), 0, False
        finished = list[RowOutcome]()
        try:
            while True:
                while len(pending) < at_once and (waiting or not is_read):
                    if not waiting:
                        waiting = await asyncio.to_thread(self._page, last)
                        is_read = len(waiting) < _PAGE
                        continue
                    row = waiting.pop(0)
                    last = row.number
                    pending.add(asyncio.create_task(self._finish(row, sampler, pools)))
                if not pending:
                    break
                done, pending = await asyncio.wait(pending, timeout=STORE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                finished += [task.result() for task in done]
                is_over = len(self._outages) >= OUTAGE_ROWS
                finished = await self._stored(finished, sampler, now=is_over)
                if self._drain.begun:
                    raise _Draining
                if is_over:
                    raise _outage(self._outages)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        await self._stored(finished, sampler, now=True)

    def _page(self, after: int) -> list[EvalRow]:
        with self._database.reading() as session:
            return claims.pending(session, self._claim.run_id, after, _PAGE)

    async def _stored(
        self, finished: list[RowOutcome], sampler: Sampler | None, *, now: bool = False
    ) -> list[RowOutcome]:
        """Store the finished rows if that is due; return those that are not stored. Raises `TakenOver`."""
        waited = time.monotonic() - self._stored_at
        if not now and not self._drain.begun and waited < (STORE_SECONDS if finished else RENEW_SECONDS):
            return finished
        await asyncio.to_thread(self._store_rows, finished, None if sampler is None else sampler.counted_model)
        self._stored_at = time.monotonic()
        return []

    def _store_rows(self, finished: list[RowOutcome], counted_model: str | None) -> None:
        with self._database.transaction() as session:
            claim = claims.store(session, self._claim, finished, CLAIM_SECONDS)
            if claim is None:
                raise TakenOver
            if counted_model is not None:
                claims.count_usage(session, claim, counted_model, finished)
        self._claim = claim

    async def _finish(self, row: EvalRow, sampler: Sampler | None, pools: Sequence[GraderPool]) -> RowOutcome:
        """Return the row's result. A failure is a result of this row alone, except for outages of this installation."""
        source = SourceRow(f"Row {row.number}", "", row.item, row.given)
        spec = self._claim.sampler
        if sampler is None or spec is None:
            stored = source.sample()
            shown = RowSample() if stored is None else RowSample(output=(_message(stored),), finish_reason="stop")
            return await self._graded(row, stored or Sample(output_text=""), shown, pools)
        sent: tuple[dict[str, object], ...] = ()
        try:
            prompt = prompts.prompt_of(spec, source)
            sent = tuple(prompt.messages)
            answer = await sampler.sample(prompt)
        except (NoAnswer, InvalidRequest) as error:
            self._note(error.message if isinstance(error, NoAnswer) and error.is_outage else None)
            failure = RowError(code=error.code or "sampler_error", message=error.message)
            shown = RowSample(model=spec.model, input=sent, error=failure)
            return RowOutcome(number=row.number, status=RowStatus.error, sample=shown)
        return await self._graded(row, answer.sample, _shown(answer, sent), pools)

    async def _graded(self, row: EvalRow, sample: Sample, shown: RowSample, pools: Sequence[GraderPool]) -> RowOutcome:
        futures = [asyncio.wrap_future(pool.submit([(sample, row.item)])[0]) for pool in pools]
        grades = [grades[0] for grades in await asyncio.gather(*futures)]
        self._note(next((grade.error for grade in grades if grade.is_transient), None))
        results = tuple(_result(grader, grade) for grader, grade in zip(self._criteria, grades, strict=True))
        usage = {shown.model: shown.usage} if shown.usage.invocation_count else {}
        for grade in grades:
            for model, used in grade.usage.items():
                judge = ModelUsage(invocation_count=1, **used.model_dump())
                usage[model] = usage.get(model, ModelUsage()) + judge
        return RowOutcome(number=row.number, status=_status(results), sample=shown, results=results, usage=usage)

    def _note(self, outage: str | None) -> None:
        """Store why a row has no result, if that is an outage; None for any other row."""
        self._outages = [] if outage is None else [*self._outages, outage]

    def _complete(self) -> str:
        with self._database.transaction() as session:
            return "completed" if claims.complete(session, self._claim) else "taken_over"

    def _fail(self, error: GrouptuneError) -> str:
        log.warning("eval_run.failed", code=error.code, reason=error.message)
        with self._database.transaction() as session:
            held = claims.fail(session, self._claim, error.code or "eval_run_failed", error.message)
        return "failed" if held else "taken_over"

    def _crash(self, reason: str) -> str:
        with self._database.transaction() as session:
            return "crashed" if claims.retry_or_fail(session, self._claim, reason) else "taken_over"

    def _hand_back(self, seconds: float) -> str:
        with self._database.transaction() as session:
            return "handed_back" if claims.hand_back(session, self._claim, seconds) else "taken_over"


def _outage(reasons: Sequence[str]) -> GrouptuneError:
    message = (
        f"{plural(len(reasons), 'row')} in a row have no result, after retries: {reasons[-1].rstrip('.')}. The other "
        "rows were not tried. Create the run again when the server is available."
    )
    return GrouptuneError(message, code="eval_run_outage")


def _message(sample: Sample) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": sample.output_text}
    if sample.output_reasoning:
        message["reasoning_content"] = sample.output_reasoning
    if sample.output_tools:
        message["tool_calls"] = list(sample.output_tools)
    return message


def _shown(answer: Sampled, sent: tuple[dict[str, object], ...]) -> RowSample:
    return RowSample(
        model=answer.model,
        input=sent,
        output=(_message(answer.sample),),
        finish_reason=answer.finish_reason,
        usage=answer.usage,
    )


def _result(grader: BaseGrader, grade: Grade) -> CriterionResult:
    return CriterionResult(
        name=str(getattr(grader, "name", "")),
        type=str(getattr(grader, "type", "")),
        passed=grade.passed,
        score=grade.reward,
        error=grade.error,
    )


def _status(results: Sequence[CriterionResult]) -> RowStatus:
    if any(result.score is None for result in results):
        return RowStatus.error
    return RowStatus.passed if all(result.passed for result in results) else RowStatus.failed


def run_one(database: Database, store: BlobStore, settings: Settings, ring: KeyRing, drain: Drain) -> bool:
    """Run the oldest run that is due; return False if there is none. Raises `DatabaseUnavailable`."""
    with database.transaction() as session:
        claim = claims.claim_next(session, CLAIM_SECONDS)
    if claim is None:
        return False
    with structlog.contextvars.bound_contextvars(eval_run=claim.run_id, attempt=claim.attempt):
        EvalAttempt(database, store, settings, ring, claim, drain).run()
    return True
