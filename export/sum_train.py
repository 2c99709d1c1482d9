"""Training what tokens write into long documents: `localhyper train RECIPE …`, for a recipe with a `[sums]` table.

All of a hypernetwork stays as it is but the gates' dependence on the number of chunks (`Salience`), so a document of
one chunk is written as before. Every chunk of a document learns at every step. Stops and goes on as `training_loop`
says.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from localhyper.errors import ConfigError
from localhyper.export.batches import Collator
from localhyper.export.checkpoints import read_checkpoint
from localhyper.export.data import ExampleMaker
from localhyper.export.data_files import load_corpus
from localhyper.export.given_weights import read_given, run_name, take_given
from localhyper.export.hypernetwork import AssociationHypernetwork
from localhyper.export.objectives import MetaModel, exact_share
from localhyper.export.prompts import read_prompt_format
from localhyper.export.run_options import add_run_options, add_stop_option, chosen_dtype, run_command
from localhyper.export.sum_bank import SumParts, read_document
from localhyper.export.sum_config import SumRecipe, load_sum_recipe
from localhyper.export.sum_documents import DocumentMaker
from localhyper.export.texts import Pair
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import BlockLora, TorchBase
from localhyper.export.training_loop import StepResult, TrainingLoop, make_optimizers

TRAINED = ("length", "salience.", "slots.length", "slots.salience.")
PROBED = ("facts", "relations", "reading")


@dataclass(frozen=True)
class SumLosses:
    """Losses of one document, scalars, and what it cost; `total` carries the gradient."""

    total: Tensor
    answer: Tensor
    unrelated: Tensor
    tokens: int
    chunks: int


class SumModel(nn.Module):
    """The losses of one document's questions."""

    def __init__(self, meta: MetaModel, hypernetwork: AssociationHypernetwork) -> None:
        super().__init__()
        self.meta, self.hypernetwork = meta, hypernetwork

    def forward(
        self, parts: SumParts, rows: Tensor, targets: Tensor, others: Tensor | None, marks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of answers, and KL to the base model on rows about something else, means over positions."""
        lora = parts.adapter(self.hypernetwork)
        answer = self.meta.rows_loss(rows, targets, lora)[0] / (targets != -100).sum()
        if others is None or marks is None:
            return answer, answer.new_zeros(())
        return answer, self.meta.kept_loss(others, marks, lora) / (marks != -100).sum()


class SumRun(TrainingLoop):
    """One run."""

    def __init__(
        self,
        recipe: SumRecipe,
        base_path: Path,
        data: Path,
        out: Path,
        device: str,
        dtype: torch.dtype,
        init: Path | None,
    ) -> None:
        super().__init__(recipe.run, out, device, dtype)
        self.recipe = recipe
        tokenizer, size = load_tokenizer(base_path), recipe.hypernetwork.max_tokens
        prompts = read_prompt_format(base_path, recipe.chunk_prefix)
        self.collator = Collator(tokenizer, prompts, size, recipe.run.max_row, recipe.run.bucket, recipe.reply_start)
        cfg = recipe.data
        train, held = load_corpus(
            data, cfg.reading, cfg.texts, tokenizer, size, cfg.holdout, cfg.instructions, cfg.replies, probed=cfg.probed
        )
        self.maker, self.held_maker = ExampleMaker(train, tokenizer, size), ExampleMaker(held, tokenizer, size, "test")
        base = TorchBase(base_path, dtype).to(self.device)
        torch.manual_seed(recipe.run.seed)
        self.core = AssociationHypernetwork(recipe.hypernetwork).to(self.device)
        self._begin(init)
        self.meta = MetaModel(base, self.core, len(self.collator.prefix))
        self.documents = self._read(self.maker, recipe.sums.documents)
        self.held = self._read(self.held_maker, [recipe.sums.held] * len(recipe.sums.chunks))
        self.model = SumModel(self.meta, self.core)
        self.optimizers = make_optimizers(self.model, recipe.run, ("salience",), ("salience",))
        self.prepare()

    def _begin(self, init: Path | None) -> None:
        """Weights of the checkpoint, else the given ones, of which only what sums depend on learns.

        Raises:
            ConfigError: There are none, or of another hypernetwork.
        """
        if self.checkpoint.exists():  # documents are read before the loop takes the rest of it back
            take_given(self.core, self.checkpoint, read_checkpoint(self.checkpoint, self.device)["hypernetwork"])
        elif init is None:
            raise ConfigError("sums are trained into given weights", "name a bundle or a checkpoint with --init")
        else:
            bundled = replace(self.recipe.hypernetwork, salience=0)
            take_given(self.core, init, read_given(init, self.device, bundled)["hypernetwork"])
            self.log({"event": "started from", "run": run_name(init)})
        for name, parameter in self.core.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED))

    @property
    def trained(self) -> AssociationHypernetwork:
        """The hypernetwork."""
        return self.core

    def _read(self, maker: ExampleMaker, counts: Sequence[int]) -> list[SumParts]:
        makes, found = DocumentMaker(maker, self.recipe.hypernetwork.max_tokens), []
        for size, count in zip(self.recipe.sums.chunks, counts, strict=True):
            for number in range(count):
                rng = random.Random(f"{self.recipe.run.seed}/{maker.split}/{size}/{number}")
                document = makes.make(rng, size, rng.uniform(0.5, self.recipe.sums.facts))
                found.append(read_document(self.meta, self.core, self.collator.prefix, document))
        sizes = {kind: sum(len(parts.document.asked[kind]) for parts in found) for kind in found[0].document.asked}
        self.log({"event": "read", "split": maker.split, "chunks": sum(parts.chunks for parts in found), **sizes})
        return found

    def _rows(self, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
        ids, targets = self.collator.pad_rows([self.collator.row(pair) for pair in pairs])
        return ids.to(self.device), targets.to(self.device)

    def losses(self, process: int) -> SumLosses:
        """Those of this step's document of a process."""
        run = self.recipe.run
        rng = random.Random(f"{run.seed}/{self.step}/{process}")
        (parts,) = rng.choices(self.documents, [parts.chunks for parts in self.documents])
        rows, targets = self._rows(parts.document.draw(rng, self.recipe.mixture, run.rows))
        others, marks = None, None
        if run.others and self.step % run.others_every == 0:
            others, marks = self._rows([self.maker.unrelated(rng) for _ in range(run.others)])
        answer, kept = self.wrapped(parts, rows, targets, others, marks)
        tokens = rows.numel() + (others.numel() if others is not None else 0)
        return SumLosses(answer + run.others_weight * kept, answer, kept, tokens, parts.chunks)

    def train_step(self) -> StepResult:
        """One optimizer step: one document a process."""
        made = self.losses(self.accelerator.process_index)
        norm = self.descend(made.total)
        told = torch.stack([made.answer.detach(), made.unrelated.detach(), made.answer.new_tensor(float(made.tokens))])
        answer, unrelated, tokens = self.accelerator.reduce(told, "mean").tolist()
        everything = round(tokens * self.accelerator.num_processes)
        return StepResult({"answer": answer, "unrelated": unrelated}, float(norm), everything, {"chunks": made.chunks})

    @torch.no_grad()
    def probe(self) -> dict[str, object]:
        """Nats an answer token, and the share of answers whose every token is the likeliest, on held-out documents."""
        row: dict[str, object] = {"event": "probe", "step": self.step}
        for parts in self.held:
            lora = parts.adapter(self.core)
            for kind in PROBED:
                pairs = list(parts.document.asked[kind])[:24]
                if pairs:
                    row[f"{kind}_{parts.chunks}"] = self._right(lora, pairs)
        return row

    def _right(self, lora: dict[int, BlockLora], pairs: list[Pair]) -> dict[str, float]:
        rows, targets = self._rows(pairs)
        loss, logits = self.meta.rows_loss(rows, targets, lora)
        nats = float(loss) / int((targets != -100).sum())
        return {"nats": round(nats, 3), "exact": round(exact_share(logits, targets), 3), "rows": len(pairs)}


def main(argv: list[str] | None = None) -> int:
    """Command line of training sums."""
    parser = argparse.ArgumentParser(prog="localhyper train", description="Train what tokens write into long documents")
    add_run_options(parser, "smollm2-135m-sums.toml")
    parser.add_argument("--init", type=Path, help="checkpoint.pt of an earlier run, or a bundle, to start from")
    add_stop_option(parser)

    def train(options: argparse.Namespace) -> None:
        recipe, dtype = load_sum_recipe(options.recipe), chosen_dtype(options)
        run = SumRun(recipe, options.base, options.data, options.out, options.device, dtype, options.init)
        run.train(options.stop_at)

    return run_command(parser, argv, train)


if __name__ == "__main__":
    raise SystemExit(main())
