"""Training data files to a corpus: reading sets, plain texts, requests with replies. Schemas: `docs/data.md`.

What is held out for probes is never trained on. Knows tokens only through the tokenizer it is given.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from localhyper.atomic import write_bytes_atomic
from localhyper.errors import ConfigError
from localhyper.export.cutting import cut_text, place_pairs
from localhyper.export.texts import Corpus, Example, Pair, split_sentences

T = TypeVar("T")
OPENING = 80  # characters by which two contexts of different files count as the same
SMALLEST_ARTICLE = 8  # contexts of one title that count as a text of their own


def read_rows(path: Path) -> Iterator[dict[str, object]]:
    """Rows of a JSON Lines file, gzip'd or not.

    Raises:
        ConfigError: The file is missing, cannot be read, or holds a line that is not JSON.
    """
    if not path.is_file():
        raise ConfigError(f"training data file {path} is missing", "name files that exist in the recipe's [data] table")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ConfigError(f"{path} line {number} is not JSON: {error.msg}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"training data file {path} cannot be read: {error}", "fetch it again") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as gzip'd JSON Lines, all or nothing; the same rows give the same bytes."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes_atomic(path, gzip.compress(lines.encode(), mtime=0))


def read_reading(path: Path, tokenizer: Tokenizer, max_tokens: int) -> list[Example]:
    """A reading set (schema: `docs/data.md`): contexts of at most a chunk, with the questions whose answer is in them.

    A longer one gives several, cut as documents are, and a question belongs to the one that alone spells its answer.
    Contexts of one title are an article where there are enough of them; all others of a file count as one.
    """
    examples, rows = [], list(read_rows(path))
    titles = Counter(str(row.get("title", "")) for row in rows)
    for row in rows:
        title = str(row.get("title", ""))
        article = f"{path.name}/{title}" if titles[title] >= SMALLEST_ARTICLE else path.name
        texts = [chunk.text for chunk in cut_text(tokenizer, str(row["context"]), max_tokens)]
        qas: list[dict[str, Sequence[str]]] = row["qas"]  # type: ignore[assignment]
        asked = [Pair(str(qa["question"]).strip(), str(qa["answers"][0])) for qa in qas]
        placed = place_pairs(texts, asked)
        examples += [Example("reading", t, tuple(p), article) for t, p in zip(texts, placed, strict=True) if p]
    return examples


def read_instructions(path: Path, longest: int = 400, per_task: int = 20) -> list[Pair]:
    """Requests of an instruction set, one task a row: `{definition?, instances: [{input, output}]}`.

    Args:
        path: JSON Lines, gzip'd or not.
        longest: Most characters of a request.
        per_task: Most requests of one task.
    """
    pairs = []
    for row in read_rows(path):
        opening = f"{row['definition']}\n\n" if "definition" in row else ""
        instances: list[dict[str, str]] = row["instances"]  # type: ignore[assignment]
        found = [Pair(opening + i["input"].strip(), i["output"].strip()) for i in instances]
        pairs += [pair for pair in found if pair.answer and len(pair.question) <= longest][:per_task]
    return pairs


def read_replies(path: Path) -> list[Pair]:
    """Requests with the base model's own replies, as `localhyper.export.own_replies` writes them."""
    return [Pair(str(row["question"]), str(row["answer"])) for row in read_rows(path)]


def read_about(path: Path) -> list[Example]:
    """Passages with the base model's own answers to general questions, as `localhyper.export.own_summaries` makes."""
    found = []
    for row in read_rows(path):
        qas: list[dict[str, object]] = row["qas"]  # type: ignore[assignment]
        pairs = tuple(Pair(str(qa["question"]), str(qa["answers"][0])) for qa in qas)  # type: ignore[index]
        found.append(Example("about", str(row["context"]), pairs))
    return found


def read_sentences(path: Path) -> list[str]:
    """Sentences of a text file (gzip'd or not), of 20 to 400 characters; of a reading set, those of its contexts."""
    if ".jsonl" in path.suffixes:
        return [s for row in read_rows(path) for s in split_sentences(str(row["context"]))]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        return split_sentences(stream.read())


def load_corpus(
    root: Path,
    reading: Sequence[str],
    texts: Sequence[str],
    tokenizer: Tokenizer,
    max_tokens: int,
    holdout: int,
    instructions: Sequence[str] = (),
    replies: Sequence[str] = (),
    about: Sequence[str] = (),
    probed: Sequence[str] = (),
) -> tuple[Corpus, Corpus]:
    """Training and held-out corpora.

    Args:
        root: Folder the names are relative to.
        reading: Reading-set files.
        texts: Plain-text files.
        tokenizer: The base model's tokenizer.
        max_tokens: Most tokens of a context.
        holdout: Every `holdout`-th reading context, request, reply and passage is held out, and the last tenth of
            every text. A context that begins as one that is held out is not trained on, whatever file it is in.
        instructions: Instruction-set files.
        replies: Files of the base model's own replies.
        about: Files of its own answers to general questions about a passage.
        probed: Reading sets that are held out as a whole, beside which nothing of `reading` is. A context of an article
            that others of were trained on tells little of articles that are new.
    """

    def read(names: Sequence[str]) -> list[Example]:
        return [example for name in names for example in read_reading(root / name, tokenizer, max_tokens)]

    examples, held_examples = (read(reading), read(probed)) if probed else hold_out(read(reading), holdout)
    unseen = {example.text[:OPENING] for example in held_examples}
    examples = [example for example in examples if example.text[:OPENING] not in unseen]
    requests, held_requests = hold_out([p for name in instructions for p in read_instructions(root / name)], holdout)
    own, held_own = hold_out([p for name in replies for p in read_replies(root / name)], holdout)
    general, held_general = hold_out([e for name in about for e in read_about(root / name)], holdout)
    sentences = [read_sentences(root / name) for name in texts]
    cut = [len(s) * 9 // 10 for s in sentences]
    train = Corpus(examples, [s[:c] for s, c in zip(sentences, cut, strict=True)], requests, own, general)
    held = Corpus(
        held_examples, [s[c:] for s, c in zip(sentences, cut, strict=True)], held_requests, held_own, held_general
    )
    return train, held


def hold_out(items: Sequence[T], every: int) -> tuple[list[T], list[T]]:
    """All but every `every`-th item, from the first, and those."""
    return [item for i, item in enumerate(items) if i % every], list(items[::every])
