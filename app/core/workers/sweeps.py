"""The schedule of the sweeps: all workers share it, and the first one that claims a due sweep runs it.

No worker leads, so none has to be replaced when it is lost. Times are the database's.
"""

from typing import Final

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.workers.tables import Sweep

_NOW: Final = func.clock_timestamp()


def seconds_until_due(session: Session, name: str, every_seconds: float) -> float:
    """Return the wait until the next run, 0 if the sweep is due."""
    elapsed = func.extract("epoch", _NOW - Sweep.started_at)
    since = session.scalar(select(elapsed).where(Sweep.name == name))
    # A run in the future means that the database's clock was set back.
    return 0.0 if since is None or since < 0 else max(0.0, every_seconds - float(since))


def claim(session: Session, name: str, every_seconds: float, worker: str) -> bool:
    """Claim a run of the sweep if it is due. Only one of several concurrent callers gets True."""
    values = {"started_at": _NOW, "worker": worker}
    statement = (
        insert(Sweep)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=[Sweep.name],
            set_=values,
            where=or_(
                Sweep.started_at <= _NOW - func.make_interval(0, 0, 0, 0, 0, 0, every_seconds), Sweep.started_at > _NOW
            ),
        )
        .returning(Sweep.name)
    )
    return session.scalar(statement) is not None
