"""Training the search head of a bundle: `localhyper train RECIPE …`, for a recipe with a `[search]` table.

A question is told from all contexts of a batch by cross-entropy. Stops and goes on as `training_loop` says.
`localhyper.export.add_search` puts the result into a bundle.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.errors import ConfigError
from localhyper.export.cache import ActivationCache
from localhyper.export.own_replies import everyday_requests
from localhyper.export.run_options import add_run_options, add_stop_option, chosen_dtype, run_command
from localhyper.export.search_config import SearchRecipe, SearchRunConfig, load_search_recipe
from localhyper.export.search_data import SearchSet, draw, groups, load_search_sets
from localhyper.export.search_model import Read, SearchHeadModel
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import TorchBase
from localhyper.export.training_loop import StepResult, TrainingLoop, make_optimizers

TOGETHER = 2048  # tokens that go through the base model at once
BORDER = 0.4  # mean cosine between questions about a context and those about none
STEEP = 20.0  # how much a cosine of 1 beyond it counts
BEGIN_CONTEXTS = 300  # whose tokens give the directions that training begins with
NO_MATRICES = ("document", "question")  # projections to keys: their scale is part of what they were set to


class Reader:
    """Texts to features, by the base model; what was read before is kept."""

    def __init__(self, base_path: Path, recipe: SearchRecipe, dtype: torch.dtype, device: torch.device) -> None:
        self._tokenizer, self._taps = load_tokenizer(base_path), recipe.search.taps
        self._most = recipe.search.max_tokens
        self._base = TorchBase(base_path, dtype).to(device)
        if max(self._taps) > self._base.shape.blocks:
            raise ConfigError(f"recipe key search.taps has {max(self._taps)}, the base model {self._base.shape.blocks}")
        self.hidden, self._device = self._base.shape.hidden, device
        self._prefix = self._encode(recipe.chunk_prefix)
        self._cache = ActivationCache(int(recipe.run.cache_gb * 2**30))
        self.tokens = 0

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def read(self, texts: Sequence[str]) -> Read:
        """Features of texts, padded to the longest."""
        found = {text: kept for text in texts if (kept := self._cache.get(text.encode())) is not None}
        missing = {text for text in texts if text not in found}
        ids = {text: self._encode(text)[: self._most] for text in missing}
        for together in _portions(sorted(missing, key=lambda text: len(ids[text])), ids):
            for text, rows in zip(together, self._run([ids[text] for text in together]), strict=True):
                found[text] = rows, rows[:0]
                self._cache.put(text.encode(), found[text])
        rows_of = [found[text][0].to(self._device).float() for text in texts]
        width = max(len(rows) for rows in rows_of)
        mask = torch.zeros(len(texts), width, device=self._device)
        features = torch.zeros(len(texts), width, rows_of[0].shape[1], device=self._device)
        for number, rows in enumerate(rows_of):
            features[number, : len(rows)], mask[number, : len(rows)] = rows, 1
        return Read(features, mask)

    @torch.no_grad()
    def _run(self, ids: Sequence[list[int]]) -> list[Tensor]:
        """Features float16 [tokens, width] of each."""
        width, skip = max(map(len, ids)), len(self._prefix)
        padded = torch.tensor([self._prefix + row + [0] * (width - len(row)) for row in ids], device=self._device)
        _, captured = self._base.run(self._base.embed(padded), 0, max(self._taps), taps=self._taps)
        parts = [captured.taps[tap][:, skip:].float() for tap in self._taps]
        features = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in parts], -1).half().cpu()
        self.tokens += padded.numel()
        return [features[number, : len(row)].clone() for number, row in enumerate(ids)]


def _portions(texts: Sequence[str], ids: Mapping[str, Sequence[int]]) -> Iterator[Sequence[str]]:
    """Texts in order of length, as many at a time as go through the base model at once."""
    start = 0
    for end in range(1, len(texts) + 1):
        if end == len(texts) or (end + 1 - start) * len(ids[texts[end]]) > TOGETHER:
            yield texts[start:end]
            start = end


class SearchModel(nn.Module):
    """The loss of a batch."""

    def __init__(self, head: SearchHeadModel, run: SearchRunConfig) -> None:
        super().__init__()
        self.head, self.dropout, self.related = head, run.dropout, run.related

    def forward(self, questions: Read, contexts: Read, unrelated: Tensor | None = None) -> Tensor:
        """Cross-entropy: context i is the one that question i is about; later questions are about none.

        Args:
            questions: Those asked, then everyday requests.
            contexts: Those asked about, in the order of the questions, then others.
            unrelated: bool [questions, contexts], which ones are of another text; None = nothing is made of it.
        """
        scores, most = self.head.scores_of_most(questions, contexts, self.dropout)
        asked = len(scores) if unrelated is None else int((~unrelated).any(1).sum())
        wanted = torch.arange(asked, device=scores.device)
        loss = F.cross_entropy(scores[:asked], wanted)
        if unrelated is None or not self.related:
            return loss
        cosines = scores / most
        own, other = cosines[wanted, wanted], cosines.masked_fill(~unrelated, -1.0).amax(1)
        apart = F.softplus(STEEP * (BORDER - own)).mean() + F.softplus(STEEP * (other - BORDER)).mean()
        return loss + self.related * apart


class SearchRun(TrainingLoop):
    """One run."""

    def __init__(
        self, recipe: SearchRecipe, base_path: Path, data: Path, out: Path, device: str, dtype: torch.dtype
    ) -> None:
        super().__init__(recipe.run, out, device, dtype)
        self.recipe = recipe
        self.reader = Reader(base_path, recipe, dtype, self.device)
        tokenizer, seed = load_tokenizer(base_path), recipe.run.seed
        self.train_set, self.held = load_search_sets(data, recipe.data, tokenizer, recipe.search.max_tokens, seed)
        torch.manual_seed(seed)
        self.core = SearchHeadModel(recipe.search, self.reader.hidden).to(self.device)
        if not self.checkpoint.exists():
            read = self.reader.read(self.train_set.contexts[:BEGIN_CONTEXTS])
            self.core.begin(read.features[read.mask > 0][::4])
        self.model = SearchModel(self.core, recipe.run)
        self.optimizers = make_optimizers(self.model, recipe.run, NO_MATRICES)
        sizes = {"contexts": len(self.train_set.contexts), "questions": len(self.train_set.asked)}
        self.log({"event": "pairs", **sizes, "held_contexts": len(self.held.contexts)})
        self.prepare()

    @property
    def trained(self) -> SearchHeadModel:
        """The head."""
        return self.core

    def train_step(self) -> StepResult:
        """One optimizer step."""
        seed, place = self.recipe.run.seed, self.accelerator.process_index
        torch.manual_seed(seed + (self.step << 8) + place)  # of dropout, so that a resumed run is the same
        before = self.reader.tokens
        rng, run = random.Random(f"{seed}/{self.step}/{place}"), self.recipe.run
        batch = draw(self.train_set, rng, run.pairs)
        requests = everyday_requests(rng, run.everyday) if run.related else []
        of_none = [[True] * len(batch.contexts)] * len(requests)
        unrelated = torch.tensor([*batch.unrelated, *of_none], device=self.device)
        questions = self.reader.read([*batch.questions, *requests])
        loss = self.wrapped(questions, self.reader.read(batch.contexts), unrelated)
        norm = self.descend(loss)
        losses = {"search": float(self.accelerator.reduce(loss.detach(), "mean"))}
        return StepResult(
            losses, float(norm), self.reader.tokens - before, {"scale": float(self.core.log_scale.detach().exp())}
        )

    @torch.no_grad()
    def probe(self) -> dict[str, object]:
        """How often a held-out question finds its context among all held-out ones."""
        self.core.eval()
        right = self._right(self.held)
        self.core.train()
        return {"event": "probe", "step": self.step, "found": round(right, 4), "among": len(self.held.contexts)}

    def _right(self, found: SearchSet) -> float:
        contexts, right = self.reader.read(found.contexts), 0
        for group in groups(found, self.recipe.run.pairs):
            scores = self.core.scores(self.reader.read([one.question for one in group]), contexts)
            wanted = torch.tensor([one.context for one in group], device=scores.device)
            right += int((scores.argmax(1) == wanted).sum())
        return right / len(found.asked)


def main(argv: list[str] | None = None) -> int:
    """Command line of search training."""
    parser = argparse.ArgumentParser(prog="localhyper train", description="Train what finds the chunk of a question")
    add_run_options(parser, "smollm2-135m-search.toml")
    add_stop_option(parser)

    def train(options: argparse.Namespace) -> None:
        recipe, dtype = load_search_recipe(options.recipe), chosen_dtype(options)
        run = SearchRun(recipe, options.base, options.data, options.out, options.device, dtype)
        run.train(options.stop_at)

    return run_command(parser, argv, train)


if __name__ == "__main__":
    raise SystemExit(main())
