"""Table of inference usage."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class InferenceUsage(Base):
    """Requests and tokens of one key and model in a minute, or in an hour once they are old (`usage.merge_old`).

    No foreign keys: usage outlives the models, and an insert must not wait for the rows that it names.
    """

    __tablename__ = "inference_usage"

    start: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    """Start of the minute or hour (UTC)."""
    project_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The project that asked. It may use a model that another project shares with it."""
    key_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    model: Mapped[str] = mapped_column(String(255), primary_key=True)
    """Id of the model that answered: aliases are resolved."""
    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_inference_usage_project", "project_id", "start"),)
