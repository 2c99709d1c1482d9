"""The recipe of a search run: one TOML file with a `[search]` table to frozen values, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from localhyper.errors import ConfigError
from localhyper.export.schedule import Schedule
from localhyper.export.train_config import build_recipe, read_tables

KIND_TABLE = "search"  # a recipe with this table is one of a search run


@dataclass(frozen=True)
class SearchConfig:
    """What is trained.

    Attributes:
        taps: Taps whose activations are read, all of them among those that the bundle captures.
        size: Length of a key.
        max_tokens: Most tokens of a chunk.
        words: What BM25 counts for beside the keys when a chunk is chosen; not trained.
    """

    taps: tuple[int, ...] = (12,)
    size: int = 128
    max_tokens: int = 256
    words: float = 0.4

    def __post_init__(self) -> None:
        """Something to read, and something to make of it."""
        if not self.taps or list(self.taps) != sorted(set(self.taps)) or self.taps[0] < 0:
            raise ConfigError(f"recipe key search.taps must ascend, got {list(self.taps)}")
        if self.size < 1 or self.max_tokens < 1:
            raise ConfigError(f"recipe keys search.size and search.max_tokens must be 1 or more, got {self}")


@dataclass(frozen=True)
class SearchDataConfig:
    """Files, relative to `--data`.

    Attributes:
        reading: Reading sets.
        contexts: Contexts taken, drawn at random; 0 = all.
        questions: Most questions of a context.
        negatives: Contexts kept for a question that share most words with it and don't hold its answer.
        holdout: Every `holdout`-th context is held out.
        cut_tokens: Contexts are cut into chunks of at most so many tokens, as documents are, and a question is about
            the one that spells its answer; 0 = they are left as they are.
    """

    reading: tuple[str, ...] = ()
    contexts: int = 0
    questions: int = 4
    negatives: int = 12
    holdout: int = 12
    cut_tokens: int = 0

    def __post_init__(self) -> None:
        """Something must be trained on."""
        if self.holdout < 2:
            raise ConfigError(f"recipe key data.holdout must be 2 or more, got {self.holdout}")


@dataclass(frozen=True)
class SearchRunConfig(Schedule):
    """Schedule, and the shape of a batch.

    Attributes:
        pairs: Questions a step and process, each of another context; it is told from all contexts of the batch.
        related: What telling a question about a context from those about none counts for, by its mean cosine.
        everyday: Everyday requests a step and process, which are about no context; read with `related` alone.
        dropout: Share of the features that are dropped.
        cache_gb: Memory for activations of texts that come again.
    """

    warmup: int = 30
    decay: float = 0.7
    pairs: int = 40
    related: float = 0.0
    everyday: int = 0
    dropout: float = 0.1
    cache_gb: float = 2.0


@dataclass(frozen=True)
class SearchRecipe:
    """Everything a search run depends on besides the base model and the data files' bytes."""

    name: str = "search"
    chunk_prefix: str = "<|im_start|>user\n"
    search: SearchConfig = field(default_factory=SearchConfig)
    data: SearchDataConfig = field(default_factory=SearchDataConfig)
    run: SearchRunConfig = field(default_factory=SearchRunConfig)


def load_search_recipe(path: Path) -> SearchRecipe:
    """Read a recipe.

    Raises:
        ConfigError: The file is missing, is not TOML or names an unknown key.
    """
    tables = {"search": SearchConfig, "data": SearchDataConfig, "run": SearchRunConfig}
    recipe: SearchRecipe = build_recipe(SearchRecipe, read_tables(path), tables)
    return recipe
