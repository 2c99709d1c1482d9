"""Passages of plain text from task inputs, reading sets and books, to be asked about: what a chunk holds of each.

Nothing that an evaluation reads may be among them: a passage that shares `SHINGLE` words in a row with one of the
texts named by `--without` is left out.

    python -m localhyper.export.passages --base MODEL.gguf --data DATA --out DATA/passages.jsonl.gz
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tokenizers import Tokenizer

from localhyper.errors import LocalHyperError
from localhyper.export.command_line import data_parser, refuse
from localhyper.export.data_files import read_rows, read_sentences, write_rows
from localhyper.export.data_sets import ABSTRACTS, ASKED, PROMPTED, TASK_FILES
from localhyper.export.own_summaries import PASSAGE, WORD, passage_of
from localhyper.export.tokenizer import load_tokenizer

READING = (*ASKED, ABSTRACTS)
ARTICLES = "bench/boolq.train.jsonl.gz"
INPUTS = (*TASK_FILES, PROMPTED)
TEXTS = (
    "haystack/book_alice_in_wonderland.txt.gz",
    "haystack/book_moby_dick.txt.gz",
    "haystack/book_pride_and_prejudice.txt.gz",
    "haystack/book_sherlock_holmes.txt.gz",
    "haystack/book_tale_of_two_cities.txt.gz",
    "haystack/book_war_of_the_worlds.txt.gz",
)
TESTED = (
    "squad/dev.jsonl.gz",
    "reading/squadshifts_new_wiki.jsonl.gz",
    "reading/drop.jsonl.gz",
    "reading/fairytaleqa.jsonl.gz",
    "reading/covidqa.jsonl.gz",
    "reading/qmsum.jsonl.gz",
)
LEAST_WORDS = 60
LEAST_PROSE = 0.75  # share of words of letters alone
SHINGLE = 10  # words in a row
_LABEL = re.compile(r"^[A-Z][\w ]{0,24}: ")
_LETTERS = re.compile(r"[A-Za-z'’-]+[.,;:!?]?")  # noqa: RUF001


@dataclass(frozen=True)
class Passage:
    """What one chunk holds of a text; `title` names the article or book that it and others follow each other in."""

    text: str
    title: str = ""


def paragraphs(path: Path) -> Iterator[str]:
    """Paragraphs of prose inside the inputs of a task file, each once a task."""
    for row in read_rows(path):
        inputs: list[dict[str, str]] = row["instances"]  # type: ignore[assignment]
        lines = dict.fromkeys(line.strip() for one in inputs for line in one["input"].split("\n"))
        yield from (_LABEL.sub("", line) for line in lines if is_prose(line))


def is_prose(text: str) -> bool:
    """Whether a paragraph is long enough to be asked about, and of words rather than of marks and numbers."""
    words = text.split()
    if len(words) < LEAST_WORDS:
        return False
    return sum(bool(_LETTERS.fullmatch(word)) for word in words) >= LEAST_PROSE * len(words)


def runs_of(sentences: Sequence[str], tokenizer: Tokenizer) -> Iterator[str]:
    """Consecutive sentences of a text, as many together as a chunk holds."""
    lengths = [len(one.ids) for one in tokenizer.encode_batch([" " + s for s in sentences], add_special_tokens=False)]
    run: list[str] = []
    used = 0
    for sentence, length in zip(sentences, lengths, strict=True):
        if run and used + length > PASSAGE:
            yield " ".join(run)
            run, used = [], 0
        run.append(sentence)
        used += length
    if run:
        yield " ".join(run)


def shingles(text: str) -> set[int]:
    """Hashes of all runs of `SHINGLE` words."""
    words = [word.lower() for word in WORD.findall(text)]
    return {hash(tuple(words[i : i + SHINGLE])) for i in range(len(words) - SHINGLE + 1)}


def unlike(passages: Iterable[Passage], forbidden: set[int], used: set[int]) -> Iterator[Passage]:
    """Passages that share no run of words with what is forbidden, and less than half of theirs with an earlier one."""
    for passage in passages:
        own = shingles(passage.text)
        if own and not own & forbidden and len(own & used) < len(own) / 2:
            used |= own
            yield passage


def beginnings(path: Path) -> Iterator[Passage]:
    """What encyclopedia articles begin with: the passages of yes-no questions, each after its title and ` -- `."""
    for row in read_rows(path):
        title, mark, text = str(row["passage"]).partition(" -- ")
        yield Passage(text, title) if mark else Passage(title)


def candidates(data: Path, tokenizer: Tokenizer) -> Iterator[Passage]:
    """Passages of all files: first those that people asked about."""
    for name in READING:
        for row in read_rows(data / name):
            yield Passage(passage_of(tokenizer, str(row["context"])), str(row.get("title", "")))
    for one in beginnings(data / ARTICLES):
        yield Passage(passage_of(tokenizer, one.text), one.title)
    for name in INPUTS:
        yield from (Passage(passage_of(tokenizer, text)) for text in paragraphs(data / name))
    for name in TEXTS:
        sentences = read_sentences(data / name)
        # The last tenth is what training holds out.
        yield from (Passage(run, name) for run in runs_of(sentences[: len(sentences) * 9 // 10], tokenizer))


def collect(data: Path, tokenizer: Tokenizer, without: Sequence[str]) -> list[Passage]:
    """All passages that are unlike each other and what is tested.

    Raises:
        ConfigError: A file is missing or is no JSON Lines.
    """
    forbidden = {one for name in without for row in read_rows(data / name) for one in shingles(str(row["context"]))}
    return list(unlike(candidates(data, tokenizer), forbidden, set()))


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = data_parser("passages", __doc__, "the files", "JSON lines `{title, context}`")
    parser.add_argument("--without", nargs="*", default=list(TESTED), help="reading sets to keep clear of, inside it")
    options = parser.parse_args(argv)
    try:
        found = collect(options.data, load_tokenizer(options.base), options.without)
        write_rows(options.out, [{"title": one.title, "context": one.text} for one in found])
    except LocalHyperError as error:
        refuse(parser, error)
    Console(stderr=True).print(f"{len(found)} passages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
