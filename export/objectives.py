"""Meta-training losses: what a generated adapter must make the frozen base model say.

    answer     cross-entropy of the gold answer, question without document
    unrelated  KL(base without adapter ‖ base with adapter) on another document's question: an attached document must
               not change what it does not know
    teacher    KL to the base model's own top-k next-token distribution with the document in its context (Doc-to-LoRA)

Everything that does not depend on the adapter is computed without gradient, and nothing above the last adapted block's
reach is kept: questions enter at the first adapted block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.export.batches import Batch, ChunkTokens
from localhyper.export.cache import ActivationCache
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork
from localhyper.export.packing import Packing
from localhyper.export.perceiver import PerceiverHypernetwork
from localhyper.export.torch_base import BlockLora, TorchBase
from localhyper.export.whitening import Common, Whitened, alone, surrounded, whiten


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objectives; 0 leaves one out and costs nothing."""

    answer: float = 1.0
    unrelated: float = 0.25
    teacher: float = 0.0
    teacher_top: int = 16


@dataclass(frozen=True)
class TokenCounts:
    """Positions that each loss is divided by: their mean over all processes.

    A mean of the processes' own means would weigh the tokens of a process with few of them more; with these, the mean
    of the processes' losses (and of their gradients) is the mean over all tokens of the global batch.
    """

    answer: Tensor
    unrelated: Tensor


def count_tokens(batch: Batch) -> Tensor:
    """Positions of this process's batch: [answer, unrelated], float32."""
    unrelated = (batch.unrelated_targets != -100).sum() if batch.unrelated_targets is not None else 0
    return torch.stack([(batch.targets != -100).sum(), torch.as_tensor(unrelated, device=batch.targets.device)]).float()


@dataclass(frozen=True)
class Losses:
    """Losses of one batch, scalars; `total` carries the gradient."""

    total: Tensor
    answer: Tensor
    unrelated: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Surround:
    """The rest of a long document, about something else, the same for all documents of a batch.

    Attributes:
        live: Filler chunks whose gates learn from this batch.
        settled: Whether the sum of `MetaModel.settle` joins too.
    """

    live: ChunkTokens | None = None
    settled: bool = False

    @property
    def chunks(self) -> int:
        """Number of live chunks."""
        return 0 if self.live is None else len(self.live)


@dataclass(frozen=True)
class Settled:
    """A sum of filler chunks, computed once for several steps.

    Attributes:
        update: What they write, before whitening by the document, [blocks, hidden, ffn].
        second: Σ m mᵀ of their inputs, [blocks, ffn, ffn]; empty without whitening.
        chunks: How many they are.
    """

    update: Tensor
    second: Tensor
    chunks: int


ALONE = Surround()
MOST_RAISED = 8.0  # a gradient raised further would be of a few chunks' noise


def gather_logits(base: TorchBase, x: Tensor, positions: Tensor) -> Tensor:
    """float32 logits [n, vocab] at the True places of positions [rows, tokens]."""
    return base.logits(x[positions]).float()


def _packed(packing: Packing | None) -> dict[str, Any]:
    """What `TorchBase.run` is given for rows that are packed."""
    return {} if packing is None else {"attend": packing.attend(), "places": packing.places}


def add_chunks(a: Tensor, b: Tensor, extra: int) -> tuple[Tensor, Tensor]:
    """Each document gets the chunks of `extra` other documents of the batch too, as if it were longer.

    What a chunk writes must stand the sum with chunks about something else; that costs no further pass.
    """
    return (
        torch.cat([a.roll(i, 0) for i in range(extra + 1)], 2),
        torch.cat([b.roll(i, 0) for i in range(extra + 1)], 3),
    )


def _with_rest(log_probabilities: Tensor) -> Tensor:
    """[n, k] log-probabilities and, as one more column, that of everything else."""
    rest = (1 - log_probabilities.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat((log_probabilities, rest), -1)


def shuffle_rows(lora: dict[int, BlockLora]) -> dict[int, BlockLora]:
    """Each document gets the adapter of the next one: the shuffled-document control."""
    return {block: BlockLora(w.a.roll(1, 0), w.b.roll(1, 0), w.shared) for block, w in lora.items()}


class MetaModel(nn.Module):
    """A frozen base model and the hypernetwork that adapts it."""

    def __init__(
        self,
        base: TorchBase,
        hypernetwork: AssociationHypernetwork | PerceiverHypernetwork,
        prefix_tokens: int,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.cache = ActivationCache(cache_bytes)
        self.base, self.hypernetwork, self.prefix_tokens = base, hypernetwork, prefix_tokens
        self.config = hypernetwork.config
        self.dtype = base.get_buffer("token_embd_weight").dtype
        self.first = min(self.config.blocks)
        self.settled: Settled | None = None
        self._alone: Common | None = None

    @torch.no_grad()
    def encode(self, documents: Tensor) -> tuple[Tensor, Tensor]:
        """Activations of chunks: hidden [documents, taps, tokens, hidden], ffn [documents, blocks, tokens, ffn]."""
        end = max(self.config.blocks) + 1
        x = self.base.embed(documents)
        _, got = self.base.run(x, 0, end, taps=self.config.taps, ffn_blocks=self.config.blocks)
        hidden = torch.stack([got.taps[tap] for tap in self.config.taps], 1)
        ffn = torch.stack([got.ffn[block] for block in self.config.blocks], 1)
        return hidden[:, :, self.prefix_tokens :].float(), ffn[:, :, self.prefix_tokens :].float()

    def encode_cached(self, documents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`encode`, but padding is zeros, and documents seen before come from the cache where there is one."""
        if not self.cache.budget_bytes:
            hidden, ffn = self.encode(documents)
            return hidden * mask[:, None, :, None], ffn * mask[:, None, :, None]
        lengths = [int(n) for n in mask.sum(1)]
        keys = [
            row[: self.prefix_tokens + n].cpu().numpy().tobytes() for row, n in zip(documents, lengths, strict=True)
        ]
        found = [self.cache.get(key) for key in keys]
        missing = [index for index, value in enumerate(found) if value is None]
        if missing:
            hidden, ffn = self.encode(documents[missing])
            for at, index in enumerate(missing):
                n = lengths[index]
                # In the base model's precision: it is exact, for that is what they were computed in.
                value = (hidden[at, :, :n].to(self.dtype), ffn[at, :, :n].to(self.dtype))
                self.cache.put(keys[index], value)
                found[index] = value
        width, kept = mask.shape[1], [value for value in found if value is not None]
        padded = [[F.pad(part, (0, 0, 0, width - part.shape[1])).float() for part in value] for value in kept]
        return torch.stack([value[0] for value in padded]), torch.stack([value[1] for value in padded])

    @property
    def whitening(self) -> float:
        """λ of `export.whitening`; 0 where the hypernetwork has none."""
        return self.config.whitening if isinstance(self.config, AssociationConfig) else 0.0

    def settle(self, chunks: ChunkTokens | None, total: int, group: int = 8) -> None:
        """Sum up what filler chunks write with the weights of now, without gradient, for `Surround.settled` to add.

        Args:
            chunks: What is summed up; None = nothing is settled any more.
            total: Number of chunks of the documents they will be part of.
            group: Chunks to encode at once.
        """
        self.settled = None
        if chunks is None:
            return
        with torch.no_grad():
            groups = [range(i, min(i + group, len(chunks))) for i in range(0, len(chunks), group)]
            parts = [self.written(chunks.chosen(rows), total) for rows in groups]
        update, second = (torch.stack(tensors).sum(0) for tensors in zip(*parts, strict=True))
        self.settled = Settled(update, second, len(chunks))

    def written(self, chunks: ChunkTokens, total: int) -> tuple[Tensor, Tensor]:
        """What chunks write, and S of their inputs.

        Returns:
            The sum of their updates [blocks, hidden, ffn], and [blocks, ffn, ffn] (empty without whitening).
        """
        hidden, ffn = self.encode_cached(chunks.ids, chunks.mask)
        a, b = self.hypernetwork(hidden, ffn, chunks.mask, chunks.mask.new_full((len(chunks),), total))
        left = b.permute(1, 2, 0, 3).flatten(2).to(self.dtype)
        update = torch.bmm(left, a.transpose(0, 1).flatten(1, 2).to(self.dtype)).float()
        if not self.whitening:
            return update, update.new_zeros(0)
        flat = ffn.transpose(0, 1).flatten(1, 2).to(self.dtype)
        return update, torch.bmm(flat.transpose(1, 2), flat).float()

    def _surrounding(self, surround: Surround, total: int) -> tuple[Tensor | None, Tensor | None]:
        """What the rest of the document writes [blocks, hidden, ffn], and S of its inputs.

        Only the live chunks carry a gradient; it is raised to that of all chunks round the fact, up to `MOST_RAISED`.
        """
        settled = self.settled if surround.settled else None
        if surround.live is None:
            return (settled.update, settled.second) if settled else (None, None)
        live, second = self.written(surround.live, total)
        if settled is None:
            return live, second
        raised = min(MOST_RAISED, 1 + settled.chunks / surround.chunks)
        update = raised * live - ((raised - 1) * live).detach() + settled.update
        return update, second + settled.second

    def _common_of(self, hypernetwork: AssociationHypernetwork, second: Tensor | None) -> Common:
        if self._alone is None:
            self._alone = alone(hypernetwork.moment(), self.whitening)
        return self._alone if second is None else surrounded(self._alone, second, self.dtype)

    def adapters(
        self, documents: Tensor, mask: Tensor, extra: int = 0, surround: Surround = ALONE
    ) -> dict[int, BlockLora]:
        """One adapter a document, bias included once.

        Args:
            documents: Token ids [documents, prefix + tokens].
            mask: [documents, tokens].
            extra: Chunks of other documents of the batch that join each adapter.
            surround: Filler chunks that join all of them.
        """
        settled = self.settled.chunks if surround.settled and self.settled else 0
        total = 1 + extra + surround.chunks + settled
        hidden, ffn = self.encode_cached(documents, mask)
        a, b = self.hypernetwork(hidden, ffn, mask, mask.new_full((len(mask),), total))
        a, b = add_chunks(a, b, extra)
        shared, second = self._surrounding(surround, total)
        if isinstance(self.hypernetwork, AssociationHypernetwork) and self.whitening:
            inputs = ffn * mask[:, None, :, None]
            inputs = torch.cat([inputs.roll(i, 0) for i in range(extra + 1)], 2)
            given = self._common_of(self.hypernetwork, second)
            made = whiten(a, b, inputs, self.hypernetwork.spread(inputs), given, shared)
        else:
            rest = list(shared.unbind(0)) if shared is not None else [None] * len(self.config.blocks)
            made = Whitened(a.unbind(1), b.unbind(1), rest)
        bias_a, bias_b = self.hypernetwork.with_bias(a[:, :, :0], b[..., :0])
        return {
            block: BlockLora(torch.cat((one, first), 1), torch.cat((two, last), 2), three)
            for block, one, two, three, first, last in zip(
                self.config.blocks, made.a, made.b, made.shared, bias_a.unbind(1), bias_b.unbind(1), strict=True
            )
        }

    def enter(self, rows: Tensor, packing: Packing | None = None) -> Tensor:
        """Residual stream of rows as it enters the first adapted block, without gradient."""
        with torch.no_grad():
            x, _ = self.base.run(self.base.embed(rows), 0, self.first, **_packed(packing))
        return x

    def finish(
        self, x: Tensor, lora: dict[int, BlockLora] | None, positions: Tensor, packing: Packing | None = None
    ) -> Tensor:
        """Logits [n, vocab] at `positions` after the adapted blocks."""
        y, _ = self.base.run(x, self.first, self.base.shape.blocks, lora=lora, **_packed(packing))
        return gather_logits(self.base, y, positions)

    def rows_loss(
        self, rows: Tensor, targets: Tensor, lora: dict[int, BlockLora], packing: Packing | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over the positions of rows that have a target, and the logits it came from."""
        positions = targets != -100
        logits = self.finish(self.enter(rows, packing), lora, positions, packing)
        return F.cross_entropy(logits, targets[positions], reduction="sum"), logits

    def answer_loss(self, batch: Batch, lora: dict[int, BlockLora]) -> tuple[Tensor, Tensor]:
        """`rows_loss` of a batch's answers."""
        return self.rows_loss(batch.rows, batch.targets, lora, batch.packing)

    def kept_loss(self, rows: Tensor, targets: Tensor, lora: dict[int, BlockLora]) -> Tensor:
        """KL from the base model without adapter, summed over the positions that have a target."""
        positions, x = targets != -100, self.enter(rows)
        with torch.no_grad():
            reference = self.finish(x, None, positions).log_softmax(-1)
        adapted = self.finish(x, lora, positions).log_softmax(-1)
        return F.kl_div(adapted, reference, log_target=True, reduction="sum")

    def unrelated_loss(self, batch: Batch, lora: dict[int, BlockLora]) -> Tensor:
        """`kept_loss` of a batch's unrelated rows."""
        assert batch.unrelated is not None and batch.unrelated_targets is not None
        return self.kept_loss(batch.unrelated, batch.unrelated_targets, lora)

    def teacher_loss(self, batch: Batch, logits: Tensor, top: int) -> Tensor:
        """KL over the teacher's `top` next tokens and one bucket for all others, summed: 0 where both agree.

        The teacher is the base model with the document before the question.
        """
        rows = batch.rows.shape[0] // batch.documents.shape[0]
        with torch.no_grad():
            reference = self._in_context(batch, rows).log_softmax(-1)
        values, indices = reference.topk(min(top, reference.shape[-1]), -1)
        student = logits.log_softmax(-1).gather(-1, indices)
        return F.kl_div(_with_rest(student), _with_rest(values), log_target=True, reduction="sum")

    def _in_context(self, batch: Batch, rows: int) -> Tensor:
        """Logits [n, vocab] of the base model with the document before each row."""
        lengths = batch.document_mask.sum(1).long() + self.prefix_tokens
        sequences, marks = [], []
        for index, (row, target) in enumerate(zip(batch.rows, batch.targets, strict=True)):
            document = batch.documents[index // rows, : lengths[index // rows]]
            sequences.append(torch.cat((document, row)))
            marks.append(torch.cat((torch.full_like(document, -100), target)))
        ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        positions = nn.utils.rnn.pad_sequence(marks, batch_first=True, padding_value=-100) != -100
        x, _ = self.base.run(self.base.embed(ids), 0, self.base.shape.blocks)
        return gather_logits(self.base, x, positions)

    def forward(
        self,
        batch: Batch,
        weights: LossWeights,
        extra: int = 0,
        surround: Surround = ALONE,
        counts: TokenCounts | None = None,
    ) -> Losses:
        """All objectives with a weight above 0, per token.

        Args:
            batch: Documents and rows.
            weights: Of the objectives.
            extra: Chunks of other documents that join each adapter.
            surround: Filler chunks that join all adapters.
            counts: What to divide by; None = this batch's own.
        """
        if counts is None:
            counts = TokenCounts(*count_tokens(batch))
        lora = self.adapters(batch.documents, batch.document_mask, extra, surround)
        answer, logits = self.answer_loss(batch, lora)
        answer = answer / counts.answer
        zero = answer.new_zeros(())
        unrelated = teacher = zero
        if weights.unrelated and batch.unrelated is not None:
            unrelated = self.unrelated_loss(batch, lora) / counts.unrelated
        if weights.teacher:
            teacher = self.teacher_loss(batch, logits, weights.teacher_top) / counts.answer
        total = weights.answer * answer + weights.unrelated * unrelated + weights.teacher * teacher
        return Losses(total, answer.detach(), unrelated.detach(), teacher.detach())


@dataclass(frozen=True)
class Probe:
    """Held-out figures: loss per answer token right, shuffled and without adapter; share of answers exact (greedy)."""

    right: float
    shuffled: float
    none: float
    exact: float
    exact_shuffled: float


def exact_share(logits: Tensor, targets: Tensor) -> float:
    """Share of rows whose every target is the arg max of its logits [n, vocab], n targets in their order."""
    positions = targets != -100
    rows, missed = positions.nonzero()[:, 0].cpu(), (logits.argmax(-1) != targets[positions]).float().cpu()
    wrong = torch.zeros(len(targets)).index_add_(0, rows, missed)
    return (wrong == 0).float().mean().item()


@torch.no_grad()
def probe(model: MetaModel, batches: list[Batch], extra: int = 0, surround: Surround = ALONE) -> Probe:
    """Measure held-out batches; `exact` = every answer token is the arg max given the ones before it."""
    sums = torch.zeros(5, dtype=torch.float64)
    for batch in batches:
        lora = model.adapters(batch.documents, batch.document_mask, extra, surround)
        positions = batch.targets != -100
        x = model.enter(batch.rows)
        gold = batch.targets[positions]
        for index, used in enumerate((lora, shuffle_rows(lora), None)):
            logits = model.finish(x, used, positions)
            sums[index] += F.cross_entropy(logits, gold).item()
            if index < 2:
                sums[3 + index] += exact_share(logits, batch.targets)
    right, shuffled, none, exact, exact_shuffled = (sums / max(1, len(batches))).tolist()
    return Probe(right, shuffled, none, exact, exact_shuffled)
