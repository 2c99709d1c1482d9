"""The base model's own replies to requests that no document is about, for the unrelated objective.

Replies of a data set would only say what the base thinks of somebody else's words. On its own ones, the objective holds
an adapted model to how the base begins, goes on and ends: an attached document must not make everyday answers short.

    python -m localhyper.export.own_replies --base MODEL.gguf --data DATA --out DATA/own_replies.jsonl.gz
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from localhyper.engine import EngineConfig
from localhyper.errors import LocalHyperError
from localhyper.export.command_line import data_parser, refuse
from localhyper.export.data_files import read_instructions, write_rows
from localhyper.export.packaged import packaged_table
from localhyper.progress import CancelToken

LONGEST_PROMPT = 256  # tokens of a request and the template round it
PLACE = re.compile(r"{(\w+)}")


def everyday_requests(rng: random.Random, count: int) -> list[str]:
    """Different requests drawn from the forms of `everyday.toml`; fewer if there are not so many."""
    table = packaged_table("everyday.toml")
    forms: list[str] = table["forms"]
    words: dict[str, list[str]] = table["words"]
    found: dict[str, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        form = rng.choice(forms)
        found[PLACE.sub(lambda match: rng.choice(words[match[1]]), form)] = None
    return list(found)


def requests(data: Path, instructions: Sequence[str], everyday: int, taken: int, seed: int) -> list[str]:
    """Everyday requests and `taken` ones of instruction sets, shuffled."""
    rng = random.Random(seed)
    found = [pair.question for name in instructions for pair in read_instructions(data / name)]
    drawn = rng.sample(found, min(taken, len(found))) + everyday_requests(rng, everyday)
    rng.shuffle(drawn)
    return drawn


def replies(path: Path, asked: Sequence[str], max_tokens: int) -> Iterator[str]:
    """The greedy reply to each request, by llama.cpp."""
    from localhyper.evaluate.columns import ask
    from localhyper.llama_engine import LlamaEngine

    with LlamaEngine.load(path, EngineConfig(n_ctx=1024)) as engine:
        for request in track(asked, "asking", console=Console(stderr=True)):
            yield ask(engine, request, max_tokens, CancelToken())


def torch_replies(
    path: Path, asked: Sequence[str], max_tokens: int, device: str, longest: int = LONGEST_PROMPT
) -> list[str]:
    """The same by PyTorch, many at once; needs no llama.cpp. "" for requests of more than `longest` tokens."""
    from localhyper.export.greedy import greedy_replies
    from localhyper.export.prompts import read_prompt_format
    from localhyper.export.speed import fast_dtype
    from localhyper.export.tokenizer import load_tokenizer
    from localhyper.export.torch_base import TorchBase

    base = TorchBase(path, fast_dtype(device)).to(device)
    return greedy_replies(base, load_tokenizer(path), read_prompt_format(path, ""), asked, max_tokens, longest)


def add_asking_options(parser: argparse.ArgumentParser) -> None:
    """What `chosen_replies` reads, but for `--base`; and the seed of what is asked."""
    parser.add_argument("--max-tokens", type=int, default=64, help="longest reply; a row of training holds no more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="ask in PyTorch there, many at once, not in llama.cpp"
    )


def chosen_replies(options: argparse.Namespace, asked: Sequence[str], longest: int = LONGEST_PROMPT) -> Iterable[str]:
    """The greedy reply to each request, by PyTorch where a device is named, else by llama.cpp."""
    if options.device:
        return torch_replies(options.base, asked, options.max_tokens, options.device, longest)
    return replies(options.base, asked, options.max_tokens)


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = data_parser("own_replies", __doc__, "the instruction sets", "JSON lines `{question, answer}`")
    parser.add_argument("--instructions", nargs="*", default=["sni/extra.jsonl.gz"], help="instruction sets, inside it")
    parser.add_argument("--everyday", type=int, default=500, help="requests made from everyday.toml")
    parser.add_argument("--taken", type=int, default=200, help="requests taken from the instruction sets")
    add_asking_options(parser)
    options = parser.parse_args(argv)
    try:
        asked = requests(options.data, options.instructions, options.everyday, options.taken, options.seed)
        said = chosen_replies(options, asked)
        rows = [{"question": request, "answer": reply} for request, reply in zip(asked, said, strict=True) if reply]
    except LocalHyperError as error:
        refuse(parser, error)
    write_rows(options.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
