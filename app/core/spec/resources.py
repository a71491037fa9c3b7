"""The workers that a job needs: GPUs of a worker, and the number of workers that train it together."""

from typing import Annotated, Final, Literal

from pydantic import Field

from app.core.spec.frozen import Frozen

MAX_GPUS: Final = 64
MAX_NODES: Final = 16


class Resources(Frozen):
    """The workers that a job needs."""

    gpus: Annotated[int, Field(ge=1, le=MAX_GPUS)] | Literal["auto"] = "auto"
    """GPUs of each worker, with one trainer process each; on a worker without GPUs, trainer processes. auto: as many as
    the worker gives to each job."""
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] = 1
    """Workers that train the job together."""

    @property
    def least_gpus(self) -> int:
        """GPUs that each worker must have."""
        return 1 if self.gpus == "auto" else self.gpus
