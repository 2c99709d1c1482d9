"""Training a task hypernetwork beside documents: `localhyper train RECIPE … --init TASK --documents DOCUMENTS`.

A task's adapter changes what enters the blocks, and with it what a document's keys find. Here both are in force while
the task learns: the document's facts are to come in the form that the description asks for. What other descriptions
give is held to what it was. Documents' hypernetwork and base stay as they are.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from localhyper.errors import ConfigError
from localhyper.export.answer_forms import answer_forms, other_descriptions
from localhyper.export.batches import Collator
from localhyper.export.beside_batches import BesideBatch, BesideBatchMaker, FormBook
from localhyper.export.beside_objectives import Beside, probe_beside
from localhyper.export.data import ExampleMaker
from localhyper.export.data_files import load_corpus
from localhyper.export.freezing import freeze
from localhyper.export.given_weights import read_given, take_given
from localhyper.export.hypernetwork import AssociationHypernetwork
from localhyper.export.objectives import MetaModel
from localhyper.export.staying import StayingRun
from localhyper.export.task_objectives import TaskModel


class BesideRun(StayingRun):
    """A run in which tasks stand beside documents."""

    model: Beside

    def _read(self, base_path: Path, data: Path) -> None:
        """Tasks as ever; documents, and the forms they are asked in."""
        super()._read(base_path, data)
        recipe, cfg = self.recipe, self.recipe.beside
        rows, size = self.row_maker, recipe.documents.max_tokens
        tokenizer, dropped = rows.tokenizer, recipe.data.dropped
        collator = Collator(tokenizer, rows.prompts, size, recipe.data.buckets[-1], bucket_size=32)
        train, held = load_corpus(data, cfg.reading, cfg.texts, tokenizer, size, cfg.holdout)
        self.maker, self.held_maker = ExampleMaker(train, tokenizer, size), ExampleMaker(held, tokenizer, size, "test")
        trained = [form for form in answer_forms() if not form.test]
        self.book = FormBook(trained, rows, dropped, unseen=False)
        self.books = {
            "forms": FormBook(trained, rows, dropped, unseen=True),
            "new_forms": FormBook([form for form in answer_forms() if form.test], rows, dropped, unseen=True),
        }
        self.beside = BesideBatchMaker(recipe, collator, self.batches, rows.descriptions(other_descriptions()))
        self.log({"event": "documents", "contexts": len(train.reading), "forms": len(trained)})

    def wrap(self, core: TaskModel, source: Path | None) -> nn.Module:
        """Both hypernetworks, that of documents out of a bundle."""
        if source is None:
            raise ConfigError("training beside documents needs their hypernetwork", "name a bundle with --documents")
        self.stay = self.recipe.beside.stay
        freeze(core.hypernetwork, self.recipe.beside.frozen, "beside.frozen")
        hypernetwork = AssociationHypernetwork(self.recipe.documents)
        take_given(hypernetwork, source, read_given(source, self.device, self.recipe.documents)["hypernetwork"])
        meta = MetaModel(core.base, hypernetwork.to(self.device), len(self.beside.collator.prefix))
        return Beside(core, meta).to(self.device)

    def _batch(self, step: int) -> BesideBatch:
        return self.beside.batch(self.maker, self.book, step, self.drawer)

    def probe(self) -> dict[str, object]:
        """Held-out documents in words never trained with: in forms that are trained with, and in others.

        Not of held-out tasks: which these are depends on the widths of rows, and the weights that a run begins with may
        have seen them.
        """
        found: dict[str, object] = {"event": "probe", "step": self.step}
        for name, book in self.books.items():
            batches = [
                self.beside.batch(self.held_maker, book, 100 + i, None).to(self.device)
                for i in range(self.recipe.run.probe_batches)
            ]
            found[name] = {key: round(value, 4) for key, value in vars(probe_beside(self.model, batches)).items()}
        return found
