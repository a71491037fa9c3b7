"""Bodies of `/v1/files/{id}/preview`."""

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field

from app.core.chat.preview import Distribution, RowLength, ShownRow, Source, Span
from app.core.spec.described import Described


class TokenSpan(Described):
    """A prompt, or one response to it, token by token."""

    source: Source
    """Where the text comes from: the prompt, the row's demonstration, a teacher, or a preference pair."""
    model: str | None = Field(description="The teacher model of a response, if the row names it.")
    tokens: int = Field(description="Number of tokens; the lists below end after 4,096.")
    fits: bool = Field(
        description="Whether the prompt, or a response together with its prompt, fits `max_length`. Training leaves "
        "out what does not."
    )
    ids: list[int]
    """Token ids in the model's vocabulary."""
    texts: list[str] = Field(
        description="The text of each token; together they are the rendered text. A character that spans several "
        "tokens belongs to the first one."
    )
    mask: list[Literal[0, 1]] = Field(description="The loss mask: 1 for tokens that are trained on.")

    @classmethod
    def of(cls, span: Span) -> "TokenSpan":
        """Return the wire form."""
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


class PreviewRow(Described):
    """One row as the model reads it."""

    line: int = Field(description="Line of the file, from 1; for a Parquet file, the row.")
    spans: list[TokenSpan] = Field(
        description="The prompt, then each response; in a conversation, each trained answer after its context."
    )
    error: str | None = Field(description="Why the row cannot be rendered; `spans` is empty then.")

    @classmethod
    def of(cls, row: ShownRow) -> "PreviewRow":
        """Return the wire form."""
        return cls.model_construct(line=row.line, spans=[TokenSpan.of(span) for span in row.spans], error=row.error)


class TokenBin(Described):
    """One bar of a histogram."""

    model_config = ConfigDict(from_attributes=True)

    start: int
    """Smallest number of tokens of this bar."""
    end: int = Field(description="Exclusive.")
    count: int
    """Number of texts in this bar."""


class TokenDistribution(Described):
    """Statistics and a histogram of token counts."""

    model_config = ConfigDict(from_attributes=True)

    count: int = Field(description="Number of measured texts.")
    total: int
    """Tokens of all measured texts."""
    min: int
    """Tokens of the shortest text."""
    median: int
    """Tokens of the median text."""
    p95: int
    """95 % of the texts have at most this many tokens."""
    max: int
    """Tokens of the longest text."""
    bins: list[TokenBin] = Field(description="Bars of equal width, from 0.")


class LongLine(Described):
    """A row that exceeds the limit."""

    line: int
    """Line of the file, from 1; for a Parquet file, the row."""
    tokens: int
    """Tokens of the prompt with its longest response."""


class TokenLengths(Described):
    """Token lengths of the rows for this model."""

    measured_rows: int = Field(description="All rows of a small file; of a large one, at most 1,024 from all over it.")
    rows: int = Field(description="Number of rows in the file.")
    row: TokenDistribution | None = Field(description="Lengths of the prompt with its longest response.")
    prompt: TokenDistribution | None
    """Lengths of the prompts; null if no row was measured."""
    response: TokenDistribution | None = Field(description="Lengths of the single responses.")
    too_long: int = Field(description="Number of measured rows over `max_length`.")
    longest_too_long: list[LongLine] = Field(
        description="Rows over `max_length` among the file's 32 longest rows by characters; longest first."
    )

    @classmethod
    def of(
        cls, measured: Sequence[RowLength], over: Sequence[RowLength], total_rows: int, max_length: int
    ) -> "TokenLengths":
        """Build the statistics from measured rows and from the longest rows that exceed the limit."""

        def distribution(values: list[int]) -> TokenDistribution | None:
            statistics = Distribution.of(values)
            return None if statistics is None else TokenDistribution.model_validate(statistics)

        return cls(
            measured_rows=len(measured),
            rows=total_rows,
            row=distribution([row.total for row in measured]),
            prompt=distribution([row.prompt for row in measured]),
            response=distribution([answer for row in measured for answer in row.answers]),
            too_long=sum(row.total > max_length for row in measured),
            longest_too_long=[LongLine(line=row.line, tokens=row.total) for row in over],
        )


class FilePreview(Described):
    """Rows of a file as a model reads them."""

    object: Literal["file.preview"] = "file.preview"
    file_id: str
    """The file."""
    model: str = Field(description="The base model whose tokenizer and chat template render the rows.")
    max_length: int = Field(
        description="Maximum number of tokens of a row: the requested limit, or the model's own if that is smaller."
    )
    data: list[PreviewRow]
    """The rows of this page."""
    has_more: bool = Field(description="If true, send the last `line` as `after` to get the next rows.")
    lengths: TokenLengths | None = Field(description="Only in the first page.")
