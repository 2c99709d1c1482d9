"""Summaries that people wrote of news, conversations, posts and abstracts, as a reading set of general questions.

What the base model itself says of a passage (`localhyper.export.own_summaries`) is in its own words, and four of five
times unsound. Prompted tasks hold summaries by people: fewer, of other texts, and to the point. What the prompt puts
round a text is what all inputs of its template begin and end with.

    python -m localhyper.export.written_summaries --base MODEL.gguf --data DATA --out DATA/written_summaries.jsonl.gz
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer

from localhyper.errors import LocalHyperError
from localhyper.export.command_line import data_parser, refuse
from localhyper.export.cutting import END_MARKER
from localhyper.export.data_files import read_rows, write_rows
from localhyper.export.data_sets import ABSTRACTS, PROMPTED, TASK_FILES
from localhyper.export.own_summaries import WORD, Asked, passage_of, rows
from localhyper.export.packaged import packaged_table
from localhyper.export.texts import split_sentences
from localhyper.export.tokenizer import load_tokenizer

DATASETS = ("cnn_dailymail_3_0_0", "samsum", "xsum")
BACKWARDS = ("Write_a_dialogue", "expand", "generate_story", "spice_up")  # templates that ask for the text
TASKS = ("lol_1290", "lol_1499", "lol_1572")
LEAST_INPUTS = 5  # of a template: fewer may begin alike by chance
STEM = 5  # letters by which two words count as one
BORNE_OUT = 0.5  # share of a summary's longer words that what is left of the text must have, by their stems
_SPEAKER = re.compile(r"(?:^|\n|, )([A-Z][\w'-]+(?: [A-Z][\w'-]+)?) ?: ")
_LABEL = re.compile(r"^(?:Text|Article|Context|Dialogue): ")
_LOOSE_STOP = re.compile(r"(?<=\w|['\"”’)%]) (?=[.,!?;:](?:\s|$))")  # noqa: RUF001
_TABLE = packaged_table("about.toml")


@dataclass(frozen=True)
class Written:
    """A text with a summary of it.

    Attributes:
        text: As much of it as there is.
        summary: What somebody wrote of it.
        question: What the summary answers; "" = any general question.
    """

    text: str
    summary: str
    question: str = ""


def tidy(text: str) -> str:
    """Without end marker, carriage returns and the spaces that tokenizing left before stops."""
    text = text.strip().removesuffix(END_MARKER).replace("\r\n", "\n").strip()
    return _LOOSE_STOP.sub("", _LABEL.sub("", text))


def shared_start(texts: Sequence[str]) -> int:
    """How many characters all texts begin with."""
    first, last = min(texts), max(texts)  # what these two share, all between them share
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def unprompted(inputs: Sequence[str]) -> list[str]:
    """The texts inside the inputs of one template: less what all of them begin and end with."""
    different = list(dict.fromkeys(inputs))
    if len(different) < LEAST_INPUTS:
        return ["" for _ in inputs]
    opening = shared_start(different)
    closing = shared_start([one[opening:][::-1] for one in different])
    return [one[opening : len(one) - closing] for one in inputs]


def pairs_of(row: Mapping[str, Any]) -> list[Written]:
    """The instances of a row of prompted tasks or of Super-NaturalInstructions."""
    texts = unprompted([str(one["input"]) for one in row["instances"]])
    return [
        Written(tidy(text), tidy(str(one["output"]))) for text, one in zip(texts, row["instances"], strict=True) if text
    ]


def written(data: Path) -> Iterator[Written]:
    """All summaries of the three kinds of files that are there."""
    for row in read_rows(data / PROMPTED):
        if row["dataset"] in DATASETS and not str(row["template"]).startswith(BACKWARDS):
            yield from pairs_of(row)
    for name in TASK_FILES:
        for row in read_rows(data / name):
            if row["task"] in TASKS:
                yield from pairs_of(row)
    for row in read_rows(data / ABSTRACTS):
        for qa in row["qas"]:  # type: ignore[attr-defined]
            yield Written(str(row["context"]), str(qa["long_answer"]), str(qa["question"]))


def asked(rng: random.Random, one: Written, passage: str, each: int) -> Iterator[tuple[Asked, str]]:
    """General questions with the whole summary for an answer; of who speaks, with its sentences that name them."""
    speakers = sorted(set(_SPEAKER.findall(passage)))
    forms = _TABLE["questions"] + (_TABLE["conversation"] if len(speakers) > 1 else [])
    for question in [one.question] if one.question else rng.sample(forms, each):
        yield Asked(passage, question), one.summary
    sentences = split_sentences(one.summary)
    named = {name: " ".join(s for s in sentences if name in s) for name in speakers}
    for name in rng.sample(speakers, min(1, len(speakers))):
        if len(speakers) > 1 and named[name]:
            yield Asked(passage, rng.choice(_TABLE["speaker"]).replace("{topic}", name)), named[name]


def borne_out(passage: str, summary: str) -> bool:
    """Whether a passage has half of what a summary says: people put things in words of their own, and texts are cut."""
    known = {word.lower()[:STEM] for word in WORD.findall(passage)}
    telling = [word.lower()[:STEM] for word in WORD.findall(summary) if len(word) > 3]
    return bool(telling) and sum(word in known for word in telling) >= BORNE_OUT * len(telling)


def sound_pairs(
    tokenizer: Tokenizer, found: Sequence[Written], each: int, rng: random.Random
) -> list[tuple[Asked, str]]:
    """Questions on different passages, with answers that what one chunk holds of the text bears out."""
    pairs: dict[str, list[tuple[Asked, str]]] = {}
    for one in found:
        passage = passage_of(tokenizer, one.text)
        if passage not in pairs and borne_out(passage, one.summary):
            pairs[passage] = list(asked(rng, one, passage, each))
    return [pair for some in pairs.values() for pair in some]


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = data_parser("written_summaries", __doc__, "the sets", "a reading set")
    parser.add_argument("--each", type=int, default=2, help="general questions a passage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng = random.Random(options.seed)
    try:
        found = list(written(options.data))
        pairs = sound_pairs(load_tokenizer(options.base), found, options.each, rng)
    except LocalHyperError as error:
        refuse(parser, error)
    kept = rows(pairs)
    rng.shuffle(kept)
    Console(stderr=True).print(f"{len(pairs)} answers on {len(kept)} passages, of {len(found)} summaries")
    write_rows(options.out, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
