"""The adapters that the task suites use: those given as files, checked first, and those made of descriptions.

Descriptions become adapters as `localhyper attach --task` makes them, each once, in libraries of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localhyper.engine import AdapterUse, BaseModelInfo, Engine
from localhyper.errors import ConfigError
from localhyper.evaluate.columns import MakeAdapter, attach_maker, library_in
from localhyper.evaluate.task_costs import AdapterSpent, made_of_description
from localhyper.example_lesson import learning_operations
from localhyper.hypernet import OnnxHypernetwork
from localhyper.progress import CancelToken
from localhyper.registry import Registry
from localhyper.sources.document import Document
from localhyper.task_examples import read_task_text
from localhyper.task_pipeline import task_document
from localhyper.task_vector import VectorSource


@dataclass(frozen=True)
class TaskMaker:
    """How descriptions become adapters.

    Attributes:
        make: Document of kind `task` and folder to adapter file.
        spent: What making a file of a description cost, given the seconds.
    """

    make: MakeAdapter
    spent: Callable[[str, Path, float], AdapterSpent]


def task_maker(
    engine: Engine, hypernetwork: OnnxHypernetwork, registry: Registry, rank: int, cancel: CancelToken
) -> TaskMaker:
    """As `localhyper attach --task` does, with this hypernetwork.

    Raises:
        ModelError: The hypernetwork reads the vector of an embedder that is not on this machine.
    """
    bundle, base = hypernetwork.info, engine.info
    if bundle.embedding is None:
        frame = sum(len(engine.tokenize(text, special=True)) for text in (bundle.prefix, bundle.suffix) if text)
        return TaskMaker(
            attach_maker(engine, hypernetwork, rank, cancel),
            lambda text, path, seconds: made_of_description(
                path, seconds, base, bundle, frame, None, example_operations(engine, hypernetwork, text)
            ),
        )
    from localhyper.task_vector import find_source

    source = find_source(registry, bundle, None, cancel=cancel)
    embedder = next(source.folder.rglob("*.onnx"), None) if source.folder is not None else None
    return TaskMaker(
        _vector_maker(base, hypernetwork, source, cancel),
        lambda _, path, seconds: made_of_description(path, seconds, base, bundle, 0, embedder),
    )


def example_operations(engine: Engine, hypernetwork: OnnxHypernetwork, text: str) -> float:
    """What learning a task text's examples takes; 0 without any."""
    examples = read_task_text(text).examples
    return learning_operations(engine, examples, initial=hypernetwork.initial()) if examples else 0.0


def _vector_maker(
    base: BaseModelInfo, hypernetwork: OnnxHypernetwork, source: VectorSource, cancel: CancelToken
) -> MakeAdapter:
    """For hypernetworks that read one vector of a description."""
    from localhyper.pipeline import AttachOptions
    from localhyper.task_pipeline import attach_vector
    from localhyper.task_vector import make_vector

    def make(document: Document, folder: Path) -> Path:
        vector = make_vector(source, document, hypernetwork.info, cancel=cancel)
        options = AttachOptions(name="evaluated")
        return attach_vector(document, vector, base, hypernetwork, library_in(folder), options).adapter.path

    return make


class DescriptionAdapters:
    """Adapters of descriptions, each made when first asked for.

    Attributes:
        spent: What each took, by description.
    """

    def __init__(self, maker: TaskMaker, folder: Path) -> None:
        self._maker, self._folder = maker, folder
        self._paths: dict[str, Path] = {}
        self.spent: dict[str, AdapterSpent] = {}

    def of(self, description: str) -> Path:
        """The adapter file of a description."""
        if description not in self._paths:
            folder = self._folder / str(len(self._paths))
            folder.mkdir(parents=True)
            started = time.perf_counter()
            path = self._maker.make(task_document(description), folder)
            self.spent[description] = self._maker.spent(description, path, time.perf_counter() - started)
            self._paths[description] = path
        return self._paths[description]


@dataclass(frozen=True)
class GivenAdapters:
    """Adapter files named by the user.

    Attributes:
        multitask: One LoRA of all training tasks.
        per_task: By the name of the task.
    """

    multitask: Path | None
    per_task: dict[str, Path]


def find_given(engine: Engine, multitask: Path | None, folder: Path | None, tasks: Sequence[str]) -> GivenAdapters:
    """Look for the files and load each once, so that a wrong one is told of before anything is measured.

    Raises:
        ConfigError: The folder lacks the file of a task.
        AdapterError: A file is missing, damaged, or for another base model.
    """
    per_task = {name: _file_of(folder, name) for name in tasks} if folder is not None else {}
    before = engine.adapters
    try:
        for path in (*((multitask,) if multitask is not None else ()), *per_task.values()):
            engine.set_adapters([AdapterUse(path)])
    finally:
        engine.set_adapters(before)
    return GivenAdapters(multitask, per_task)


def _file_of(folder: Path, name: str) -> Path:
    path = folder / f"{name}.gguf"
    if not folder.is_dir():
        raise ConfigError(f"folder `{folder}` does not exist", "--per-task names a folder with NAME.gguf for each task")
    if Path(name).name != name or not path.is_file():
        raise ConfigError(
            f"folder `{folder}` has no file `{name}.gguf`", "train the LoRA of that task, or leave it out of the data"
        )
    return path
