"""The tables of a task recipe that trains beside documents' adapters."""

from __future__ import annotations

from dataclasses import dataclass

from localhyper.errors import ConfigError


@dataclass(frozen=True)
class BesideConfig:
    """Documents that a task's adapter stands beside, and what of the hypernetwork is to stay.

    Attributes:
        reading: Reading-set files, relative to `--data`.
        texts: Plain texts: filler of documents with invented facts.
        holdout: Every `holdout`-th context is held out, and the last tenth of every text.
        documents: Documents a step and process.
        forms: Forms of answers that each document is asked in.
        known: Share of documents that are not in force: questions are asked that the base model answers by itself.
        others: Descriptions of `answer_forms.toml` that are of no form and stay, a step and process.
        stay: Weight of the distance from the LoRAs that descriptions of other tasks had at the beginning.
        frozen: Parameters of the task hypernetwork that are not trained, by how their names begin.
    """

    reading: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    holdout: int = 40
    documents: int = 8
    forms: int = 2
    known: float = 0.0
    others: int = 4
    stay: float = 1.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Something must be drawn, and from some documents."""
        for name in ("documents", "forms"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe key beside.{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.known < 1:
            raise ConfigError(f"recipe key beside.known must be 0 or more and below 1, got {self.known}")
