"""Meta-training: `python -m localhyper.export.train RECIPE --base MODEL.gguf --data DIR --out RUN`.

Runs as it is under `accelerate launch` on several processes. Stops and goes on as `training_loop` says.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from localhyper.errors import ConfigError
from localhyper.export.batches import Batch, Collator
from localhyper.export.data import ExampleMaker, Mixture
from localhyper.export.data_files import load_corpus
from localhyper.export.given_weights import read_given, run_name, take_given
from localhyper.export.hypernetwork import AssociationHypernetwork
from localhyper.export.metric import low_rank, second_moments
from localhyper.export.objectives import (
    ALONE,
    Losses,
    MetaModel,
    Probe,
    Settled,
    Surround,
    TokenCounts,
    count_tokens,
    probe,
)
from localhyper.export.perceiver import PerceiverHypernetwork
from localhyper.export.prefetch import prefetch
from localhyper.export.prompts import read_prompt_format
from localhyper.export.run_options import add_run_options, add_stop_option, chosen_dtype, run_command
from localhyper.export.surround import Beside, FilledRun, FillerBank, RunMaker
from localhyper.export.texts import Corpus, long_texts
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import TorchBase
from localhyper.export.train_config import Recipe, load_recipe
from localhyper.export.training_loop import StepResult, TrainingLoop, make_optimizers

NO_MATRICES = ("positions", "latents", "gate.")


def moment_batches(corpus: Corpus, collator: Collator, recipe: Recipe) -> list[Tensor]:
    """Generic text for the second moments: prefix + full-length chunks of training contexts and filler, no padding."""
    rng, length = random.Random(recipe.run.seed), recipe.hypernetwork.max_tokens
    stream: list[int] = []
    while len(stream) < recipe.run.moment_tokens:
        text = rng.choice(corpus.reading).text if rng.random() < 0.5 else " ".join(rng.choice(corpus.sentences)[:12])
        stream += collator.encode(text + "\n")
    rows = [collator.prefix + stream[i : i + length] for i in range(0, len(stream) - length, length)]
    return [torch.tensor(rows[i : i + 8]) for i in range(0, len(rows), 8)]


PROBED_CHUNKS = (16, 64)
PROBED_BESIDE, PROBED_FACTS = 32, 1.5  # chunks to ask about, at least; facts a chunk
LONG_PROBED = ("facts", "relations", "reading")
PROBED = {  # documents of up to four facts
    "facts": Mixture(facts=1, reading=0, continuation=0, most_facts=4, facts_ramp=1),
    "relations": Mixture(facts=0, reading=0, continuation=0, relations=1, most_facts=4, facts_ramp=1),
    "reading": Mixture(facts=0, reading=1, continuation=0),
    "about": Mixture(facts=0, reading=0, continuation=0, about=1),
    "crossed": Mixture(facts=0, reading=0, continuation=0, crossed=1, most_facts=4, facts_ramp=1),
    "overviews": Mixture(facts=0, reading=0, continuation=0, overviews=1),
    "quotes": Mixture(facts=0, reading=0, continuation=0, quotes=1),
}


class BatchMaker:
    """The batch of a step on one process; document i of all processes is the same however many there are."""

    def __init__(self, recipe: Recipe, collator: Collator, process: int) -> None:
        self.recipe, self.collator, self.process = recipe, collator, process

    def batch(
        self,
        maker: ExampleMaker,
        step: int,
        mixture: Mixture,
        *,
        unrelated: bool,
        beside: Beside | None = None,
        packed: bool = False,
    ) -> Batch:
        """On the CPU; `beside` is what most of its documents are drawn from."""
        count, seed = self.recipe.run.documents, self.recipe.run.seed
        first = self.process * count
        names = [f"{seed}/{maker.split}/{step}/{i}" for i in range(first, first + count)]
        rngs = [random.Random(name) for name in names]
        own = self.recipe.surround.own_text
        examples = [
            (beside.draw(rng, mixture) if beside and rng.random() < own else None) or maker.draw(rng, mixture, step)
            for rng in rngs
        ]
        others = [maker.unrelated(random.Random(f"{name}/unrelated")) for name in names] if unrelated else []
        return self.collator(rngs, examples, self.recipe.run.rows, others, packed=packed)

    def keeps_base(self, step: int) -> bool:
        """Whether a step has the unrelated-question objective."""
        return self.recipe.loss.unrelated > 0 and step % self.recipe.run.unrelated_every == 0


class Run(TrainingLoop):
    """One training run of a document hypernetwork."""

    model: MetaModel

    def __init__(
        self,
        recipe: Recipe,
        base_path: Path,
        data: Path,
        out: Path,
        device: str,
        dtype: torch.dtype,
        init: Path | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(recipe.run, out, device, dtype)
        self.recipe, self.workers = recipe, workers
        tokenizer = load_tokenizer(base_path)
        prompts = read_prompt_format(base_path, recipe.chunk_prefix)
        size = (recipe.perceiver or recipe.hypernetwork).max_tokens
        self.collator = Collator(tokenizer, prompts, size, recipe.run.max_row, recipe.run.bucket, recipe.reply_start)
        self.batches = BatchMaker(recipe, self.collator, self.accelerator.process_index)
        cfg = recipe.data
        size = cfg.cut_tokens or size
        files = (cfg.instructions, cfg.replies, cfg.about, cfg.probed)
        train, held = load_corpus(data, cfg.reading, cfg.texts, tokenizer, size, cfg.holdout, *files)
        self.maker, self.held = ExampleMaker(train, tokenizer, size), ExampleMaker(held, tokenizer, size, "test")
        self.bank = FillerBank(self.maker, self.collator, recipe.surround, recipe.run.seed)
        if recipe.surround.share and not self.bank.runs:
            raise ConfigError(
                f"no text of this recipe has more than {recipe.surround.live} chunks, which [surround] needs",
                "give longer texts, or set surround.share to 0",
            )
        self.held_run = self._held_run() if recipe.surround.share else None
        base = TorchBase(base_path, dtype).to(self.device)
        given = self._given_weights(init) if init is not None and not self.checkpoint.exists() else None
        hypernetwork = self._hypernetwork(base, train, measured=given is None or "basis" not in given["hypernetwork"])
        self.model = MetaModel(base, hypernetwork, len(self.collator.prefix), int(recipe.run.cache_gb * 2**30))
        self.optimizers = make_optimizers(self.model, recipe.run, NO_MATRICES)
        if init is not None and given is not None:
            self._start_from(init, given)
        self.prepare()

    def _hypernetwork(
        self, base: TorchBase, corpus: Corpus, *, measured: bool
    ) -> AssociationHypernetwork | PerceiverHypernetwork:
        """A new one; without the measured moment where one comes with given weights."""
        torch.manual_seed(self.recipe.run.seed)
        if self.recipe.perceiver is not None:
            norm, epsilon = base.get_buffer("output_norm_weight"), base.shape.norm_epsilon
            return PerceiverHypernetwork(self.recipe.perceiver, norm, epsilon).to(self.device)
        moment = None
        if measured and not self.checkpoint.exists():
            batches = [ids.to(self.device) for ids in moment_batches(corpus, self.collator, self.recipe)]
            c = self.recipe.hypernetwork
            moment = low_rank(second_moments(base, batches, c.blocks, len(self.collator.prefix)), c.metric_rank)
        return AssociationHypernetwork(self.recipe.hypernetwork, moment).to(self.device)

    @property
    def trained(self) -> AssociationHypernetwork | PerceiverHypernetwork:
        """The hypernetwork."""
        return self.model.hypernetwork

    def extra_state(self) -> dict[str, Any]:
        """The settled sum of filler chunks, which outlives the step that made it."""
        return {"settled": vars(self.model.settled) if self.model.settled else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the settled sum back."""
        self.model.settled = Settled(**state["settled"]) if state["settled"] else None

    def _start_from(self, path: Path, state: dict[str, Any]) -> None:
        """Weights of an earlier run or of a bundle; what it did not have yet, or `run.fresh` names, starts as always.

        Raises:
            ConfigError: They are of another hypernetwork.
        """
        new = take_given(self.trained, path, state["hypernetwork"], self.recipe.run.fresh)
        self.log({"event": "started from", "run": run_name(path), "step": state["step"], "new parameters": new})

    def _given_weights(self, path: Path) -> dict[str, Any]:
        """`hypernetwork` and `step` of a checkpoint or a bundle.

        Raises:
            ConfigError: It is missing, or of another kind than the recipe's.
        """
        if path.suffix == ".onnx" and path.is_file() and self.recipe.perceiver is not None:
            raise ConfigError(f"{path} holds an association hypernetwork, the recipe asks for a Perceiver")
        return read_given(path, self.device, self.recipe.hypernetwork)

    def begin(self, first: int, last: int) -> None:
        """Have the batches of these steps made."""
        self._coming: Iterator[Batch] = prefetch(self._train_batch, first, last, self.workers)

    def _train_batch(self, step: int) -> Batch:
        keeps, beside, packed = self.batches.keeps_base(step), self.bank.beside(step), self.recipe.run.packed
        mixture = self.recipe.mixture
        return self.batches.batch(self.maker, step, mixture, unrelated=keeps, beside=beside, packed=packed)

    def _settle(self) -> None:
        chunks = self.bank.to_settle(self.step)
        if chunks is not None:
            self.model.settle(chunks.to(self.device), self.bank.total(len(chunks)))

    def _surround(self) -> Surround:
        chosen = self.bank.surround(self.step)
        return replace(chosen, live=chosen.live.to(self.device)) if chosen.live else chosen

    def train_step(self) -> StepResult:
        """One optimizer step."""
        self._settle()
        batch = next(self._coming).to(self.device)
        extra = random.Random(f"{self.recipe.run.seed}/chunks/{self.step}").randrange(self.recipe.run.max_chunks)
        counts = TokenCounts(*self.accelerator.reduce(count_tokens(batch), "mean"))
        surround = self._surround()
        losses: Losses = self.wrapped(batch, self.recipe.loss, extra, surround, counts)
        norm = self.descend(losses.total)
        live = surround.live.ids if surround.live else None
        ids = [batch.documents, batch.rows, batch.unrelated, live]
        tokens = torch.tensor(float(sum(t.numel() for t in ids if t is not None)), device=self.device)
        parts = self.accelerator.reduce(torch.stack([losses.answer, losses.unrelated, losses.teacher]), "mean").tolist()
        settled = self.model.settled.chunks if surround.settled and self.model.settled else 0
        return StepResult(
            dict(zip(("answer", "unrelated", "teacher"), parts, strict=True)),
            float(norm),
            int(self.accelerator.reduce(tokens, "sum")),
            {"chunks": 1 + extra + surround.chunks + settled},
        )

    def _probe(
        self, kind: str, count: int, extra: int = 0, surround: Surround = ALONE, beside: Beside | None = None
    ) -> dict[str, float]:
        batches = [
            self.batches.batch(self.held, 100 + i, PROBED[kind], unrelated=False, beside=beside).to(self.device)
            for i in range(count)
        ]
        result: Probe = probe(self.model, batches, extra, surround)
        return {name: round(value, 4) for name, value in vars(result).items()}

    def probe(self) -> dict[str, object]:
        """Held-out figures: invented facts of unseen words, held-out reading contexts, both alone and in long sums."""
        row: dict[str, object] = {"event": "probe", "step": self.step}
        count = self.recipe.run.probe_batches
        row["facts"], row["reading"] = self._probe("facts", count), self._probe("reading", 2 * count)
        if self.recipe.mixture.relations:
            row["relations"] = self._probe("relations", count)
        for kind in ("about", "crossed", "overviews", "quotes"):
            if self.recipe.mixture.shares[kind]:
                row[kind] = self._probe(kind, count)
        if self.recipe.run.max_chunks > 1:
            row["facts_many_chunks"] = self._probe("facts", 1, self.recipe.run.max_chunks - 1)
        if self.held_run is not None:
            row |= self._probe_long(self.held_run)
        return row

    def _held_run(self) -> FilledRun:
        """Chunks of the longest held-out text, with facts."""
        plain, articles = long_texts(self.held.corpus)
        text = max([*plain, *articles], key=lambda text: len(text.sentences))
        most = max(PROBED_CHUNKS) + PROBED_BESIDE
        return RunMaker(self.held, self.collator).run(random.Random(self.schedule.seed), text, most, PROBED_FACTS)

    def _probe_long(self, run: FilledRun) -> dict[str, dict[str, float]]:
        """The same kinds of documents, most of them chunks of a text among others of it."""
        before, found = self.model.settled, {}
        for chunks in PROBED_CHUNKS:
            size = min(chunks - 1, len(run.chunks) // 2)
            self.model.settle(run.tokens.chosen(range(size)).to(self.device), size + 1)
            around, beside = Surround(settled=True), Beside(run.chunks[size:])
            for kind in LONG_PROBED:
                found[f"{kind}_{chunks}_chunks"] = self._probe(kind, 1, 0, around, beside)
        self.model.settled = before
        return found


def start(options: argparse.Namespace) -> None:
    """Train as the recipe says.

    Raises:
        LocalHyperError: Recipe, base model or data cannot be used.
    """
    recipe, dtype = load_recipe(options.recipe), chosen_dtype(options)
    run = Run(recipe, options.base, options.data, options.out, options.device, dtype, options.init, options.workers)
    run.train(options.stop_at)


def main(argv: list[str] | None = None) -> int:
    """Command line of the training run."""
    epilog = "Recipes for tasks, search and sums take other options: `localhyper train RECIPE --help` shows them."
    about = "Meta-train a document hypernetwork"
    parser = argparse.ArgumentParser(prog="localhyper train", description=about, epilog=epilog)
    add_run_options(parser, "smollm2-135m-document.toml")
    parser.add_argument("--init", type=Path, help="checkpoint.pt of an earlier run, or a bundle, to start from")
    add_stop_option(parser)
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches ahead; worth it with a GPU")
    return run_command(parser, argv, start)


if __name__ == "__main__":
    raise SystemExit(main())
