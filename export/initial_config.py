"""The table of a task recipe that trains the factors which learning examples begins with."""

from __future__ import annotations

from dataclasses import dataclass

from localhyper.errors import ConfigError


@dataclass(frozen=True)
class InitialConfig:
    """What a visit of a task is.

    Attributes:
        shots: Fewest and most examples that are learnt, drawn alike.
        asked: Instances whose answers say how well it went.
        joint: Steps at the beginning that learn nothing before they ask: one LoRA for all tasks.
        inner: Steps of descent of a visit; 0 = as many as the runtime's.
        blank: Share of visits without a description.
        rate: How fast the logarithms of the matrices' rates are learnt, beside the factors; 0 = they are not.
    """

    shots: tuple[int, ...] = (3, 10)
    asked: int = 6
    joint: int = 0
    inner: int = 0
    blank: float = 0.1
    rate: float = 0.0

    def __post_init__(self) -> None:
        """There must be something to learn and to ask."""
        if len(self.shots) != 2 or not 1 <= self.shots[0] <= self.shots[1]:
            raise ConfigError(f"recipe key initial.shots must be two ascending numbers from 1, got {list(self.shots)}")
        if self.asked < 1:
            raise ConfigError(f"recipe key initial.asked must be 1 or more, got {self.asked}")
        if not 0 <= self.blank <= 1:
            raise ConfigError(f"recipe key initial.blank must be from 0 to 1, got {self.blank}")
        if min(self.joint, self.inner) < 0:
            raise ConfigError("recipe keys initial.joint and initial.inner must not be negative")
