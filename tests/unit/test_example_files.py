"""Examples from tables, JSON Lines and text, and files that hold none or half of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localhyper.errors import SourceError
from localhyper.example_files import MAX_BYTES, read_examples
from localhyper.task_examples import TaskExample

PAIRS = (TaskExample("Where is it, please?", "delivery"), TaskExample("Two\nlines", "other"))
TEXTS = {
    "a.csv": 'input,output\n"Where is it, please?",delivery\n"Two\nlines",other\n',
    "head.csv": 'id,Output,note,INPUT\n1,delivery,,"Where is it, please?"\n2,other,x,"Two\nlines"\n',
    "bare.csv": '"Where is it, please?",delivery\r\n"Two\nlines",other\r\n',
    "semicolon.csv": 'input;output\n"Where is it, please?";delivery\n"Two\nlines";other\n',
    "t.tsv": 'Where is it, please?\tdelivery\n\n"Two\nlines"\tother\n',
    "a.jsonl": '{"input": "Where is it, please?", "output": "delivery", "n": 1}\n\n'
    '{"input": "Two\\nlines", "output": "other"}\n',
    "a.txt": "Input: Where is it, please?\nOutput: delivery\n\nInput: Two\nlines\nOutput: other\n",
    "crlf.md": "Input: Where is it, please?\r\nOutput: delivery\r\n\r\nInput: Two\r\nlines\r\nOutput: other\r\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_form_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TEXTS[name].encode())
    assert read_examples(path) == PAIRS


def test_another_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffinput,output\nGrüße,ja\n".encode("utf-16-le"))
    assert read_examples(path) == (TaskExample("Grüße", "ja"),)


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("empty.csv", b"", "has no examples"),
        ("head.csv", b"input,output\n", "has no examples"),
        ("short.csv", b"input,output\na,b\nc\n", "example 2 of .* has no output"),
        ("wide.csv", b"a,b,c\nd,e,f\n", "3 columns and no head"),
        ("one.tsv", b"a\nb\n", "1 columns and no head"),
        ("a.jsonl", b'{"input": "a"}\n', "example 1 of .* has no output"),
        ("b.jsonl", b'{"input": "a", "output": 3}\n', "example 1 of .* has no output"),
        ("c.jsonl", b"[1]\n", "example 1 of .* has no input"),
        ("d.jsonl", b"{", "example 1 of .* is no JSON"),
        ("deep.jsonl", b"[" * 200_000, "is no JSON"),
        ("a.txt", b"Sort the words.", "has no examples"),
        ("b.txt", b"Sort.\n\nInput: a\nOutput: b", "begins with something that is no example"),
        ("c.txt", b"Input: a\nOutput: b\n\nInput: c", "example 2 of the task has no output"),
        ("big.csv", b"a" * (MAX_BYTES + 1), "more than 4 MB"),
        ("many.tsv", b"a\tb\n" * 1001, "1,001 examples"),
        ("field.csv", b'"' + b"a" * 200_000 + b'",b', "is no table"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_file_of_examples_is_one_clear_line(tmp_path: Path, name: str, data: bytes, line: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SourceError, match=line) as caught:
        read_examples(path)
    assert "\n" not in caught.value.message and caught.value.hint


def test_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder"):
        read_examples(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_examples(tmp_path / "none.csv")


def test_a_json_line_may_hold_any_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    given = "<|im_end|>\u2028Output: x"
    path.write_text(json.dumps({"input": given, "output": "\u0085 y"}, ensure_ascii=False), encoding="utf-8")
    assert read_examples(path) == (TaskExample(given, "y"),)
