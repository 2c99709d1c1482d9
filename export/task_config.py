"""The recipe of a task run: one TOML file with a `[task]` table to frozen values, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from localhyper.errors import ConfigError
from localhyper.export.beside_config import BesideConfig
from localhyper.export.data import Mixture
from localhyper.export.example_config import ExamplesConfig
from localhyper.export.hypernetwork import AssociationConfig
from localhyper.export.initial_config import InitialConfig
from localhyper.export.schedule import Decay, Schedule
from localhyper.export.task_hypernetwork import TaskConfig
from localhyper.export.train_config import build_recipe, read_tables

WAYS = ("sft", "multitask", "reconstruction", "beside", "examples", "initial")
KIND_TABLE = "task"  # a recipe with this table is one of a task run


@dataclass(frozen=True)
class WayConfig:
    """What is trained.

    Attributes:
        way: `sft`, a hypernetwork by the tasks' answers; `reconstruction`, one by LoRAs that `task_loras` trained;
            `multitask`, one LoRA for all tasks, which reads no description; `beside`, a given hypernetwork, by answers
            in a form that a description asks for, while a document's adapter is in force; `examples`, a given one, by
            the tasks' answers, from descriptions with examples; `initial`, no hypernetwork, but the factors that
            learning examples begins with, beside what a given one makes of descriptions.
    """

    way: str = "sft"

    def __post_init__(self) -> None:
        """Only what is known."""
        if self.way not in WAYS:
            raise ConfigError(f"recipe key task.way is {self.way!r}", f"it can be {', '.join(WAYS)}")


@dataclass(frozen=True)
class TaskDataConfig:
    """Files, relative to `--data`, and how they are cut.

    Attributes:
        tasks: Task files (`docs/data.md`), one task a row.
        texts: Plain texts, whose sentences describe no task.
        holdout: Every `holdout`-th task is held out.
        answer_tokens: Tokens an answer is cut at.
        buckets: Widths that rows are padded to, ascending; a row that is longer than the last is left out.
        definitions: Share of draws that take the task's definition in place of a description.
        dropped: Share of a description's tokens that are left out, drawn anew each time.
        own_system: Whether the chat template's own system message stands before inputs; a task's adapter is used
            without it (docs/decisions/0028).
    """

    tasks: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    holdout: int = 20
    answer_tokens: int = 64
    buckets: tuple[int, ...] = (96, 160, 224, 288)
    definitions: float = 0.1
    dropped: float = 0.0
    own_system: bool = True

    def __post_init__(self) -> None:
        """Buckets must ascend, and something must be trained on."""
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 2:
            raise ConfigError(f"recipe key data.buckets must ascend, got {list(self.buckets)}")
        if self.holdout < 2:
            raise ConfigError(f"recipe key data.holdout must be 2 or more, got {self.holdout}")


@dataclass(frozen=True)
class TaskLossConfig:
    """Weights of the objectives.

    Attributes:
        meaningless: KL to the base model, per answer token, where the description describes no task.
        length_power: A token of an answer of n tokens counts n ** -length_power: 0 = all tokens alike, 1 = all answers.
    """

    meaningless: float = 0.05
    length_power: float = 0.5


@dataclass(frozen=True)
class TaskRunConfig(Schedule):
    """Schedule, and the shape of a batch; the heads decay, too.

    Attributes:
        tasks: Tasks a step and process.
        rows: Instances of each.
        meaningless: Descriptions of no task a step and process, each with the rows of one task.
        dropout: Share of a task vector's numbers that are dropped.
        noise: Standard deviation of what is added to them; they are of size 1.
        workers: Processes that make batches ahead; 0 = none.
    """

    warmup: int = 20
    decay: float = 0.5
    clip: float = 1.0
    save_every: int = 100
    probe_every: int = 200
    tasks: int = 4
    rows: int = 4
    meaningless: int = 1
    dropout: float = 0.0
    noise: float = 0.0
    workers: int = 0


@dataclass(frozen=True)
class LoraTraining(Decay):
    """How `task_loras` trains one LoRA for each task.

    Attributes:
        count: Training tasks that get one.
        together: Tasks trained at once, in order of their rows' lengths.
        rows: Instances of each task a step.
        lr: Learning rate (AdamW).
        clip: Largest gradient norm of one task.
    """

    steps: int = 200
    decay: float = 0.7
    count: int = 128
    together: int = 32
    rows: int = 8
    lr: float = 1e-3
    clip: float = 1.0
    save_every: int = 50


@dataclass(frozen=True)
class TaskRecipe:
    """Everything a task run depends on besides the base model and the data files' bytes.

    `beside`, `mixture` and `documents` (sizes of the documents' hypernetwork) are for the way `beside`, `examples` and
    `initial` for the ways of those names.
    """

    name: str = "task"
    chunk_prefix: str = "<|im_start|>user\n"
    task: WayConfig = field(default_factory=WayConfig)
    hypernetwork: TaskConfig = field(default_factory=TaskConfig)
    data: TaskDataConfig = field(default_factory=TaskDataConfig)
    loss: TaskLossConfig = field(default_factory=TaskLossConfig)
    loras: LoraTraining = field(default_factory=LoraTraining)
    beside: BesideConfig = field(default_factory=BesideConfig)
    mixture: Mixture = field(default_factory=Mixture)
    documents: AssociationConfig = field(default_factory=AssociationConfig)
    examples: ExamplesConfig = field(default_factory=ExamplesConfig)
    initial: InitialConfig = field(default_factory=InitialConfig)
    run: TaskRunConfig = field(default_factory=TaskRunConfig)

    def __post_init__(self) -> None:
        """Reconstruction and its spread belong together."""
        if self.hypernetwork.z_scored != (self.task.way == "reconstruction"):
            raise ConfigError(
                f"recipe way {self.task.way!r} has hypernetwork.z_scored = {str(self.hypernetwork.z_scored).lower()}",
                "z_scored = true is for reconstruction, and only for that",
            )


def is_task_recipe(path: Path) -> bool:
    """Whether a recipe is one of a task run.

    Raises:
        ConfigError: The file is missing or is not TOML.
    """
    return KIND_TABLE in read_tables(path)


def load_task_recipe(path: Path) -> TaskRecipe:
    """Read a recipe.

    Raises:
        ConfigError: The file is missing, is not TOML or names an unknown key.
    """
    tables = {
        "task": WayConfig,
        "hypernetwork": TaskConfig,
        "data": TaskDataConfig,
        "loss": TaskLossConfig,
        "loras": LoraTraining,
        "beside": BesideConfig,
        "mixture": Mixture,
        "documents": AssociationConfig,
        "examples": ExamplesConfig,
        "initial": InitialConfig,
        "run": TaskRunConfig,
    }
    recipe: TaskRecipe = build_recipe(TaskRecipe, read_tables(path), tables)
    return recipe
