"""`GET /v1/files/{id}/preview` on the wire."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.core.chat.preview import Distribution, RowLength, ShownRow, Span

Source = Literal["prompt", "expert", "teacher"]


class TokenSpan(BaseModel):
    """A prompt, or one response to it, token by token."""

    source: Source
    model: str | None = Field(description="Who wrote a teacher's response, where the row says so.")
    tokens: int = Field(description="How many there are; of more than 4,096 the rest is not shown.")
    fits: bool = Field(description="Within `max_length`, a response together with its prompt; else training drops it.")
    ids: list[int]
    texts: list[str] = Field(
        description="What each token adds; together the rendered text. A character of several tokens is the first's."
    )
    mask: list[Literal[0, 1]] = Field(description="The loss mask: 1 where a token is trained on.")

    @classmethod
    def of(cls, span: Span) -> "TokenSpan":
        """The wire form."""
        shown = span.piece
        return cls.model_construct(
            source=span.source,
            model=span.model,
            tokens=span.tokens,
            fits=span.fits,
            ids=list(shown.ids),
            texts=list(shown.texts),
            mask=[int(span.trained)] * len(shown.ids),
        )


class PreviewRow(BaseModel):
    """One row as the model reads it."""

    line: int = Field(description="Of the file, from 1; of a Parquet file the row.")
    spans: list[TokenSpan] = Field(description="The prompt, then each response.")
    error: str | None = Field(description="Why the row cannot be rendered; then there are no spans.")

    @classmethod
    def of(cls, row: ShownRow) -> "PreviewRow":
        """The wire form."""
        return cls.model_construct(line=row.line, spans=[TokenSpan.of(span) for span in row.spans], error=row.error)


class TokenBin(BaseModel):
    """A bar of a histogram."""

    model_config = ConfigDict(from_attributes=True)

    start: int
    end: int = Field(description="Exclusive.")
    count: int


class TokenDistribution(BaseModel):
    """Token counts as numbers and as a histogram."""

    model_config = ConfigDict(from_attributes=True)

    count: int = Field(description="How many were measured.")
    total: int
    min: int
    median: int
    p95: int
    max: int
    bins: list[TokenBin] = Field(description="Of equal width, from 0 on.")


class LongLine(BaseModel):
    """A row over the limit."""

    line: int
    tokens: int


class TokenLengths(BaseModel):
    """How long the rows are for this model."""

    measured_rows: int = Field(description="All rows of a small file, at most 1,024 from all over a large one.")
    rows: int = Field(description="Of the file.")
    row: TokenDistribution | None = Field(description="Prompt with its longest response.")
    prompt: TokenDistribution | None
    response: TokenDistribution | None = Field(description="Each response by itself.")
    too_long: int = Field(description="Measured rows over `max_length`.")
    longest_too_long: list[LongLine] = Field(
        description="Those of the file's 32 longest rows, by characters, that are over `max_length`; longest first."
    )

    @classmethod
    def of(cls, found: Sequence[RowLength], over: Sequence[RowLength], rows: int, max_length: int) -> "TokenLengths":
        """From measured rows and those of the file's longest ones that are over the limit."""

        def distribution(values: list[int]) -> TokenDistribution | None:
            made = Distribution.of(values)
            return None if made is None else TokenDistribution.model_validate(made)

        return cls(
            measured_rows=len(found),
            rows=rows,
            row=distribution([one.total for one in found]),
            prompt=distribution([one.prompt for one in found]),
            response=distribution([answer for one in found for answer in one.answers]),
            too_long=sum(one.total > max_length for one in found),
            longest_too_long=[LongLine(line=one.line, tokens=one.total) for one in over],
        )


class FilePreview(BaseModel):
    """Rows of a file as a model reads them."""

    object: Literal["file.preview"] = "file.preview"
    file_id: str
    model: str = Field(description="The base model whose tokenizer and chat template render the rows.")
    max_length: int = Field(description="Tokens that a row may have: as asked, or the model's own limit.")
    data: list[PreviewRow]
    has_more: bool = Field(description="Send the last `line` as `after` for the next rows.")
    lengths: TokenLengths | None = Field(description="With the first page only.")
