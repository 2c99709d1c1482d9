"""The table of a task recipe that trains on descriptions with examples."""

from __future__ import annotations

from dataclasses import dataclass

from localhyper.errors import ConfigError


@dataclass(frozen=True)
class ExamplesConfig:
    """Examples that follow a description, and what of the hypernetwork is to stay.

    Attributes:
        most: Most examples; one to so many are drawn, and of them what `max_tokens` of the hypernetwork holds.
        alone: Share of draws in which the examples stand alone, without a description.
        staying: Descriptions of tasks, without examples, whose LoRAs stay, a step and process.
        others: Descriptions of `answer_forms.toml`, of forms and of other things, that stay, likewise.
        meaningless: Descriptions of no task that stay, likewise.
        stay: Weight of the distance from the LoRAs that these had at the beginning.
        frozen: Parameters of the hypernetwork that are not trained, by how their names begin.
    """

    most: int = 3
    alone: float = 0.2
    staying: int = 8
    others: int = 8
    meaningless: int = 4
    stay: float = 15.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """There must be examples, and descriptions among them."""
        if self.most < 1:
            raise ConfigError(f"recipe key examples.most must be 1 or more, got {self.most}")
        if not 0 <= self.alone <= 1:
            raise ConfigError(f"recipe key examples.alone must be from 0 to 1, got {self.alone}")
        if self.staying < 1:
            raise ConfigError(f"recipe key examples.staying must be 1 or more, got {self.staying}")
