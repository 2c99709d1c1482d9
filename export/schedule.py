"""How long a run lasts and how its learning rates rise and fall: what recipes of all kinds of run have in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decay:
    """A learning rate over a run.

    Attributes:
        steps: Steps of the whole run.
        warmup: Steps of linear warm-up; then constant, then linear decay over the last `decay` share of steps.
        decay: That share.
    """

    steps: int = 1000
    warmup: int = 10
    decay: float = 0.4

    def lr_factor(self, step: int) -> float:
        """Warm-up, constant, linear decay to a twentieth."""
        start = self.steps * (1 - self.decay)
        late = max(0.0, (step - start) / max(1.0, self.steps - start))
        return min(1.0, (step + 1) / max(1, self.warmup)) * (1 - 0.95 * min(1.0, late))


@dataclass(frozen=True)
class Schedule(Decay):
    """What `training_loop` needs to know of a run.

    Attributes:
        muon_lr: Learning rate of weight matrices (Muon).
        adam_lr: Learning rate of everything else (AdamW).
        weight_decay: Of the weight matrices, decoupled.
        clip: Largest gradient norm.
        seed: Seed of every random choice.
        save_every: Steps between checkpoints.
        probe_every: Steps between held-out figures.
        probe_batches: Batches of each of them.
    """

    muon_lr: float = 5e-3
    adam_lr: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 4.0
    seed: int = 0
    save_every: int = 25
    probe_every: int = 50
    probe_batches: int = 4
