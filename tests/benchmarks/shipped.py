"""What the benchmarks of answers share: the shipped models in a home of their own, documents and tasks, shares."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from localhyper.chunk_choice import Choice
from localhyper.config import Config, load_config
from localhyper.engine import AdapterUse, ChatMessage, Engine
from localhyper.errors import LocalHyperError
from localhyper.evaluate.columns import converse
from localhyper.evaluate.facts import Fact
from localhyper.evaluate.haystack import HaystackMaker
from localhyper.evaluate.intervals import wilson
from localhyper.jobs import JobRequest
from localhyper.paths import get_paths
from localhyper.progress import CancelToken
from localhyper.registry import load_registry
from localhyper.task_pipeline import task_document
from localhyper.workbench import Workbench


def on_shipped_models(work: Callable[[Workbench], None]) -> int:
    """Do this with the default models, in a folder that is deleted afterwards; the exit code."""
    base = load_registry().find_base(Config().base.name)  # may lie in the user's home; what is made here does not
    config = load_config(get_paths().config_file)
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-benchmark-") as folder:
            with Workbench(get_paths(Path(folder)).create(), config, base=str(base)) as bench:
                work(bench)
    except LocalHyperError as error:
        print(f"error: {error.message}", error.hint, sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


def share(flags: Sequence[bool]) -> str:
    """A share in per cent with its interval."""
    interval = wilson(sum(flags), len(flags))
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def needles(bench: Workbench, maker: HaystackMaker, count: int) -> Iterator[tuple[AdapterUse, Fact]]:
    """Documents with one fact each, attached one after the other, and their facts."""
    for index in range(count):
        case = maker.make(index)
        made = bench.attach(bench.read(JobRequest(text=case.text)), bench.options(f"document-{index}"))
        yield AdapterUse(made.result.adapter.path), case.fact


def attached_task(bench: Workbench, text: str, name: str, bundle: str = "") -> AdapterUse:
    """The adapter of a task's description, by the shipped hypernetwork or by `bundle`."""
    return AdapterUse(bench.attach_task(task_document(text), bench.options(name), hypernet=bundle).result.adapter.path)


def ask_with(engine: Engine, uses: Sequence[AdapterUse], message: str, most: int) -> str:
    """The greedy reply with these adapters in force, of at most so many tokens."""
    return ask_chosen(engine, Choice(tuple(uses)), message, most)


def ask_chosen(engine: Engine, choice: Choice, message: str, most: int) -> str:
    """The greedy reply as the choice has it."""
    engine.set_adapters(choice.uses)
    return converse(engine, choice.prompt([ChatMessage("user", message)]), most, CancelToken())[0]
