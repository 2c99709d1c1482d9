"""The measurements: attach, first token, load and set, decode speed, hypernetwork, file size.

Every pair is measured in turns, so that a machine that slows down slows both. Knows no output format.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from localhyper.chunk_chooser import ChunkChooser
from localhyper.database import Database
from localhyper.engine import Activations, AdapterUse, ChatMessage, GenerationStats, Sampling
from localhyper.evaluate.columns import make_document
from localhyper.evaluate.needle import read_sentences
from localhyper.hypernet import OnnxHypernetwork
from localhyper.library import AdapterInfo, Library, file_to_check
from localhyper.llama_engine import LlamaEngine
from localhyper.memory_check import physical_cores
from localhyper.pipeline import AttachOptions, AttachResult, attach_document
from localhyper.whole_document import make_whole
from tests.benchmarks.figures import Comparison, Figures, SizeRow, Timing

QUESTION = "What is the text about?"
STORIES = (
    "Write a long story about a river.",
    "Explain in detail how bread is made.",
    "Describe a winter in a village.",
)


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Rounds of each measurement, after one that is thrown away.
        tokens: Document lengths for attach and first token.
        size_tokens: Document lengths for file sizes.
        decode_steps: Tokens decoded in one round of the decode measurement, at least.
    """

    rounds: int = 3
    tokens: tuple[int, ...] = (1024, 4096)
    size_tokens: tuple[int, ...] = (256, 1024, 4096, 16384)
    decode_steps: int = 64


QUICK = Plan(rounds=1, tokens=(1024,), size_tokens=(256, 1024), decode_steps=48)


class Bench:
    """One run over a loaded engine and hypernetwork; adapters go into a library under `home`."""

    def __init__(self, plan: Plan, engine: LlamaEngine, hypernetwork: OnnxHypernetwork, home: Path) -> None:
        self.plan, self.engine, self.hypernetwork, self.home = plan, engine, hypernetwork, home
        self.library = Library(Database(home / "library.sqlite3"), home / "adapters")
        self._numbers = itertools.count()
        self._filler = " ".join(read_sentences(None))
        self._stages: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._notes: list[str] = []

    def measure(self) -> Figures:
        """Everything."""
        network = self._hypernetwork()
        comparisons = [*self._attach(), *self._first_token(), *self._decode(), *([network] if network else [])]
        stages = {
            tokens: {stage: median(values) for stage, values in by_stage.items()}
            for tokens, by_stage in self._stages.items()
        }
        return Figures(tuple(comparisons), (*self._load_and_set(),), tuple(self._sizes()), stages, tuple(self._notes))

    def text(self, tokens: int) -> str:
        """A text of at most `tokens` tokens, and near, that begins like no other of this run: no cache can help."""
        start = f"Copy {next(self._numbers)} of the text. "
        ids = self.engine.tokenize(start + self._filler * (1 + tokens * 8 // len(self._filler)))
        cut = tokens
        while len(self.engine.tokenize(text := self.engine.detokenize(ids[:cut]))) > tokens:
            cut -= 1  # the end of a text may have more tokens than it had inside
        return text

    def _attach_once(self, tokens: int) -> tuple[float, AttachResult]:
        document = make_document("benchmark", self.text(tokens))
        started = time.perf_counter()
        result = attach_document(document, self.engine, self.hypernetwork, self.library, AttachOptions())
        return time.perf_counter() - started, result

    def _prompt(self, message: str) -> GenerationStats:
        """What the first token of a reply to `message` costs."""
        *_, last = self.engine.generate([ChatMessage("user", message)], Sampling(max_tokens=1))
        assert last.stats is not None, "the last piece of a reply carries its stats"
        return last.stats

    def _prefill_once(self, tokens: int) -> float:
        """Seconds of a plain prefill of `tokens` tokens, the chat template's among them."""
        around = len(self.engine.tokenize(self.engine.render([ChatMessage("user", "")]), special=True))
        return self._prompt(self.text(tokens - around)).prompt_seconds

    def _attach(self) -> Iterator[Comparison]:
        for tokens in self.plan.tokens:
            attached, whole, prefilled = [], [], []
            for turn in range(self.plan.rounds + 1):
                seconds, result = self._attach_once(tokens)
                prefill = self._prefill_once(tokens)
                made = self._whole_once(result.adapter)
                if turn:
                    attached.append(seconds)
                    whole.append(made)
                    prefilled.append(prefill)
                    for stage, value in result.timings.items():
                        self._stages[tokens][stage].append(value)
            title, goal = f"attach a document of {tokens} tokens", "≤ 1.5, goal 1.15"
            yield Comparison(title, "attach", "plain prefill", "s", tuple(attached), tuple(prefilled), goal)
            title = f"its adapter as a whole, {tokens} tokens"
            yield Comparison(title, "first export", "plain prefill", "s", tuple(whole), tuple(prefilled))

    def _whole_once(self, adapter: AdapterInfo) -> float:
        """Seconds that making the adapter of a whole document takes when it is first wanted; 0 if it is there."""
        started = time.perf_counter()
        if not adapter.whole_made:
            make_whole(adapter, self.engine, self.hypernetwork, self.library)
        return time.perf_counter() - started

    def _first_token(self) -> Iterator[Comparison]:
        for tokens in self.plan.tokens:
            document = AdapterUse(self._attach_once(tokens)[1].adapter.path)
            shown, attached = [], []
            for turn in range(self.plan.rounds + 1):
                self.engine.set_adapters([])
                in_prompt = self._prompt(f"{self.text(tokens)}\n\n{QUESTION}").first_token_seconds
                with_adapter = self._chosen_once(document)
                if turn:
                    shown.append(in_prompt)
                    attached.append(with_adapter)
            self.engine.set_adapters([])
            title, goal = f"first token, document of {tokens} tokens", "≥ 20, goal 50" if tokens >= 4096 else ""
            yield Comparison(title, "document in the prompt", "adapter", "s", tuple(shown), tuple(attached), goal)

    def _chosen_once(self, document: AdapterUse) -> float:
        """Seconds from a question to the first token of what its chunk answers: found, set, and read."""
        started = time.perf_counter()
        chosen = ChunkChooser(lambda: self.library)([QUESTION], [document], self.engine).uses
        assert chosen, "the question is about the document"
        self.engine.set_adapters(chosen)  # empties the KV cache
        return time.perf_counter() - started + self._prompt(QUESTION).first_token_seconds

    def _load_and_set(self) -> Iterator[Timing]:
        source = file_to_check(self._attach_once(256)[1].adapter.path)
        loads, sets = [], []
        for turn in range(3 * self.plan.rounds + 1):
            copies = [self.home / f"copy-{turn}-{number}.gguf" for number in range(2)]
            for copy in copies:
                shutil.copyfile(source, copy)
            loads += [self._milliseconds(copy) for copy in copies]
            sets += [self._milliseconds(copy) for copy in copies]
        self.engine.set_adapters([])
        yield Timing("check, load and set an adapter file seen for the first time", "ms", tuple(loads[2:]), "< 10 ms")
        yield Timing("switch between adapters already loaded", "ms", tuple(sets[2:]), "< 10 ms")

    def _milliseconds(self, path: Path) -> float:
        started = time.perf_counter()
        self.engine.set_adapters([AdapterUse(path)])
        return 1000 * (time.perf_counter() - started)

    def _decode(self) -> Iterator[Comparison]:
        made = self._attach_once(256)[1].adapter
        files = {"the adapter of a chunk": file_to_check(made.path)}
        self._whole_once(made)
        files["that of a whole document"] = made.path
        for what, file in files.items():
            plain, adapted = [], []
            for turn in range(self.plan.rounds + 1):
                with_adapter, without = self._speed([AdapterUse(file)], turn), self._speed([], turn)
                if turn:
                    adapted.append(with_adapter)
                    plain.append(without)
            title = f"decode speed with {what}"
            yield Comparison(title, "adapter", "no adapter", "tokens/s", tuple(adapted), tuple(plain), "≥ 0.9")

    def _speed(self, adapters: Sequence[AdapterUse], turn: int) -> float:
        """Tokens a second over as many replies as the wanted steps take: an adapter may make replies short."""
        self.engine.set_adapters(adapters)
        steps, seconds = 0, 0.0
        for number in itertools.count():
            sampling = Sampling(temperature=0.8, max_tokens=self.plan.decode_steps, seed=100 * turn + number)
            *_, last = self.engine.generate([ChatMessage("user", STORIES[number % len(STORIES)])], sampling)
            assert last.stats is not None, "the last piece of a reply carries its stats"
            steps += max(0, last.stats.generated_tokens - 1)
            seconds += last.stats.decode_seconds
            if steps >= self.plan.decode_steps:
                break
            if number > 200:
                raise RuntimeError("the model's replies are too short to measure decoding")
        self.engine.set_adapters([])
        return steps / seconds

    def _hypernetwork(self) -> Comparison | None:
        """One full chunk through onnxruntime and through torch with as many threads."""
        try:
            import torch

            from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork
            from localhyper.export.onnx_bundle import BundleGraph
        except ImportError as error:
            self._notes.append(
                f"hypernetwork, ONNX against torch: skipped, the `train` extra is not installed ({error.name})"
            )
            return None
        config = self.hypernetwork.info.card.get("config")
        if not isinstance(config, dict):
            self._notes.append("hypernetwork, ONNX against torch: skipped, the bundle's card has no configuration")
            return None
        sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        graph = BundleGraph(AssociationHypernetwork(AssociationConfig(**sizes))).eval()
        torch.set_num_threads(physical_cores())  # what OnnxHypernetwork takes
        chunk = self._chunk()
        hidden, ffn = torch.from_numpy(chunk.hidden), torch.from_numpy(chunk.ffn)
        by_onnx, by_torch = [], []
        for turn in range(3 * self.plan.rounds + 1):
            started = time.perf_counter()
            self.hypernetwork.generate(chunk)
            between = time.perf_counter()
            with torch.inference_mode():
                graph(hidden, ffn, torch.ones(1))
            if turn:
                by_onnx.append(between - started)
                by_torch.append(time.perf_counter() - between)
        self._notes.append(
            "the torch hypernetwork has the bundle's sizes and random weights: its time does not depend on them"
        )
        return Comparison("hypernetwork, one full chunk", "ONNX", "torch", "s", tuple(by_onnx), tuple(by_torch))

    def _chunk(self) -> Activations:
        info = self.hypernetwork.info
        before = self.engine.tokenize(info.prefix, special=True)
        size = info.cut_sizes()[0]
        ids = self.engine.tokenize(self.text(size))[:size]
        whole = self.engine.encode(np.concatenate([before, ids]).astype(np.int32), info.capture)
        inside = slice(len(before), None)
        return Activations(np.ascontiguousarray(whole.hidden[:, inside]), np.ascontiguousarray(whole.ffn[:, inside]))

    def _sizes(self) -> Iterator[SizeRow]:
        for tokens in self.plan.size_tokens:
            made = self._attach_once(tokens)[1].adapter
            self._whole_once(made)
            own = self.library.get(made.name)
            yield SizeRow(own.tokens, own.chunks, own.chunk_bytes, own.rank, own.size_bytes, own.energy_kept)
