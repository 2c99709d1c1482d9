"""TextStream: characters cut by token borders, stop strings cut by piece borders."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from localhyper.text_stream import TextStream


def run(parts: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    shown = [stream.feed(part) for part in parts]
    return [*shown, stream.finish()], stream.stopped


def test_a_character_is_shown_only_whole() -> None:
    assert run([b"\xf0\x9f", b"\x98", b"\x80!"])[0] == ["", "", "\U0001f600!", ""]


def test_half_a_character_at_the_end_becomes_a_replacement() -> None:
    assert run([b"a\xc3"])[0] == ["a", "\ufffd"]


def test_a_stop_string_over_three_pieces_is_never_shown() -> None:
    assert run([b"hello ST", b"O", b"P there"], ("STOP",)) == (["hello ", "", "", ""], True)


def test_text_that_only_began_like_a_stop_string_comes_late() -> None:
    assert run([b"a S", b"T", b"x"], ("STOP",)) == (["a ", "", "STx", ""], False)


def test_held_text_comes_at_the_end() -> None:
    assert run([b"a ST"], ("STOP",)) == (["a ", "ST"], False)


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert run([b"one two three"], ("three", "two"))[0][0] == "one "


def test_empty_stop_strings_mean_nothing() -> None:
    assert run([b"abc"], ("",)) == (["abc", ""], False)


def test_a_single_space_at_the_start_is_left_out() -> None:
    assert run([b" Paris"])[0] == ["Paris", ""]
    assert run([b" ", b"7", b" km"])[0] == ["", "7", " km", ""]
    assert run([b" "])[0] == ["", ""]


def test_an_indented_start_stays() -> None:
    assert run([b"  ", b"return"])[0] == ["  ", "return", ""]
    assert run([b" ", b"\treturn"])[0] == ["", " \treturn", ""]


def test_of_two_stop_strings_the_one_complete_first_counts_however_the_text_is_cut() -> None:
    for parts in ([b"100"], [b"1", b"0", b"0"]):
        assert "".join(run(parts, ("0", "100"))[0]) == "1"


@given(
    st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.lists(st.integers(1, 5), min_size=1)
)
def test_any_cut_into_pieces_shows_the_same_text(text: str, stop: list[str], sizes: list[int]) -> None:
    data, at = text.encode(), 0
    parts: list[bytes] = []
    while at < len(data):
        size = sizes[len(parts) % len(sizes)]
        parts.append(data[at : at + size])
        at += size
    ends = [(at + len(word), at) for word in stop if (at := text.find(word)) >= 0]
    got, stopped = run(parts, tuple(stop))
    assert stopped == bool(ends)
    shown = text[: min(ends)[1]] if ends else text
    shown = "".join(c for c in shown if c in "\t\n" or unicodedata.category(c) != "Cc")
    assert "".join(got) == (shown[1:] if shown[:1] == " " and not shown[1:2].isspace() else shown)


def test_control_characters_never_reach_a_terminal() -> None:
    stream = TextStream()
    assert stream.feed("a\x1b[2Jb\tc\n\x07\x9b31m\x7f\r".encode()) + stream.finish() == "a[2Jb\tc\n31m"
