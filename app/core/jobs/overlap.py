"""What a job's training file and its held-out file have in common, by the hashes that their validation kept."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.files.duplicates import PromptIndex
from app.core.files.tables import File

_SHOWN: Final = 5


@dataclass(frozen=True)
class Overlap:
    """Held-out rows whose prompt is trained on."""

    held_out_rows: int
    shared: tuple[tuple[int, int], ...]
    """A line of the held-out file and the first one of the training file with its prompt."""

    def __str__(self) -> str:
        places = ", ".join(f"line {line} is line {there} there" for line, there in self.shared[:_SHOWN])
        more = ", ..." if len(self.shared) > _SHOWN else ""
        return (
            f"{len(self.shared):,} of {self.held_out_rows:,} held-out rows have a prompt that the training file has "
            f"too ({places}{more}): results on them look better than they are. Drop them from one of the files."
        )


def find_overlap(session: Session, training_file: str, validation_file: str | None) -> Overlap | None:
    """None when they share no prompt, and while one of them has no index: it is not validated yet, or was before."""
    if validation_file is None:
        return None
    files = select(File.id, File.prompts).where(File.id.in_([training_file, validation_file]))
    indices = {row.id: PromptIndex.from_bytes(row.prompts) for row in session.execute(files) if row.prompts}
    training, held_out = indices.get(training_file), indices.get(validation_file)
    if training is None or held_out is None:
        return None
    shared = held_out.shared_with(training)
    return Overlap(len(held_out), tuple(shared)) if shared else None
