"""The recipe of a run that trains sums: one TOML file with a `[sums]` table to frozen values, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from localhyper.errors import ConfigError
from localhyper.export.data import Mixture
from localhyper.export.hypernetwork import AssociationConfig
from localhyper.export.schedule import Schedule
from localhyper.export.train_config import DataConfig, build_recipe, read_tables

KIND_TABLE = "sums"  # a recipe with this table is one of a run that trains sums


@dataclass(frozen=True)
class SumsConfig:
    """The long documents that are trained on.

    Attributes:
        chunks: Sizes of documents, in chunks.
        documents: How many there are of each size.
        held: Documents of each size that are held out, of held-out texts and words.
        facts: Most invented facts a chunk; each document has a share of it.
    """

    chunks: tuple[int, ...] = (4, 8, 16, 32, 64)
    documents: tuple[int, ...] = (16, 16, 10, 6, 2)
    held: int = 1
    facts: float = 4.0

    def __post_init__(self) -> None:
        """Sums have at least two parts."""
        if len(self.chunks) != len(self.documents) or min(self.chunks, default=0) < 2 or min(self.documents) < 1:
            raise ConfigError(
                f"recipe keys sums.chunks (each at least 2) and sums.documents must go together, got {self}"
            )


@dataclass(frozen=True)
class SumRunConfig(Schedule):
    """Schedule, and the shape of a batch.

    Attributes:
        rows: Questions a step and process, all about one document.
        others: Rows that are not about it.
        others_every: They are in every n-th step.
        others_weight: What a nat of theirs counts for.
    """

    warmup: int = 10
    decay: float = 0.5
    clip: float = 1.0
    rows: int = 16
    others: int = 6
    others_every: int = 3
    others_weight: float = 0.5
    max_row: int = 104
    bucket: int = 32


@dataclass(frozen=True)
class SumRecipe:
    """Everything a run depends on besides the base model, the weights it starts from and the data files' bytes."""

    name: str = "document"
    chunk_prefix: str = "<|im_start|>user\n"
    reply_start: str = ""
    hypernetwork: AssociationConfig = field(default_factory=AssociationConfig)
    mixture: Mixture = field(default_factory=Mixture)
    sums: SumsConfig = field(default_factory=SumsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    run: SumRunConfig = field(default_factory=SumRunConfig)


def load_sum_recipe(path: Path) -> SumRecipe:
    """Read a recipe.

    Raises:
        ConfigError: The file is missing, is not TOML or names an unknown key.
    """
    tables = {
        "hypernetwork": AssociationConfig,
        "mixture": Mixture,
        "sums": SumsConfig,
        "data": DataConfig,
        "run": SumRunConfig,
    }
    recipe: SumRecipe = build_recipe(SumRecipe, read_tables(path), tables)
    if not recipe.hypernetwork.salience or not recipe.hypernetwork.whitening:
        raise ConfigError("sums are trained by hypernetwork.salience, in documents that hypernetwork.whitening whitens")
    return recipe
