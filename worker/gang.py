"""The further workers of an attempt, as the worker that leads it sees them."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import structlog

from app.core.db import Database
from app.core.errors import DatabaseUnavailable
from app.core.jobs import members
from app.core.jobs.leases import Claim
from app.core.jobs.members import Member
from app.core.settings import Settings
from worker.child_process import ChildProcess
from worker.process_control import ProcessControl
from worker.report_writer import retry_until_available

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
SECONDS_TO_END: Final = 15.0
"""A trainer that waits for a member that has ended is killed after this time: on a GPU it may wait for hours."""


class MemberEnded(Exception):
    """The trainer of a further worker ended before the attempt did."""

    def __init__(self, member: Member) -> None:
        super().__init__(f"The worker {member.worker} has ended its part of the attempt")
        self.member = member


class Gang:
    """The further workers of one attempt."""

    def __init__(self, database: Database, claim: Claim, settings: Settings, control: ProcessControl) -> None:
        self._database = database
        self._claim = claim
        self._settings = settings
        self._control = control

    def gather(self, step: int) -> str | None:
        """Wait until all members are ready to resume from `step`, publish where the trainers meet, and return it.

        Returns None after a stop request. Raises `MemberEnded`, `LostLease`, and `RuntimeError` for a member that
        resumes from another step.
        """
        while self._control.reason is None:
            found = retry_until_available(self._control, self._members)
            if (ended := _first_failure(found)) is not None:
                raise MemberEnded(ended)
            if all(member.ready_step is not None for member in found):
                if differing := [member for member in found if member.ready_step != step]:
                    raise RuntimeError(
                        f"The worker {differing[0].worker} would resume from step {differing[0].ready_step}, this one "
                        f"from step {step}: a checkpoint is damaged on one of them"
                    )
                return self._publish()
            self._control.pause_for(POLL_SECONDS)
        return None

    def _publish(self) -> str:
        endpoint = f"{own_address(self._settings)}:{self._settings.rendezvous_port or free_port()}"

        def publish() -> None:
            with self._database.transaction() as session:
                members.publish(session, self._claim, endpoint)

        retry_until_available(self._control, publish)
        log.info("gang.ready", endpoint=endpoint)
        return endpoint

    @contextmanager
    def watching(self, child: ChildProcess) -> Iterator[None]:
        """Kill `child`, the trainer of this worker, if a member fails during the block and it does not end itself."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(child, over), name="gang", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=POLL_SECONDS)

    def _watch(self, child: ChildProcess, over: threading.Event) -> None:
        while not over.wait(POLL_SECONDS):
            try:
                ended = _first_failure(self._members())
            except DatabaseUnavailable:
                continue
            if ended is not None:
                log.warning("gang.member_ended", worker=ended.worker)
                if not child.ends_within(SECONDS_TO_END):
                    child.kill()
                return

    def failed_member(self) -> Member | None:
        """Return the member that made this worker's trainer lose a connection; None if it was no member.

        Waits until the members have reported, which takes seconds. A member whose worker died reports nothing: raises
        `LostLease` once its lease has expired.
        """
        deadline = time.monotonic() + 2 * self._settings.lease_seconds
        while time.monotonic() < deadline and self._control.reason is None:
            found = retry_until_available(self._control, self._members)
            if own := [member for member in found if member.failed and not member.lost_peer]:
                return own[0]
            if all(member.end is not None for member in found):
                return None
            self._control.pause_for(POLL_SECONDS)
        return None

    def _members(self) -> list[Member]:
        with self._database.reading() as session:
            return members.members_of(session, self._claim)


def _first_failure(found: list[Member]) -> Member | None:
    """Return a member that failed for a reason of its own, else one that lost its connection to another worker."""
    failed = [member for member in found if member.failed]
    return min(failed, key=lambda member: member.lost_peer, default=None)


def own_address(settings: Settings) -> str:
    """Return the address at which other workers reach this one: the one from which it reaches the database."""
    if settings.node_address is not None:
        return settings.node_address
    parts = urlsplit(settings.database_url or "")
    if not parts.hostname:  # a Unix socket
        return "127.0.0.1"
    found = socket.getaddrinfo(parts.hostname, parts.port or 5432, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # chooses a route; sends nothing
        return str(probe.getsockname()[0])


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
