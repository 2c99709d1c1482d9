"""Documents asked in forms of answers, as batches; with them descriptions of other tasks, whose LoRAs are to stay.

A batch is a function of (seed, step, process); document i of all processes is the same however many there are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from localhyper.errors import ConfigError
from localhyper.export.answer_forms import AnswerForm
from localhyper.export.batches import ChunkTokens, Collator
from localhyper.export.data import ExampleMaker
from localhyper.export.known_facts import known_facts
from localhyper.export.staying import Shares, draw_staying
from localhyper.export.task_batches import Described, Rows, TaskBatchMaker
from localhyper.export.task_config import TaskRecipe
from localhyper.export.task_data import Drawn, Ids, Row, RowMaker, TaskDrawer, thinned
from localhyper.export.texts import Example

KNOWN = "known"  # what an example is whose questions need no document
ATTEMPTS = 50  # documents drawn until one can be asked in enough forms


@dataclass(frozen=True)
class BesideBatch:
    """Documents, each asked in the same number of forms; rows are in the order of documents, then forms.

    Attributes:
        documents: One chunk each.
        in_force: 1 for documents whose adapter is in force, 0 where the base model is asked what it knows [documents].
        described: Of each document's forms, [documents * forms].
        staying: Of the tasks that stay, apart from them because they are far longer; None = to measure.
        forms: How many forms a document is asked in.
        rows: Of the forms, the same number each.
    """

    documents: ChunkTokens
    in_force: Tensor
    described: Described
    staying: Described | None
    forms: int
    rows: Rows

    @property
    def tokens(self) -> int:
        """Tokens that go through the base model."""
        described = [one.ids for one in (self.described, self.staying) if one]
        return sum(ids.numel() for ids in (self.documents.ids, *described, self.rows.ids))

    def to(self, device: torch.device | str) -> BesideBatch:
        """The same batch on a device."""
        staying = self.staying.to(device) if self.staying else None
        parts = self.documents.to(device), self.in_force.to(device), self.described.to(device), staying
        return BesideBatch(*parts, self.forms, self.rows.to(device))


class FormBook:
    """Forms with their descriptions as token ids."""

    def __init__(self, forms: Sequence[AnswerForm], maker: RowMaker, dropped: float, *, unseen: bool) -> None:
        """`unseen`: asked for in words that are never trained with."""
        self.forms, self.maker, self.dropped, self.unseen = forms, maker, dropped, unseen
        texts = {form.name: form.unseen if unseen else form.descriptions for form in forms}
        self._ids = {name: maker.descriptions(found) for name, found in texts.items()}

    def describe(self, rng: random.Random, form: AnswerForm) -> Ids:
        """One of its descriptions."""
        ids = rng.choice(self._ids[form.name])
        return ids if self.unseen else thinned(rng, ids, self.dropped)

    def rows(self, rng: random.Random, example: Example, form: AnswerForm, count: int) -> list[Row]:
        """`count` of the document's questions with answers in this form, all different while they last; or none."""
        pairs = [(pair.question, form.put(pair)) for pair in example.pairs if form.fits(pair)]
        rng.shuffle(pairs)
        rows = self.maker.rows(pairs[: 2 * count])
        return [rows[index % len(rows)] for index in range(count)] if rows else []

    def drawn(self, rng: random.Random) -> Iterator[AnswerForm]:
        """The forms in a random order, by their weights."""
        left = list(self.forms)
        while left:
            form = rng.choices(left, [form.weight for form in left])[0]
            left.remove(form)
            yield form


class BesideBatchMaker:
    """The batch of a step on one process."""

    def __init__(self, recipe: TaskRecipe, collator: Collator, tasks: TaskBatchMaker, others: Sequence[Ids]) -> None:
        """`others` are descriptions that stay beside those of tasks and of none."""
        self.recipe, self.collator, self.tasks, self.others = recipe, collator, tasks, others

    def batch(self, maker: ExampleMaker, book: FormBook, step: int, staying: TaskDrawer | None) -> BesideBatch:
        """On the CPU; `staying` is where other tasks come from: None to measure."""
        cfg, at = self.recipe.beside, self.tasks
        first = at.process * cfg.documents if staying else 0
        named = f"{self.recipe.run.seed}/beside/{maker.split}/{step}"
        names = [f"{named}/{i}" for i in range(first, first + cfg.documents)]
        forms = min(cfg.forms, len(book.forms))
        known = cfg.known if staying else 0.0
        found = [self._document(random.Random(name), name, maker, book, forms, known) for name in names]
        drawn = [one for _, asked in found for one in asked]
        documents = self.collator.pad_texts([example.text for example, _ in found])
        in_force = torch.tensor([float(example.kind != KNOWN) for example, _ in found])
        described = at.described(drawn, blurred=staying is not None)
        kept = at.described([], self._staying(staying, step)) if staying else None
        return BesideBatch(documents, in_force, described, kept, forms, self._rows(drawn))

    def _document(
        self, rng: random.Random, name: str, maker: ExampleMaker, book: FormBook, wanted: int, known: float
    ) -> tuple[Example, list[Drawn]]:
        """A document that can be asked in enough forms, and these with its rows; or, so often, what needs none."""
        count = self.recipe.run.rows
        without = rng.random() < known
        for _ in range(ATTEMPTS):
            example, drawn = maker.draw(rng, self.recipe.mixture, self.recipe.run.steps), list[Drawn]()
            if without:
                example = replace(example, kind=KNOWN, pairs=known_facts())
            for form in book.drawn(rng):
                rows = book.rows(rng, example, form, count)
                if rows:
                    drawn.append(Drawn(0, book.describe(rng, form), tuple(rows), f"{name}/{form.name}"))
                if len(drawn) == wanted:
                    return example, drawn
        raise ConfigError(
            f"no document drawn can be asked in {wanted} forms within {self.recipe.data.buckets[-1]} tokens",
            "raise the last of data.buckets, or lower beside.forms",
        )

    def _staying(self, drawer: TaskDrawer, step: int) -> list[Ids]:
        run = self.recipe.run
        shares = Shares(run.tasks, run.meaningless, self.recipe.beside.others)
        return draw_staying(drawer, self.tasks, self.others, shares, step)

    def _rows(self, drawn: Sequence[Drawn]) -> Rows:
        longest = max(len(row.ids) for one in drawn for row in one.rows)
        width = next(width for width in self.recipe.data.buckets if width >= longest)
        return self.tasks.rows(drawn, width)
