"""`localhyper ask` and `localhyper chat` with a tiny model: what is printed where, adapters, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Shell


def ask(shell: Shell, *arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a short greedy answer."""
    done = shell.run("ask", *arguments, "--base", shell.base, "--max-tokens", "6", stdin=stdin)
    return done.returncode, done.stdout, done.stderr


def test_a_reply_goes_to_stdout_and_its_cost_to_stderr(shell: Shell) -> None:
    code, out, err = ask(shell, "Who are you?")
    assert code == 0, err
    assert out.endswith("\n")
    assert "first token after" in err
    assert "first token" not in out
    assert ask(shell, "-", stdin="Who are you?")[1] == out


def test_adapters_change_the_reply_by_their_scale(shell: Shell, lease: Path) -> None:
    shell.attach(lease)
    code, out, err = ask(shell, "What?", "--with", "lease", "--compare", "--json")
    assert code == 0, err
    answer = json.loads(out)
    plain, adapted = answer["answers"]
    assert plain["adapters"] == []
    assert [use["name"] for use in adapted["adapters"]] == ["lease"]
    assert answer["base"] == "tiny-llama"
    off = json.loads(ask(shell, "What?", "--with", "lease@0", "--json")[1])["answers"][0]
    assert off["text"] == plain["text"]
    assert off["adapters"][0]["scale"] == 0
    path = adapted["adapters"][0]["path"]
    by_file = json.loads(ask(shell, "What?", "--with", path, "--json")[1])["answers"][0]
    assert by_file["text"] == adapted["text"]
    strong = json.loads(ask(shell, "What?", "--with", "lease@60", "--json")[1])["answers"][0]
    assert strong["text"] != plain["text"]


def test_compare_prints_both_under_headings(shell: Shell, lease: Path) -> None:
    shell.attach(lease)
    code, out, _ = ask(shell, "What?", "--with", "lease@0.5", "--compare")
    assert code == 0
    assert out.startswith("without adapters:\n")
    assert "\nwith lease@0.5:\n" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["", "--with", "x"], 2, "the question is empty"),
        (["What?", "--with", "nobody"], 8, "no adapter named `nobody`"),
        (["What?", "--with", "x@much"], 2, "is not `NAME` or `NAME@SCALE`"),
        (["What?", "--with", "x@nan"], 2, "is not `NAME` or `NAME@SCALE`"),
        (["What?", "--with", "x@inf"], 2, "is not `NAME` or `NAME@SCALE`"),
        (["What?", "--with", "no/such/file.gguf"], 6, "does not exist"),
        (["What?", "--temperature", "9"], 2, "Invalid value"),
        (["word " * 3000], 7, "leaves no room"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(shell: Shell, arguments: list[str], code: int, message: str) -> None:
    got, out, err = ask(shell, *arguments)
    assert got == code, err
    assert out == ""
    assert message in err
    assert "\n\nhint: " in err
    assert "Traceback" not in err


def test_an_adapter_of_another_base_is_refused(shell: Shell, lease: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.cli.conftest import SPEC
    from tests.tiny_gguf import write_tiny_gguf

    shell.attach(lease)
    other = write_tiny_gguf(tmp_path / "other.gguf", replace(SPEC, rope_base=500.0))
    done = shell.run("ask", "What?", "--with", "lease", "--base", other)
    assert done.returncode == 6
    assert "made for another base model" in done.stderr


def test_a_missing_adapter_file_is_named(shell: Shell, lease: Path) -> None:
    path = Path(shell.attach(lease).stdout.splitlines()[1])
    path.unlink()
    code, _, err = ask(shell, "What?", "--with", "lease")
    assert code == 8
    assert str(path) in err


def test_chat_reads_lines_and_commands(shell: Shell, lease: Path) -> None:
    shell.attach(lease)
    lines = "Hello\n/use lease\nAgain\n/use nobody\n/reset\n/nonsense\n/help\n\n/exit\nnever asked\n"
    done = shell.run("chat", "--base", shell.base, "--max-tokens", "3", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("first token after") == 2
    for words in (
        "without adapters",
        "with lease",
        "no adapter named `nobody`",
        "forgotten",
        "`/nonsense` is not known",
    ):
        assert words in done.stderr
    assert "hint: " in done.stderr


def test_chat_ends_with_its_input(shell: Shell) -> None:
    assert shell.run("chat", "--base", shell.base, "--max-tokens", "2", stdin="Hi\n").returncode == 0


CHAPTERS = (
    "The bell tower was built by Ines Falk. The mill pond froze in March. The ferry leaves at seven. "
    "Bread is baked on Fridays. The museum keeps a blue kite. Nobody lives on the island."
)


def test_a_long_document_answers_by_the_chunk_that_is_asked_about(shell: Shell, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(CHAPTERS)
    made = shell.attach(book)
    assert "and an adapter of each chunk, " in made.stderr
    listed = json.loads(shell.run("adapters", "show", "book", "--json").stdout)
    assert listed["chunk_files"] == listed["chunks"] > 2 and listed["chunk_bytes"] > 0
    assert f"chunks        {listed['chunks']} adapters, " in shell.run("adapters", "show", "book").stdout
    code, out, err = ask(shell, "Where is the blue kite?", "--with", "book@2", "--json")
    assert code == 0, err
    (answer,) = json.loads(out)["answers"]
    assert answer["chunk"]["name"] == "book" and answer["chunk"]["chunks"] == listed["chunks"]
    assert answer["adapters"][0]["path"] == listed["path"]
    chunk = Path(listed["path"]).with_suffix(".chunks") / f"{answer['chunk']['chunk']:05d}.gguf"
    by_file = json.loads(ask(shell, "Where is the blue kite?", "--with", f"{chunk}@2", "--json")[1])["answers"][0]
    assert by_file["text"] == answer["text"]
    assert (
        f"(by chunk {answer['chunk']['chunk'] + 1} of {listed['chunks']} of book, "
        in ask(shell, "Where is the blue kite?", "--with", "book")[2]
    )
    whole = json.loads(ask(shell, "Where is the blue kite?", "--with", "book", "--whole", "--json")[1])["answers"][0]
    assert whole["chunk"] is None
    config = shell.home / "config" / "config.toml"
    config.write_text("[adapter]\nchoose_chunk = false\n")
    assert "by chunk" not in ask(shell, "Where is the blue kite?", "--with", "book")[2]


def test_a_chat_stays_with_what_it_is_about(shell: Shell, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(CHAPTERS)
    shell.attach(book)
    said = "Who built the bell tower?\nWhen does the ferry leave?\n/exit\n"
    done = shell.run("chat", "--with", "book", "--base", shell.base, "--max-tokens", "4", stdin=said)
    by = [line.split(" of ")[0] for line in done.stderr.splitlines() if line.startswith("(by chunk ")]
    assert len(by) == 2 and len(set(by)) == 2, done.stderr
    whole = shell.run("chat", "--with", "book", "--whole", "--base", shell.base, "--max-tokens", "4", stdin=said)
    assert "by chunk" not in whole.stderr
