"""How pytest-xdist hands out files, so that tests which wait and tests which compute run at the same time."""

from typing import Final

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

_FROM_THE_FRONT: Final = 3
"""Processes that begin with the files that share an installation. More would start more installations."""


class FromBothEnds(LoadFileScheduling):  # type: ignore[misc] # untyped
    """Three processes take the files in order, all others from the last one back.

    Tests of a whole installation come first and mostly wait; the last ones only compute.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.nodes.index(node) >= _FROM_THE_FRONT:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
