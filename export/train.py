"""Meta-training: `python -m localhyper.export.train RECIPE --base MODEL.gguf --data DIR --out RUN`.

Runs as it is under `accelerate launch` on several processes. Every `save_every` steps the whole state (weights,
optimizer moments, step) is written atomically; started again with the same arguments it goes on from there, and because
batches are a function of (seed, step, process), the resumed run is the run that was never interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from localhyper.errors import ConfigError, LocalHyperError
from localhyper.export.batches import Batch, Collator
from localhyper.export.command_line import refuse
from localhyper.export.data import Corpus, ExampleMaker, Mixture, load_corpus
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
from localhyper.export.prompts import read_prompt_format
from localhyper.export.speed import count_flops, fast_dtype, matmul_peak
from localhyper.export.surround import FillerBank
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import TorchBase
from localhyper.export.train_config import Recipe, RunConfig, load_recipe

NO_MATRICES = ("positions", "latents", "gate.")


def make_optimizers(model: nn.Module, run: RunConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) on weight matrices, AdamW on embeddings, norms, gains, gates, slot keys and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and not any(part in name for part in NO_MATRICES)
        (matrices if inner else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=run.muon_lr, weight_decay=0.0, adjust_lr_fn="original")
    return [muon, torch.optim.AdamW(others, lr=run.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)]


def lr_factor(step: int, run: RunConfig) -> float:
    """Warm-up, constant, linear decay to a twentieth."""
    start = run.steps * (1 - run.decay)
    late = max(0.0, (step - start) / max(1.0, run.steps - start))
    return min(1.0, (step + 1) / max(1, run.warmup)) * (1 - 0.95 * min(1.0, late))


def moment_batches(corpus: Corpus, collator: Collator, recipe: Recipe) -> list[Tensor]:
    """Generic text for the second moments: prefix + full-length chunks of training contexts and filler, no padding."""
    rng, length = random.Random(recipe.run.seed), recipe.hypernetwork.max_tokens
    stream: list[int] = []
    while len(stream) < recipe.run.moment_tokens:
        text = rng.choice(corpus.reading).text if rng.random() < 0.5 else " ".join(rng.choice(corpus.sentences)[:12])
        stream += collator.encode(text + "\n")
    rows = [collator.prefix + stream[i : i + length] for i in range(0, len(stream) - length, length)]
    return [torch.tensor(rows[i : i + 8]) for i in range(0, len(rows), 8)]


def device_name(device: torch.device) -> str:
    """The accelerator's or the processor's name, for the card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({os.cpu_count()} cores)"


PROBED_CHUNKS = (16, 64)
PROBED = {  # documents of up to four facts
    "facts": Mixture(facts=1, reading=0, continuation=0, most_facts=4, facts_ramp=1),
    "relations": Mixture(facts=0, reading=0, continuation=0, relations=1, most_facts=4, facts_ramp=1),
    "reading": Mixture(facts=0, reading=1, continuation=0),
}


@dataclass(frozen=True)
class StepResult:
    """What a step gives, over all processes.

    Attributes:
        answer: Loss per answer token.
        unrelated: KL per position of unrelated questions; 0 in steps without.
        teacher: KL per answer token; 0 where it is off.
        grad_norm: Before clipping.
        tokens: Tokens that went through the base model.
        chunks: Chunks summed in each adapter.
    """

    answer: float
    unrelated: float
    teacher: float
    grad_norm: float
    tokens: int
    chunks: int


class Run:
    """One training run: state, data and loop."""

    def __init__(
        self,
        recipe: Recipe,
        base_path: Path,
        data: Path,
        out: Path,
        device: str,
        dtype: torch.dtype,
        init: Path | None = None,
    ) -> None:
        # Not every parameter is reached by every mixture, and DDP must know.
        kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[kwargs])
        self.recipe, self.out, self.base_path, self.dtype = recipe, out, base_path, str(dtype).removeprefix("torch.")
        tokenizer = load_tokenizer(base_path)
        prompts = read_prompt_format(base_path, recipe.chunk_prefix)
        size = (recipe.perceiver or recipe.hypernetwork).max_tokens
        self.collator = Collator(tokenizer, prompts, size, recipe.run.max_row, recipe.run.bucket)
        cfg = recipe.data
        train, held = load_corpus(
            data, cfg.reading, cfg.texts, tokenizer, size, cfg.holdout, cfg.instructions, cfg.replies
        )
        self.maker, self.held = ExampleMaker(train, tokenizer, size), ExampleMaker(held, tokenizer, size, "test")
        self.bank = FillerBank(self.maker, self.collator, recipe.surround, recipe.run.seed)
        probed = replace(recipe.surround, bank=max(PROBED_CHUNKS) + 8)
        self.held_bank = FillerBank(self.held, self.collator, probed, recipe.run.seed)
        base = TorchBase(base_path, dtype).to(self.accelerator.device)
        hypernetwork = self._hypernetwork(base, train)
        self.model = MetaModel(base, hypernetwork, len(self.collator.prefix), int(recipe.run.cache_gb * 2**30))
        self.optimizers = make_optimizers(self.model, recipe.run)
        self.step, self.seconds, self.peak = 0, 0.0, 0.0
        if init is not None and not self.checkpoint.exists():
            self._start_from(init)
        self._resume()
        self.wrapped, *self.wrapped_optimizers = self.accelerator.prepare(self.model, *self.optimizers)

    def _hypernetwork(self, base: TorchBase, corpus: Corpus) -> AssociationHypernetwork | PerceiverHypernetwork:
        torch.manual_seed(self.recipe.run.seed)
        if self.recipe.perceiver is not None:
            norm, epsilon = base.get_buffer("output_norm_weight"), base.shape.norm_epsilon
            return PerceiverHypernetwork(self.recipe.perceiver, norm, epsilon).to(self.accelerator.device)
        moment = None
        if not self.checkpoint.exists():
            batches = [ids.to(self.accelerator.device) for ids in moment_batches(corpus, self.collator, self.recipe)]
            c = self.recipe.hypernetwork
            moment = low_rank(second_moments(base, batches, c.blocks, len(self.collator.prefix)), c.metric_rank)
        return AssociationHypernetwork(self.recipe.hypernetwork, moment).to(self.accelerator.device)

    @property
    def checkpoint(self) -> Path:
        """The newest whole state."""
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        """Write the whole state atomically (main process only)."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "hypernetwork": self.model.hypernetwork.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "settled": vars(self.model.settled) if self.model.settled else None,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state: dict[str, Any] = torch.load(self.checkpoint, map_location=self.accelerator.device, weights_only=True)
        self.model.hypernetwork.load_state_dict(state["hypernetwork"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.settled = Settled(**state["settled"]) if state["settled"] else None
        self.log({"event": "resumed", "step": self.step})

    def _start_from(self, path: Path) -> None:
        """Weights of an earlier run or of a bundle; what it did not have yet starts as it always does.

        Raises:
            ConfigError: No checkpoint or bundle, or one of another hypernetwork.
        """
        if not path.is_file():
            raise ConfigError(f"checkpoint {path} is missing", "name the checkpoint.pt of an earlier run, or a bundle")
        state = self._given_weights(path)
        own = self.model.hypernetwork.state_dict()
        strange = [k for k, v in state["hypernetwork"].items() if k not in own or own[k].shape != v.shape]
        if strange:
            raise ConfigError(f"checkpoint {path} has {strange[0]}, which does not fit this recipe's hypernetwork")
        self.model.hypernetwork.load_state_dict(own | state["hypernetwork"])
        new = sorted(set(own) - set(state["hypernetwork"]))
        where = path.name if path.suffix == ".onnx" else path.parent.name
        self.log({"event": "started from", "run": where, "step": state["step"], "new parameters": new})

    def _given_weights(self, path: Path) -> dict[str, Any]:
        """`hypernetwork` and `step` of a checkpoint or a bundle."""
        if path.suffix != ".onnx":
            held: dict[str, Any] = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            return held
        if self.recipe.perceiver is not None:
            raise ConfigError(f"{path} holds an association hypernetwork, the recipe asks for a Perceiver")
        from localhyper.export.bundle_weights import read_bundle_weights

        return {"hypernetwork": read_bundle_weights(path, self.recipe.hypernetwork), "step": None}

    def batch(self, maker: ExampleMaker, step: int, mixture: Mixture, *, unrelated: bool) -> Batch:
        """The batch of a step on this process; document i of all processes is the same however many there are."""
        count, index = self.recipe.run.documents, self.accelerator.process_index
        names = [f"{self.recipe.run.seed}/{maker.split}/{step}/{i}" for i in range(index * count, (index + 1) * count)]
        rngs = [random.Random(name) for name in names]
        examples = [maker.draw(rng, mixture, step) for rng in rngs]
        others = [maker.unrelated(random.Random(f"{name}/unrelated")) for name in names] if unrelated else []
        return self.collator(rngs, examples, self.recipe.run.rows, others).to(self.accelerator.device)

    def log(self, row: Mapping[str, object]) -> None:
        """Append a line to the curve and show it."""
        if self.accelerator.is_main_process:
            line = json.dumps(row)
            print(line, flush=True)
            with (self.out / "curve.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def _keeps_base(self) -> bool:
        """Whether this step has the unrelated-question objective."""
        return self.recipe.loss.unrelated > 0 and self.step % self.recipe.run.unrelated_every == 0

    def _settle(self) -> None:
        chunks = self.bank.to_settle(self.step)
        if chunks is not None:
            self.model.settle(chunks.to(self.accelerator.device), self.bank.total(len(chunks)))

    def _surround(self) -> Surround:
        chosen = self.bank.surround(self.step)
        return replace(chosen, live=chosen.live.to(self.accelerator.device)) if chosen.live is not None else chosen

    def train_step(self) -> StepResult:
        """One optimizer step."""
        factor = lr_factor(self.step, self.recipe.run)
        for optimizer, rate in zip(self.optimizers, (self.recipe.run.muon_lr, self.recipe.run.adam_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        self._settle()
        batch = self.batch(self.maker, self.step, self.recipe.mixture, unrelated=self._keeps_base())
        extra = random.Random(f"{self.recipe.run.seed}/chunks/{self.step}").randrange(self.recipe.run.max_chunks)
        counts = TokenCounts(*self.accelerator.reduce(count_tokens(batch), "mean"))
        surround = self._surround()
        losses: Losses = self.wrapped(batch, self.recipe.loss, extra, surround, counts)
        self.accelerator.backward(losses.total)
        norm = self.accelerator.clip_grad_norm_(self.model.hypernetwork.parameters(), self.recipe.run.clip)
        for optimizer in self.wrapped_optimizers:
            optimizer.step()
            optimizer.zero_grad()
        ids = [batch.documents, batch.rows, batch.unrelated, surround.live]
        tokens = torch.tensor(float(sum(t.numel() for t in ids if t is not None)), device=self.accelerator.device)
        parts = self.accelerator.reduce(torch.stack([losses.answer, losses.unrelated, losses.teacher]), "mean").tolist()
        chunks = (
            1 + extra + surround.chunks + (self.model.settled.chunks if surround.settled and self.model.settled else 0)
        )
        answer, unrelated, teacher = parts
        seen = int(self.accelerator.reduce(tokens, "sum"))
        return StepResult(answer, unrelated, teacher, float(norm), seen, chunks)

    def _probe(self, kind: str, count: int, extra: int = 0, surround: Surround = ALONE) -> dict[str, float]:
        batches = [self.batch(self.held, 100 + i, PROBED[kind], unrelated=False) for i in range(count)]
        result: Probe = probe(self.model, batches, extra, surround)
        return {name: round(value, 4) for name, value in vars(result).items()}

    def probe(self) -> dict[str, object]:
        """Held-out figures: invented facts of unseen words, held-out reading contexts, both alone and in long sums."""
        row: dict[str, object] = {"event": "probe", "step": self.step}
        count = self.recipe.run.probe_batches
        row["facts"], row["reading"] = self._probe("facts", count), self._probe("reading", 2 * count)
        if self.recipe.mixture.relations:
            row["relations"] = self._probe("relations", count)
        if self.recipe.run.max_chunks > 1:
            row["facts_many_chunks"] = self._probe("facts", 1, self.recipe.run.max_chunks - 1)
        if self.recipe.surround.share:
            before = self.model.settled
            for chunks in PROBED_CHUNKS:
                settled = self.held_bank.chunks[: chunks - 1].to(self.accelerator.device)
                self.model.settle(settled, chunks)
                around = Surround(settled=True)
                for kind in PROBED:
                    row[f"{kind}_{chunks}_chunks"] = self._probe(kind, 1, 0, around)
            self.model.settled = before
        return row

    def _one_step(self) -> None:
        """A step, timed and logged; every `probe_every`-th one with its operations and share of the matmul peak."""
        weighed = self.step % self.recipe.run.probe_every == 1
        began = time.monotonic()
        with count_flops(enabled=weighed) as flops:
            result = self.train_step()
        elapsed = time.monotonic() - began
        self.step, self.seconds = self.step + 1, self.seconds + elapsed
        row: dict[str, object] = {"step": self.step, "seconds": round(self.seconds, 1)}
        row |= {name: round(value, 4) for name, value in vars(result).items() if name != "tokens"}
        row["tokens_per_second"] = round(result.tokens / elapsed, 1)
        if weighed:
            row["tflop"] = round(flops.total() / 1e12, 3)
            row["matmul_share"] = round(flops.total() / elapsed / self.peak, 3)
        self.log(row)

    def train(self, stop_at: int = 0) -> None:
        """Run to the last step, or to `stop_at`, from where the same command without it goes on."""
        run = self.recipe.run
        last = min(run.steps, stop_at or run.steps)
        self.peak = matmul_peak(self.accelerator.device, getattr(torch, self.dtype))
        self.log(
            {
                "event": "environment",
                "device": device_name(self.accelerator.device),
                "dtype": self.dtype,
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "matmul_gflops": round(self.peak / 1e9, 1),
            }
        )
        while self.step < last:
            self._one_step()
            if self.step % run.save_every == 0 or self.step == last:
                self.save()
            if self.step % run.probe_every == 0 or self.step == run.steps:
                self.log(self.probe())


def main(argv: list[str] | None = None) -> int:
    """Command line of the training run."""
    parser = argparse.ArgumentParser(prog="localhyper train", description="Meta-train a document hypernetwork")
    parser.add_argument("recipe", type=Path, help="TOML recipe, e.g. export/recipes/smollm2-135m-document.toml")
    parser.add_argument("--base", type=Path, required=True, help="GGUF file of the base model")
    parser.add_argument("--data", type=Path, required=True, help="folder the recipe's files are relative to")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of this run; an interrupted run goes on from it"
    )
    parser.add_argument("--init", type=Path, help="checkpoint.pt of an earlier run, or a bundle, to start from")
    parser.add_argument(
        "--stop-at",
        type=int,
        default=0,
        metavar="STEP",
        help="end after this step; the same command without it goes on",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help="precision of the base model; auto: bfloat16 where the device multiplies in it, else float32",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        recipe = load_recipe(options.recipe)
        dtype = fast_dtype(options.device) if options.dtype == "auto" else getattr(torch, options.dtype)
        Run(recipe, options.base, options.data, options.out, options.device, dtype, options.init).train(options.stop_at)
    except LocalHyperError as error:
        refuse(parser, error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
