"""What the base model itself says of a passage in its prompt when it is asked in general, as a reading set.

Reading sets ask for what stands in a few words of a text. To "What is this document about?" an adapter that learnt from
them says three of these words, or nothing to the purpose. Here the base model, with the passage before it, is the
teacher (context distillation: Snell et al. 2022, arXiv 2209.15189; Doc-to-LoRA trains so). It is a small one: what it
says in circles, or in words that the passage does not have, is left out.

    python -m localhyper.export.own_summaries --base MODEL.gguf --data DATA --out DATA/own_summaries.jsonl.gz
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tokenizers import Tokenizer

from localhyper.errors import LocalHyperError
from localhyper.evaluate.columns import message_for
from localhyper.export.command_line import data_parser, refuse
from localhyper.export.data_files import read_rows, write_rows
from localhyper.export.data_sets import ABSTRACTS, ASKED
from localhyper.export.own_replies import add_asking_options, chosen_replies
from localhyper.export.packaged import packaged_table
from localhyper.export.tokenizer import load_tokenizer

SETS = (*ASKED, ABSTRACTS)
PASSAGE = 240  # most tokens of a passage: one chunk holds it
LONGEST_PROMPT = 320  # tokens of a passage, a question and the template round them
ON_TOPIC = 0.4  # share of questions about a topic of the passage, the others being about all of it
GROUNDED = 0.7  # share of a reply's words that its passage or question must have
REPEATED = 5  # words in a row that a reply may not say twice
LEASTWORDS = 6
_TABLE = packaged_table("about.toml")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # noqa: RUF001
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][\w-]+(?: [A-Z][\w-]+)*")
_SENTENCE_END = re.compile(r"(?<!\n\d)[.!?][\"”')]*(?=\s|$)")


@dataclass(frozen=True)
class Asked:
    """A question about a passage."""

    passage: str
    question: str

    @property
    def message(self) -> str:
        """Both, as a prompt has them."""
        return message_for("context", self.question, self.passage)


def passage_of(tokenizer: Tokenizer, text: str) -> str:
    """A text, or what one chunk holds of it."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return text if len(ids) <= PASSAGE else str(tokenizer.decode(ids[:PASSAGE]))


def passages(tokenizer: Tokenizer, data: Path, sets: Sequence[str], count: int, rng: random.Random) -> Iterator[str]:
    """Different contexts of the sets, each set as often as the others while it lasts, cut to one chunk."""
    contexts = [[str(row["context"]) for row in read_rows(data / name)] for name in sets]
    for texts in contexts:
        rng.shuffle(texts)
    for _ in range(count):
        contexts = [texts for texts in contexts if texts]
        if not contexts:
            return
        text = rng.choice(contexts).pop()
        yield passage_of(tokenizer, text)


def topics(passage: str) -> list[str]:
    """What a passage can be asked for: names inside its sentences, and words that come more than once."""
    often = Counter(word.lower() for word in WORD.findall(passage) if len(word) > 5)
    return sorted({*_NAME.findall(passage), *(word for word, count in often.items() if count > 1)})


def questions(rng: random.Random, passage: str, count: int) -> list[str]:
    """Different questions about a passage."""
    general: list[str] = rng.sample(_TABLE["questions"], count)
    found, forms = topics(passage), _TABLE["on_topic"]
    return [
        rng.choice(forms).replace("{topic}", rng.choice(found)) if found and rng.random() < ON_TOPIC else one
        for one in general
    ]


def sound_reply(asked: Asked, reply: str) -> str:
    """A reply up to its last whole sentence; "" where it goes in circles or says what its passage does not."""
    ends = [match.end() for match in _SENTENCE_END.finditer(reply)]
    said = reply[: ends[-1]].strip() if ends else ""
    words = [word.lower() for word in WORD.findall(said)]
    runs = [tuple(words[i : i + REPEATED]) for i in range(len(words) - REPEATED + 1)]
    known = {word.lower() for word in WORD.findall(f"{asked.passage} {asked.question}")}
    telling = [word for word in words if len(word) > 3]
    grounded = sum(word in known for word in telling) >= GROUNDED * len(telling)
    return said if len(words) >= LEASTWORDS and len(set(runs)) == len(runs) and grounded else ""


def rows(answered: Iterable[tuple[Asked, str]]) -> list[dict[str, object]]:
    """A row a passage: `{context, qas: [{question, answers: [reply]}]}`."""
    found: dict[str, list[dict[str, object]]] = {}
    for one, reply in answered:
        found.setdefault(one.passage, []).append({"question": one.question, "answers": [reply]})
    return [{"context": passage, "qas": qas} for passage, qas in found.items()]


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = data_parser("own_summaries", __doc__, "the reading sets", "a reading set")
    parser.add_argument("--sets", nargs="*", default=list(SETS), help="reading sets, inside it")
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--each", type=int, default=2, help="questions a passage")
    add_asking_options(parser)
    options = parser.parse_args(argv)
    rng = random.Random(options.seed)
    try:
        tokenizer = load_tokenizer(options.base)
        asked = [
            Asked(passage, question)
            for passage in passages(tokenizer, options.data, options.sets, options.passages, rng)
            for question in questions(rng, passage, options.each)
        ]
        said = chosen_replies(options, [one.message for one in asked], LONGEST_PROMPT)
        sound = [(one, sound_reply(one, reply)) for one, reply in zip(asked, said, strict=True)]
    except LocalHyperError as error:
        refuse(parser, error)
    kept = [(one, reply) for one, reply in sound if reply]
    Console(stderr=True).print(f"{len(kept)} of {len(asked)} replies are sound")
    write_rows(options.out, rows(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
