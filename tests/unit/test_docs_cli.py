"""The generated sections of the documentation say what the code says now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from docs.make_cli import DOCS, PAGES, SECTIONS, commands, functions, parameters_of, renewed
from localhyper.cli import app, main

COMMANDS = [
    (words[1:], function)
    for words, function in functions(app, ("localhyper",))
    if words[1] not in ("train", "export")  # they show the training room's own help, which needs torch
]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_current(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == renewed(page), "run `python -m docs.make_cli`"


def test_every_section_stands_on_some_page() -> None:
    pages = "".join((DOCS / name).read_text(encoding="utf-8") for name in PAGES)
    for section in SECTIONS:
        assert f"<!-- generated: {section} -->" in pages


def test_an_old_section_is_noticed_and_the_text_round_it_kept() -> None:
    page = "before\n<!-- generated: exit-codes -->\nold\n<!-- end -->\nafter\n"
    new = renewed(page)
    assert new != page
    assert new.startswith("before\n") and new.endswith("after\n")
    assert "old" not in new
    assert renewed(new) == new


def test_options_have_the_names_people_type() -> None:
    text = commands()
    for words in ("`--with NAME[@SCALE]`", "`--json`", "`--generate/--no-generate`", "### `localhyper attach SOURCE"):
        assert words in text


@pytest.mark.parametrize(("words", "function"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_the_command_itself_knows_what_is_written(
    words: tuple[str, ...],
    function: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out.casefold()  # Typer writes arguments in capitals or not
    for parameter in parameters_of(function):
        for name in parameter.word.split(" ")[0].strip("[],").split("/"):
            assert name.casefold() in shown
