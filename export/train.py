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
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from localhyper.errors import LocalHyperError
from localhyper.export.batches import Batch, Collator
from localhyper.export.data import Corpus, ExampleMaker, Mixture, load_corpus
from localhyper.export.hypernetwork import AssociationHypernetwork
from localhyper.export.metric import low_rank, second_moments
from localhyper.export.objectives import Losses, MetaModel, Probe, probe
from localhyper.export.perceiver import PerceiverHypernetwork
from localhyper.export.prompts import read_prompt_format
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import TorchBase
from localhyper.export.train_config import Recipe, RunConfig, load_recipe


def make_optimizers(model: nn.Module, run: RunConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) on weight matrices, AdamW on embeddings, norms, gains, gates, slot keys and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and not any(part in name for part in ("positions", "latents", "gate."))
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


class Run:
    """One training run: state, data and loop."""

    def __init__(self, recipe: Recipe, base_path: Path, data: Path, out: Path, device: str, dtype: torch.dtype) -> None:
        # Not every parameter is reached by every mixture, and DDP must know.
        kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[kwargs])
        self.recipe, self.out, self.base_path, self.dtype = recipe, out, base_path, str(dtype).removeprefix("torch.")
        tokenizer = load_tokenizer(base_path)
        prompts = read_prompt_format(base_path, recipe.chunk_prefix)
        size = (recipe.perceiver or recipe.hypernetwork).max_tokens
        self.collator = Collator(tokenizer, prompts, size, recipe.run.max_row, recipe.run.bucket)
        cfg = recipe.data
        train, held = load_corpus(data, cfg.reading, cfg.texts, tokenizer, size, cfg.holdout)
        self.maker, self.held = ExampleMaker(train, tokenizer, size), ExampleMaker(held, tokenizer, size, "test")
        base = TorchBase(base_path, dtype).to(self.accelerator.device)
        hypernetwork = self._hypernetwork(base, train)
        self.model = MetaModel(base, hypernetwork, len(self.collator.prefix), int(recipe.run.cache_gb * 2**30))
        self.optimizers = make_optimizers(self.model, recipe.run)
        self.step, self.seconds = 0, 0.0
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
        self.log({"event": "resumed", "step": self.step})

    def batch(self, maker: ExampleMaker, step: int, mixture: Mixture, *, unrelated: bool) -> Batch:
        """The batch of a step on this process."""
        rng = random.Random(f"{self.recipe.run.seed}/{maker.split}/{step}/{self.accelerator.process_index}")
        examples = [maker.draw(rng, mixture, step) for _ in range(self.recipe.run.documents)]
        built = self.collator(rng, examples, self.recipe.run.rows, unrelated=unrelated)
        return built.to(self.accelerator.device)

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

    def train_step(self) -> tuple[Losses, float, int]:
        """One optimizer step; losses, gradient norm and trained tokens."""
        factor = lr_factor(self.step, self.recipe.run)
        for optimizer, rate in zip(self.optimizers, (self.recipe.run.muon_lr, self.recipe.run.adam_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        batch = self.batch(self.maker, self.step, self.recipe.mixture, unrelated=self._keeps_base())
        extra = random.Random(f"{self.recipe.run.seed}/chunks/{self.step}").randrange(self.recipe.run.max_chunks)
        losses: Losses = self.wrapped(batch, self.recipe.loss, extra)
        self.accelerator.backward(losses.total)
        norm = self.accelerator.clip_grad_norm_(self.model.hypernetwork.parameters(), self.recipe.run.clip)
        for optimizer in self.wrapped_optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens = (
            batch.documents.numel()
            + batch.rows.numel()
            + (batch.unrelated.numel() if batch.unrelated is not None else 0)
        )
        return losses, float(norm), tokens

    def probe(self) -> dict[str, object]:
        """Held-out figures: invented facts of unseen words, and held-out reading contexts."""
        row: dict[str, object] = {"event": "probe", "step": self.step}
        for kind, mixture in (("facts", Mixture(1, 0, 0, 4, 1)), ("reading", Mixture(0, 1, 0))):
            count = self.recipe.run.probe_batches * (1 if kind == "facts" else 2)
            batches = [self.batch(self.held, 100 + i, mixture, unrelated=False) for i in range(count)]
            result: Probe = probe(self.model, batches)
            row[kind] = {name: round(value, 4) for name, value in vars(result).items()}
        if self.recipe.run.max_chunks > 1:
            batches = [self.batch(self.held, 100, Mixture(1, 0, 0, 4, 1), unrelated=False)]
            result = probe(self.model, batches, self.recipe.run.max_chunks - 1)
            row["facts_many_chunks"] = {name: round(value, 4) for name, value in vars(result).items()}
        return row

    def train(self) -> None:
        """Run to the last step."""
        run = self.recipe.run
        self.log(
            {
                "event": "environment",
                "device": device_name(self.accelerator.device),
                "dtype": self.dtype,
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        )
        while self.step < run.steps:
            began = time.monotonic()
            losses, norm, tokens = self.train_step()
            elapsed = time.monotonic() - began
            self.step, self.seconds = self.step + 1, self.seconds + elapsed
            row = {"step": self.step, "seconds": round(self.seconds, 1), "answer": round(losses.answer.item(), 4)}
            self.log(
                row
                | {
                    "unrelated": round(losses.unrelated.item(), 4),
                    "teacher": round(losses.teacher.item(), 4),
                    "grad_norm": round(norm, 2),
                    "tokens_per_second": round(tokens / elapsed, 1),
                }
            )
            if self.step % run.save_every == 0 or self.step == run.steps:
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="precision of the base model"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        recipe = load_recipe(options.recipe)
        Run(recipe, options.base, options.data, options.out, options.device, getattr(torch, options.dtype)).train()
    except LocalHyperError as error:
        parser.exit(
            error.exit_code,
            f"error: {error.message}\n\nhint: {error.hint}\n" if error.hint else f"error: {error.message}\n",
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
