"""The hardware that a worker trains on, as the worker reports it, and data sheet values of GPUs. No detection here."""

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from app.core.spec.frozen import Frozen

_Count = Annotated[int, Field(ge=1)]
_Bytes = Annotated[int, Field(gt=0)]


class Hardware(Frozen):
    """One worker's share of a machine."""

    accelerator: str | None = None
    """Name of the GPUs; None when the worker trains on the CPU."""
    accelerators: Annotated[int, Field(ge=0)] = 0
    accelerator_memory_bytes: _Bytes | None = None
    """Memory of the smallest GPU."""
    processor: str = "CPU"
    cores: _Count = 1
    """Cores that this process may use."""
    threads: _Count = 1
    """Threads of a trainer on the CPU."""
    processes: _Count = 1
    """Processes that train one job together, one per GPU."""
    memory_bytes: _Bytes
    """Memory of the machine or of the container, whichever is less."""

    @property
    def device(self) -> str:
        """A name shared by all hardware with equal speed: `NVIDIA L4`, `2 x NVIDIA L4`, `AMD EPYC, 2 threads`."""
        if self.accelerator is None:
            return f"{self.processor}, {self.threads} thread{'s' * (self.threads != 1)}"
        return self.accelerator if self.processes == 1 else f"{self.processes} x {self.accelerator}"

    @property
    def gpus(self) -> int:
        """The most processes that a job may request: one per GPU, or without GPUs those that the operator allows."""
        return self.accelerators or self.processes

    def giving(self, processes: int) -> "Hardware":
        """Return this hardware with another number of processes for a job."""
        return self.model_copy(update={"processes": processes})

    @property
    def trainer_memory_bytes(self) -> int:
        """Memory available to one trainer process."""
        return self.accelerator_memory_bytes or self.memory_bytes


@dataclass(frozen=True)
class DataSheet:
    """Peak rates of one device."""

    flops: float
    """Dense bf16 multiply-adds per second, without sparsity."""
    bytes_per_second: float
    """Memory bandwidth."""


DATA_SHEETS: Final = {
    "B200": DataSheet(2.25e15, 8.0e12),
    "GH200": DataSheet(989e12, 4.0e12),
    "H200": DataSheet(989e12, 4.8e12),
    "H100 PCIe": DataSheet(756e12, 2.0e12),
    "H100": DataSheet(989e12, 3.35e12),
    "A100": DataSheet(312e12, 2.0e12),
    "L40S": DataSheet(362e12, 0.864e12),
    "L4": DataSheet(121e12, 0.3e12),
    "A10G": DataSheet(70e12, 0.6e12),
    "RTX 4090": DataSheet(165e12, 1.0e12),
}
"""By a part of the device's name, from NVIDIA's data sheets; the first match counts."""


def data_sheet(accelerator: str) -> DataSheet | None:
    """Return the peak rates of a GPU, or None if its data sheet is unknown."""
    return next((sheet for part, sheet in DATA_SHEETS.items() if part in accelerator), None)
