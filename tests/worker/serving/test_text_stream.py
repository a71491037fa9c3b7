"""Text of tokens, piece by piece, against the text of all tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from worker.serving.text_stream import TextStream

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_tokenizer() -> Tokenizer:
    """One token per byte: characters beyond ASCII take several."""
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(LETTERS)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def tokens_of(text: bytes) -> list[int]:
    """Return the token of each byte, also of bytes that are not UTF-8."""
    # GPT-2's alphabet writes the bytes without a printable character as U+0100 and up, in order.
    unprintable = [byte for byte in range(256) if not (33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255)]
    shifted = {byte: chr(256 + place) for place, byte in enumerate(unprintable)}
    return [LETTERS.index(shifted.get(byte, chr(byte))) for byte in text]


BYTES = byte_tokenizer()


def pieces(text: bytes, stop: tuple[str, ...] = (), prompt: str = "x") -> tuple[list[str], str | None]:
    stream = TextStream(BYTES, tokens_of(prompt.encode()), stop)
    found = []
    for token in tokens_of(text):
        found.append(stream.push(token))
        if stream.stopped_by is not None:
            return found, stream.stopped_by
    return [*found, stream.finish()], stream.stopped_by


def test_characters_are_never_split() -> None:
    found, _ = pieces("aé€😀z".encode())
    assert found == ["a", "", "é", "", "", "€", "", "", "", "😀", "z", ""]


def test_broken_character_is_replaced() -> None:
    found, _ = pieces(b"a\xff\xffbc\xe2")
    assert "".join(found) == b"a\xff\xffbc\xe2".decode(errors="replace")


@given(text=st.text(max_size=30), prompt=st.text(min_size=1, max_size=3))
def test_pieces_join_to_the_text(text: str, prompt: str) -> None:
    assert "".join(pieces(text.encode(), (), prompt)[0]) == text


@given(text=st.text("abc", max_size=24), stop=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_string_and_its_start_are_held_back(text: str, stop: list[str]) -> None:
    found, stopped_by = pieces(text.encode(), tuple(stop))
    ends = {text.find(each) + len(each) for each in stop if each in text}
    if not ends:
        assert ("".join(found), stopped_by) == (text, None)
        return
    seen = text[: min(ends)]  # the tokens up to the first one that completes a stop string
    assert "".join(found) == seen[: min(seen.index(each) for each in stop if each in seen)]
    assert stopped_by in stop


@pytest.mark.parametrize("stop", ["ab", "b", "bca"])
def test_text_behind_the_stop_is_dropped(stop: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({"ab": 0, "cab": 1, "x": 2}, unk_token="x"))  # noqa: S106 - a token
    tokenizer.decoder = decoders.Fuse()
    stream = TextStream(tokenizer, [2], (stop,))
    text = stream.push(0) + ("" if stream.stopped_by else stream.push(1))
    assert (text, stream.stopped_by) == ("abcab"[: "abcab".index(stop)], stop)
