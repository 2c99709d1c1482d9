"""Reading what training runs write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from localhyper.errors import ConfigError

Trained = TypeVar("Trained", bound=nn.Module)


def read_checkpoint(path: Path, device: torch.device | str = "cpu", *, or_bundle: bool = False) -> dict[str, Any]:
    """A `checkpoint.pt`: tensors and plain values only, whoever made it; `or_bundle`: a bundle would have done, too.

    Raises:
        ConfigError: It is missing.
    """
    if not path.is_file():
        hint = "name the checkpoint.pt of an earlier run" + (", or a bundle" if or_bundle else "")
        raise ConfigError(f"checkpoint {path} is missing", hint)
    place = torch.device(device)
    # Accelerate calls the processor of one of several processes `cpu:0`, which torch cannot load to.
    place = torch.device("cpu") if place.type == "cpu" else place
    state: dict[str, Any] = torch.load(path, map_location=place, weights_only=True)
    return state


def read_run(run: Path) -> dict[str, Any]:
    """The newest state of a run's folder.

    Raises:
        ConfigError: It has none yet.
    """
    path = run / "checkpoint.pt"
    if not path.is_file():
        raise ConfigError(f"{run} holds no checkpoint.pt", "train first, or name the folder given to --out")
    return read_checkpoint(path)


def read_curve(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's curve, steps and events.

    Raises:
        ConfigError: There is no curve, or a line of it is no JSON.
    """
    path = run / "curve.jsonl"
    if not path.is_file():
        raise ConfigError(f"{run} has no curve.jsonl, which the bundle's card is made of", "copy the run's beside it")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "copy the run's once more") from None


def run_events(run: Path) -> dict[str, dict[str, Any]]:
    """What a run's curve says besides its steps: the last row of each event by its name.

    Raises:
        ConfigError: As `read_curve`.
    """
    return {row["event"]: row for row in read_curve(run) if "event" in row}


def run_facts(state: dict[str, Any]) -> dict[str, Any]:
    """What cards say of a run's state: steps, seconds, and of a mixture (`average`) the run's share and what it lacks.

    Held-out scores of a mixture's card are those of the run before it.
    """
    facts = {"steps": state["step"], "seconds": round(state["seconds"])}
    if "averaged" in state:
        facts["share_of_run"] = state["averaged"]
    if state.get("kept"):
        facts["kept"] = state["kept"]
    return facts


def load_run(trained: Trained, run: Path) -> tuple[Trained, dict[str, Any]]:
    """A new module of a recipe's sizes with the weights of a run, and the run's facts.

    Raises:
        ConfigError: The run has no checkpoint yet, or one of another recipe.
    """
    state = read_run(run)
    try:
        trained.load_state_dict(state["hypernetwork"])
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        hint = "give the recipe that it was trained with"
        raise ConfigError(f"run {run} is not of this recipe: {what}", hint) from None
    return trained, run_facts(state)
