"""Tokenizers from strangers: panics, endless rules and growing texts end in one line, quickly, in a child process."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from localhyper import description_tokens
from localhyper.description_tokens import tokenize
from localhyper.errors import Cancelled, ModelError
from localhyper.progress import CancelToken
from tests.tiny_task import write_tokenizer

PAIR = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
CLS = {"[CLS]": {"id": "[CLS]", "ids": [1] * 40, "tokens": ["[CLS]"] * 40}}
GROW = {"type": "Replace", "pattern": {"String": "s"}, "content": "s" * 64}
SPLIT = {"type": "Split", "pattern": {"Regex": "(s+s+)+x"}, "behavior": "Isolated", "invert": False}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def change(path: Path, **parts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def template(**parts: Any) -> dict[str, Any]:
    return {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": PAIR, "special_tokens": {}, **parts}}


def refused(path: Path, text: str = "sort the words") -> str:
    with pytest.raises(ModelError) as caught:
        tokenize(path, text, 16)
    assert "\n" not in caught.value.message and len(caught.value.message) < 400 + len(str(path)) and caught.value.hint
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_sound_file_gives_ids(path: Path) -> None:
    assert tokenize(path, "sort the words", 16) == ([1, 3, 4, 5, 2], False)
    assert tokenize(path, "sort " * 100, 16) == ([1, *[3] * 14, 2], True)


@pytest.mark.parametrize(
    "parts,wanted",
    [
        (template(single=[{"Sequence": {"id": "B", "type_id": 0}}]), "fails on the description (index out of bounds"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "fails on the description (chunk size"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAA="}}, "fails on the description ("),
        (template(), "gives 0 tokens"),
        (template(single=[{"SpecialToken": {"id": "[CLS]", "type_id": 0}}], special_tokens=CLS), "gives 40 tokens"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "zz"}}, "fails on the description (WordLevel"),
        ({"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", -1.0]]}}, "is no tokenizer (Unable to load vocab"),
    ],
)  # fmt: skip
def test_files_that_make_the_native_code_panic_or_fail_are_named(
    path: Path, parts: dict[str, Any], wanted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change(path, **parts)
    assert wanted in refused(path)
    assert capfd.readouterr().err == ""  # a panic's own lines stay in the child


def test_a_text_that_its_rules_make_grow_without_end_takes_no_memory_of_ours(path: Path) -> None:
    change(path, normalizer={"type": "Sequence", "normalizers": [GROW] * 12})
    assert "takes more than 1024 MiB of memory" in refused(path)


def test_rules_that_never_end_are_stopped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description_tokens, "SECONDS", 1.0)
    change(path, normalizer={"type": "Sequence", "normalizers": [GROW] * 4}, pre_tokenizer=SPLIT)
    started = time.monotonic()
    assert "takes" in refused(path)
    assert time.monotonic() - started < 30


def test_a_stop_kills_the_child(path: Path) -> None:
    change(path, normalizer={"type": "Sequence", "normalizers": [GROW] * 4}, pre_tokenizer=SPLIT)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        tokenize(path, "sort", 16, cancel)


def test_files_that_are_missing_large_or_no_text_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"\xff\xfe")
    assert "is no tokenizer" in refused(path)
    monkeypatch.setattr(description_tokens, "MAX_BYTES", 1)
    assert "at most 1 are read" in refused(path)
    path.unlink()
    assert "cannot be read" in refused(path)
    path.mkdir()
    assert str(path) in refused(path)
