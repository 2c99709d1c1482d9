"""The chunker: nothing lost, nothing too long, good borders, always the same."""

# ruff: noqa: RUF001 (texts in many scripts and with real typography are what is tested)
from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localhyper import chunking
from localhyper.chunking import borders, cut_document, split_document
from localhyper.errors import Cancelled, ContextError
from localhyper.progress import CancelToken
from localhyper.sources.document import Document


def make_document(text: str) -> Document:
    return Document("test", text, "text", hashlib.sha256(text.encode()).hexdigest())


def byte_tokenize(text: str) -> NDArray[np.int32]:
    """One token a byte: a character may take four."""
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int32)


def byte_detokenize(ids: Sequence[int] | NDArray[np.int32]) -> str:
    return bytes(int(one) for one in ids).decode("utf-8", "replace")


def pair_tokenize(text: str) -> NDArray[np.int32]:
    """Pairs of characters counted from the start, so that joining texts changes tokens at the seam."""
    return np.array([hash(text[index : index + 2]) % 1000 for index in range(0, len(text), 2)], dtype=np.int32)


def prefix_tokenize(text: str) -> NDArray[np.int32]:
    """A token for each word and one put before the text, as SentencePiece does."""
    return np.arange(len(text.split(" ")) + 1, dtype=np.int32)


def greedy_tokenize(text: str) -> NDArray[np.int32]:
    """A tokenizer whose whole can be longer than its parts: vowels cost two when a consonant stands before them."""
    costs = [
        2 if index and letter in "aeiou" and text[index - 1] not in "aeiou" else 1 for index, letter in enumerate(text)
    ]
    return np.arange(sum(costs), dtype=np.int32)


def no_detokenize(ids: Sequence[int] | NDArray[np.int32]) -> str:
    return "?" * len(ids)


TEXTS = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="ab .!?\n", max_size=400),
    st.text(alphabet="日本語。！ \n", max_size=200),
    st.lists(
        st.sampled_from(["One two. ", "Dr. No came! ", "\n\n", "x" * 70, "é", "\u0301", "🏽", "a, b; c\n"]), max_size=60
    ).map("".join),
)
TOKENIZERS = [
    (byte_tokenize, byte_detokenize),
    (pair_tokenize, no_detokenize),
    (prefix_tokenize, no_detokenize),
    (greedy_tokenize, no_detokenize),
]


@pytest.mark.parametrize(("tokenize", "detokenize"), TOKENIZERS)
@given(text=TEXTS, max_tokens=st.integers(4, 60))
@settings(max_examples=60, deadline=None)
def test_chunks_cover_the_text_within_the_bound(tokenize, detokenize, text: str, max_tokens: int) -> None:  # type: ignore[no-untyped-def]
    chunks = split_document(make_document(text), tokenize, detokenize, max_tokens)
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    end = 0
    for chunk in chunks:
        assert chunk.start == end < chunk.end
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.token_ids.dtype == np.int32
        assert chunk.token_ids.tolist() == tokenize(chunk.text).tolist()
        assert len(chunk.token_ids) <= max_tokens
        end = chunk.end
    assert end == len(text)


@given(text=TEXTS)
@settings(max_examples=30, deadline=None)
def test_the_same_text_gives_the_same_chunks(text: str) -> None:
    one = split_document(make_document(text), byte_tokenize, byte_detokenize, 40)
    other = split_document(make_document(text), byte_tokenize, byte_detokenize, 40)
    assert [(chunk.start, chunk.end) for chunk in one] == [(chunk.start, chunk.end) for chunk in other]


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end, _ in borders(text)]


@pytest.mark.parametrize(
    "parts",
    [
        ["It rained. ", "We went home! ", "Why? ", "Nobody knew."],
        ["Dr. Smith met Mr. J. R. Jones at 5 p.m. in St. Ives. ", "They talked, e.g. about Fig. 3 and No. 7."],
        ["He said no. ", "She left."],
        ["Das gilt z.B. am 3. Mai. ", "Danach nicht."],
        ["Pi is 3.14 and version 2.0 is out. ", "See example.com for more."],
        ["吾輩は猫である。", "名前はまだ無い。", "「本当？」", "うん！"],
        ["هل تسمعني؟ ", "نعم."],
        ["“Come here!” ", "He ran."],
        ["Wait... ", "What?! ", "Yes."],
        ["One paragraph\n\n", "another"],
        ["a | b\n", "c | d\n", "e | f"],
    ],
)
def test_sentence_borders(parts: list[str]) -> None:
    assert sentences("".join(parts)) == parts


def test_a_small_letter_after_a_stop_goes_on() -> None:
    assert sentences("the u.s. economy grew approx. two percent.") == ["the u.s. economy grew approx. two percent."]


def test_chunks_end_with_sentences_when_they_fit() -> None:
    text = " ".join(f"This is sentence number {number} of the text." for number in range(200))
    chunks = split_document(make_document(text), byte_tokenize, byte_detokenize, 256)
    assert all(chunk.text.rstrip().endswith("of the text.") for chunk in chunks)
    assert all(len(chunk.token_ids) > 200 for chunk in chunks[:-2])


def test_a_paragraph_border_is_worth_some_room() -> None:
    first = "A short sentence stands here. " * 6
    text = first.strip() + "\n\n" + "Another one follows it there. " * 10
    chunks = split_document(make_document(text), byte_tokenize, byte_detokenize, 240)
    assert chunks[0].text == first.strip() + "\n\n"


@pytest.mark.parametrize("extra", [1, 5, 20, 100])
def test_the_last_chunk_is_not_tiny(extra: int) -> None:
    text = "Four words stand here. " * 33 + "x" * extra
    chunks = split_document(make_document(text), byte_tokenize, byte_detokenize, 256)
    assert min(len(chunk.token_ids) for chunk in chunks) >= 90


@pytest.mark.parametrize("run", ["x" * 5000, "日" * 2000, "é" * 3000, "🙂" * 1000, "ab " * 2000, "." * 5000])
def test_long_runs_without_borders_fill_their_chunks(run: str) -> None:
    chunks = split_document(make_document(run), byte_tokenize, byte_detokenize, 256)
    assert "".join(chunk.text for chunk in chunks) == run
    assert np.mean([len(chunk.token_ids) for chunk in chunks[:-2]]) > 0.8 * 256


def test_words_of_a_long_sentence_stay_whole() -> None:
    text = "word " * 2000
    chunks = split_document(make_document(text), byte_tokenize, byte_detokenize, 256)
    assert all(chunk.text.endswith(" ") for chunk in chunks)


def test_accents_stay_on_their_letter() -> None:
    chunks = split_document(make_document("e\u0301" * 2000), byte_tokenize, byte_detokenize, 64)
    assert all(chunk.text.startswith("e") for chunk in chunks)


def test_no_long_string_is_ever_tokenized() -> None:
    longest = 0

    def watch(text: str) -> NDArray[np.int32]:
        nonlocal longest
        longest = max(longest, len(text))
        return byte_tokenize(text)

    split_document(make_document("x" * 100_000 + ". " + "y z " * 50_000), watch, byte_detokenize, 64)
    assert longest <= 64 * 8


def test_tokenized_text_grows_with_length_only() -> None:
    def work(repeats: int) -> int:
        total = 0

        def count(text: str) -> NDArray[np.int32]:
            nonlocal total
            total += len(text)
            return byte_tokenize(text)

        split_document(make_document("Some words make a sentence. " * repeats), count, byte_detokenize, 128)
        return total

    assert work(2000) < 2.2 * work(1000)


def test_short_and_empty_texts() -> None:
    assert split_document(make_document(""), byte_tokenize, byte_detokenize) == []
    (only,) = split_document(make_document("Hello there."), byte_tokenize, byte_detokenize)
    assert (only.text, only.start, only.end) == ("Hello there.", 0, 12)


def test_a_character_that_cannot_fit_is_a_clear_error() -> None:
    with pytest.raises(ContextError, match="takes 4 tokens, a chunk has at most 3"):
        split_document(make_document("🙂"), byte_tokenize, byte_detokenize, 3)
    with pytest.raises(ContextError, match="at least one token"):
        split_document(make_document("x"), byte_tokenize, byte_detokenize, 0)


def test_cancelling_stops() -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        split_document(make_document("One. Two."), byte_tokenize, byte_detokenize, cancel=cancel)


@pytest.mark.parametrize(("most", "size"), [(20, 50), (8, 100), (4, 200), (1, 200)])
def test_a_document_of_too_many_chunks_gets_larger_ones(monkeypatch: pytest.MonkeyPatch, most: int, size: int) -> None:
    monkeypatch.setattr(chunking, "MOST_CHUNKS", most)
    text = " ".join(f"w{number}." for number in range(100))
    cut = cut_document(make_document(text), byte_tokenize, byte_detokenize, (50, 100, 200))
    assert cut.size == size and max(len(chunk.token_ids) for chunk in cut.chunks) <= size
    assert len(cut.chunks) <= most or list(cut.summed) == cut.chunks


@pytest.mark.parametrize(("words", "summed"), [(9, 1), (38, 1), (60, 2), (120, 4)])
def test_parts_of_chunks_answer(words: int, summed: int) -> None:
    text = " ".join(f"w{number}." for number in range(words))
    cut = cut_document(make_document(text), byte_tokenize, byte_detokenize, (50, 100, 200))
    assert (len(cut.summed), cut.size) == (summed, 50)
    assert [chunk.index for chunk in cut.chunks] == list(range(len(cut.chunks)))
    for chunk, parts in zip(cut.summed, cut.answering, strict=True):
        assert "".join(part.text for part in parts) == chunk.text == text[chunk.start : chunk.end]
        assert all(text[part.start : part.end] == part.text and len(part.token_ids) <= 50 for part in parts)


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_nothing_is_lost_whatever_the_sizes(text: str) -> None:
    cut = cut_document(make_document(text), byte_tokenize, byte_detokenize, (16, 32, 64))
    assert "".join(chunk.text for chunk in cut.summed) == "".join(chunk.text for chunk in cut.chunks) == text
