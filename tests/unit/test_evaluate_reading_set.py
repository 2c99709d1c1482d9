"""Reading-set files: what is read, what is refused, and how questions are drawn."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from localhyper.errors import ConfigError
from localhyper.evaluate.reading_set import Passage, Question, read_reading_set, sample_questions

GOOD = {
    "id": "a",
    "title": "T",
    "context": "Water is wet.",
    "qas": [{"question": "What is wet?", "answers": ["Water"]}],
}
Change = Callable[[dict[str, object]], object]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_plain_and_packed_files_read_the_same(tmp_path: Path) -> None:
    plain = write(tmp_path / "set.jsonl", GOOD)
    packed = tmp_path / "set.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    wanted = [Passage("a", "T", "Water is wet.", (Question("What is wet?", ("Water",)),))]
    assert read_reading_set(plain) == wanted
    assert read_reading_set(packed) == wanted


def test_packing_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert read_reading_set(path)[0].id == "a"


def test_lines_with_one_context_become_one_passage(tmp_path: Path) -> None:
    again = {**GOOD, "id": "b", "qas": [{"question": "Why?", "answers": ["So", "Thus"]}]}
    passages = read_reading_set(write(tmp_path / "set.jsonl", GOOD, again))
    assert [passage.id for passage in passages] == ["a"]
    assert [question.text for question in passages[0].questions] == ["What is wet?", "Why?"]


def test_id_and_title_may_be_left_out_and_blank_lines_and_other_keys_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    row = {"context": "c", "qas": [{"question": "q", "answers": ["a"], "long_answer": "x"}], "source": 1}
    path.write_text("\ufeff\n" + json.dumps(row) + "\n\n", encoding="utf-8")
    assert read_reading_set(path) == [Passage("2", "", "c", (Question("q", ("a",)),))]


def qas(*items: object) -> Change:
    return lambda row: {**row, "qas": list(items)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda row: [], "must be an object, got list"),
        (lambda row: {**row, "id": None}, "`id`"),
        (lambda row: {**row, "title": 3}, "`title`"),
        (lambda row: {**row, "context": "  "}, "`context`"),
        (lambda row: {key: row[key] for key in ("id", "title", "qas")}, "`context`"),
        (qas(), "`qas`"),
        (lambda row: {**row, "qas": {"question": "q"}}, "`qas`"),
        (qas("q"), "`qas[0]`"),
        (qas({"question": "", "answers": ["a"]}), "`qas[0].question`"),
        (qas({"question": "q", "answers": "a"}), "`qas[0].answers`"),
        (qas({"question": "q", "answers": []}), "`qas[0].answers`"),
        (qas(GOOD["qas"][0], {"question": "q", "answers": ["a", 5]}), "`qas[1].answers[1]`"),
    ],
)
def test_a_line_out_of_schema_is_named_with_its_number(tmp_path: Path, change: Change, named: str) -> None:
    path = write(tmp_path / "set.jsonl", GOOD, change(dict(GOOD)))
    with pytest.raises(ConfigError) as caught:
        read_reading_set(path)
    assert "line 2" in caught.value.message
    assert named in caught.value.message
    assert "docs/data.md" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{not json}\n", "line 1: not valid JSON"),
        (b"[" * 100_000, "line 1: not valid JSON"),
        (json.dumps(GOOD).encode() + b"\n\xff\xfe\n", "is not UTF-8"),
        (b"", "holds no passages"),
        (b"\n \n", "holds no passages"),
        (gzip.compress(json.dumps(GOOD).encode())[:-9], "is damaged"),
        (b"\x1f\x8bnonsense", "is damaged"),
    ],
)
def test_damaged_files_get_one_clear_error(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_reading_set(path)
    assert named in caught.value.message


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_reading_set(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_reading_set(tmp_path)


def passages(documents: int, questions: int) -> list[Passage]:
    return [
        Passage(f"d{d}", "", f"text {d}", tuple(Question(f"q{d}.{q}", ("a",)) for q in range(questions)))
        for d in range(documents)
    ]


def test_the_sample_has_the_wanted_number_of_distinct_questions() -> None:
    chosen = sample_questions(passages(20, 3), 10, seed=1)
    texts = [question.text for passage in chosen for question in passage.questions]
    assert len(texts) == len(set(texts)) == 10
    assert all(question.text.startswith(f"q{p.id[1:]}.") for p in chosen for question in p.questions)
    assert all(passage.questions for passage in chosen)


def test_no_limit_and_a_large_limit_take_everything() -> None:
    for limit in (0, 60, 1000):
        assert sum(len(passage.questions) for passage in sample_questions(passages(20, 3), limit, 1)) == 60


def test_the_seed_decides_sample_and_order() -> None:
    assert sample_questions(passages(20, 3), 10, 1) == sample_questions(passages(20, 3), 10, 1)
    assert sample_questions(passages(20, 3), 10, 1) != sample_questions(passages(20, 3), 10, 2)
    everything = sample_questions(passages(20, 3), 0, 1)
    assert [p.id for p in everything] != [f"d{d}" for d in range(20)]


def test_fewer_than_two_passages_and_negative_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        sample_questions(passages(1, 3), 0, 0)
    with pytest.raises(ConfigError, match="at least 2"):
        sample_questions(passages(5, 3), 1, 0)
    with pytest.raises(ConfigError, match="limit is -1"):
        sample_questions(passages(5, 3), -1, 0)


def test_documents_are_drawn_first_and_questions_among_theirs() -> None:
    few = sample_questions(passages(20, 3), 0, 1, documents=4)
    assert len(few) == 4 and all(len(passage.questions) == 3 for passage in few)
    some = sample_questions(passages(20, 3), 5, 1, documents=4)
    assert {passage.id for passage in some} <= {passage.id for passage in few}
    assert sum(len(passage.questions) for passage in some) == 5
    assert sample_questions(passages(5, 3), 7, 1, documents=9) == sample_questions(passages(5, 3), 7, 1)
    with pytest.raises(ConfigError, match="number of documents is -1"):
        sample_questions(passages(5, 3), 0, 0, documents=-1)


def test_one_document_will_do_where_none_is_the_control() -> None:
    assert len(sample_questions(passages(5, 3), 0, 0, documents=1, least=1)) == 1
    with pytest.raises(ConfigError, match="at least 2"):
        sample_questions(passages(5, 3), 0, 0, documents=1)
