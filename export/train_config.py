"""A training recipe: one TOML file to frozen values, checked."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localhyper.errors import ConfigError
from localhyper.export.data import Mixture
from localhyper.export.hypernetwork import AssociationConfig
from localhyper.export.objectives import LossWeights
from localhyper.export.perceiver import PerceiverConfig
from localhyper.export.schedule import Schedule


@dataclass(frozen=True)
class DataConfig:
    """Files, relative to `--data`, and how they are cut.

    Attributes:
        reading: Reading sets.
        texts: Plain texts.
        instructions: Requests with replies.
        replies: Requests with the base model's own replies.
        about: Passages with its own answers to general questions.
        probed: Reading sets for held-out figures alone; empty = what is held out of `reading`.
        holdout: Every so many-th context, request and passage is held out.
        cut_tokens: Most tokens of a document, cut as attaching does; 0 = as many as a chunk may have.
    """

    reading: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    probed: tuple[str, ...] = ()
    holdout: int = 40
    cut_tokens: int = 0


@dataclass(frozen=True)
class SurroundConfig:
    """How long the documents are that training pretends its chunks are part of.

    Attributes:
        share: Share of steps in which filler chunks join the adapters; two thirds of them with the settled sum too.
        live: Filler chunks a step that learn.
        bank: Filler chunks to draw from, in runs of consecutive ones of a text; keep `cache_gb` large enough for them.
        most: Largest settled sum, in chunks; sizes are drawn evenly on a log scale.
        settle_every: Steps after which the settled sum is made anew.
        own_text: Share of the documents of such a step that are chunks of the text that surrounds them.
    """

    share: float = 0.0
    live: int = 4
    bank: int = 256
    most: int = 120
    settle_every: int = 8
    own_text: float = 0.9


@dataclass(frozen=True)
class RunConfig(Schedule):
    """Schedule, and the shape of a batch.

    Attributes:
        documents: Documents a step and process.
        rows: Questions a document.
        packed: A document's questions are one sequence (`localhyper.export.packing`), at most `rows`, none twice.
        max_row: Most tokens of a question with its prompt and answer; of such a sequence, if `packed`.
        cache_gb: Memory for activations of documents that come again (reading sets over several epochs).
        max_chunks: A document's adapter is the sum of 1 to this many chunks, the others of other documents.
        unrelated_every: The unrelated-question objective is in every n-th step.
        fresh: Parameters that begin as they always do, whatever weights the run starts from.
    """

    documents: int = 8
    rows: int = 4
    packed: bool = False
    max_row: int = 112
    bucket: int = 32
    cache_gb: float = 0.0
    max_chunks: int = 1
    unrelated_every: int = 1
    moment_tokens: int = 16384
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on besides the base model and the data files' bytes.

    With a `[perceiver]` table the published Doc-to-LoRA is trained instead of the association hypernetwork: the
    comparison, on the same data with the same objectives.

    Attributes:
        chunk_prefix: Text before a chunk when it is encoded.
        reply_start: Text before every answer about a document. Adapters carry tokens, and those of a word after a space
            are not those of the word alone: with a space here, replies begin with the text's own.
    """

    name: str = "document"
    chunk_prefix: str = "<|im_start|>user\n"
    reply_start: str = ""
    hypernetwork: AssociationConfig = field(default_factory=AssociationConfig)
    perceiver: PerceiverConfig | None = None
    mixture: Mixture = field(default_factory=Mixture)
    loss: LossWeights = field(default_factory=LossWeights)
    data: DataConfig = field(default_factory=DataConfig)
    surround: SurroundConfig = field(default_factory=SurroundConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Chunks are not longer than what reads them; the teacher reads rows that are not packed."""
        cut, most = self.data.cut_tokens, (self.perceiver or self.hypernetwork).max_tokens
        if not 0 <= cut <= most:
            raise ConfigError(f"recipe key data.cut_tokens must be 0 to {most}, the most tokens of a chunk, got {cut}")
        if self.run.packed and self.loss.teacher:
            raise ConfigError("recipe key run.packed cannot be with loss.teacher", "set one of them to false or 0")


def build_table(cls: type[Any], table: dict[str, Any], where: str) -> Any:
    """A table of a recipe as its dataclass.

    Raises:
        ConfigError: It has a key that the dataclass lacks.
    """
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = set(table) - known
    if unknown:
        raise ConfigError(
            f"recipe table [{where}] has an unknown key {sorted(unknown)[0]!r}",
            f"known keys: {', '.join(sorted(known))}",
        )
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def build_recipe(cls: type[Any], raw: dict[str, Any], tables: Mapping[str, type[Any]]) -> Any:
    """A recipe of what `read_tables` gave, each table as its dataclass, those that are missing with their defaults.

    Raises:
        ConfigError: A key that is not known.
    """
    built = {key: build_table(table, raw.get(key, {}), key) for key, table in tables.items()}
    return build_table(cls, raw | built, "top level")


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a recipe, unchecked.

    Raises:
        ConfigError: The file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path} is missing", "recipes ship in export/recipes/") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {path} is not TOML: {error}") from None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: The file is missing, is not TOML or names an unknown key.
    """
    raw = read_tables(path)
    tables: dict[str, type[Any]] = {
        "hypernetwork": AssociationConfig,
        "mixture": Mixture,
        "loss": LossWeights,
        "data": DataConfig,
        "surround": SurroundConfig,
        "run": RunConfig,
    }
    if "perceiver" in raw:
        tables["perceiver"] = PerceiverConfig
    recipe: Recipe = build_recipe(Recipe, raw, tables)
    return recipe
