"""`python -m tests.benchmarks.quotes SET OUT [PASSAGES]`: a reading set of what passages say of something.

It is for `localhyper eval squad`: each question names what one sentence of a passage alone speaks of, in words that
training does not ask in, and its answer is that sentence.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from localhyper.errors import LocalHyperError
from localhyper.evaluate.reading_set import Passage, read_reading_set
from localhyper.export.data_files import write_rows
from localhyper.export.quotes import named, own_topics
from localhyper.export.texts import split_passage

FORMS = (
    "What can I read here about {topic}?",
    "What does it say about {topic}?",
    "Which sentence speaks of {topic}?",
    "What do they say about {topic}?",
    "Could you tell me what is stated on {topic}?",
)
PASSAGES, EACH = 120, 2  # questions of a passage


def rows(passages: Sequence[Passage], count: int) -> Iterator[dict[str, object]]:
    """So many passages that have sentences enough to be quoted, with two questions each."""
    return islice(_asked(passages), count)


def _asked(passages: Sequence[Passage]) -> Iterator[dict[str, object]]:
    rng, shuffled = random.Random(0), list(passages)
    rng.shuffle(shuffled)
    for passage in shuffled:
        quotable = own_topics(split_passage(passage.text))
        if len(quotable) < EACH:
            continue
        qas = [
            {"question": rng.choice(FORMS).format(topic=named(rng.choice(own))), "answers": [sentence]}
            for sentence, own in rng.sample(quotable, EACH)
        ]
        yield {"title": passage.title, "context": passage.text, "qas": qas}


def main(path: Path, out: Path, count: int = PASSAGES) -> int:
    """Write the set; the exit code."""
    try:
        write_rows(out, rows(read_reading_set(path), count))
    except LocalHyperError as error:
        print(f"error: {error.message}", error.hint, sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4])))
