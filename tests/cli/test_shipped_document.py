"""What the shipped hypernetworks for documents do on the default base model, through the command line."""

from __future__ import annotations

import json

import pytest

from localhyper.demo import sample_path
from tests.cli.conftest import Shell

pytestmark = pytest.mark.native
NOTE = "The access code of Marlow Station is 4817. The harbour of Tarn opens in April."
ELSEWHERE = "Which ocean lies between Europe and North America?"


def answers(shell: Shell, question: str, *words: str) -> list[dict[str, object]]:
    """The replies of an `ask`, as scripts get them."""
    done = shell.run("ask", question, *words, "--max-tokens", "24", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["answers"]
    return found


def test_a_question_about_something_else_is_answered_without_the_document(shipped: Shell) -> None:
    note = shipped.home / "note.txt"
    note.write_text(NOTE, encoding="utf-8")
    assert shipped.run("attach", note).returncode == 0
    plain, left_out = answers(shipped, ELSEWHERE, "--with", "note", "--compare")
    assert left_out["text"] == plain["text"] and left_out["left_out"] == ["note"]
    told = shipped.run("ask", ELSEWHERE, "--with", "note", "--max-tokens", "4").stderr
    assert "(not about note, " in told
    (own,) = answers(shipped, "What is the access code of Marlow Station?", "--with", "note")
    assert "4817" in str(own["text"]) and own["left_out"] == []
    (vague,) = answers(shipped, "When does it open?", "--with", "note")
    assert vague["left_out"] == [], "too few words to tell"
    (whole,) = answers(shipped, ELSEWHERE, "--with", "note", "--whole")
    assert whole["text"] != plain["text"] and whole["left_out"] == []
    (shipped.home / "config" / "config.toml").write_text("[adapter]\nonly_related = false\n")
    (always,) = answers(shipped, ELSEWHERE, "--with", "note")
    assert always["text"] == whole["text"] and always["left_out"] == []


@pytest.mark.slow
def test_an_exported_adapter_knows_what_its_document_is_about(shipped: Shell) -> None:
    assert shipped.run("attach", sample_path("harbour-office"), "--name", "office").returncode == 0
    exported = shipped.home / "office.gguf"
    assert shipped.run("adapters", "export", "office", exported).returncode == 0
    (reply,) = answers(shipped, "What is this document about?", "--with", str(exported))
    assert "Handbook for New Staff" in str(reply["text"])
    (fact,) = answers(shipped, "How many maps does the archive hold?", "--with", str(exported))
    assert "5280" in str(fact["text"])
