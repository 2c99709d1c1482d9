"""Put trained factors to begin with into a bundle for tasks.

    python -m localhyper.export.add_initial BUNDLE.onnx RUN --recipe RECIPE.toml --out OUT.onnx

RUN is a run of the way `initial` (`localhyper.export.initial_train`), trained beside what BUNDLE makes of descriptions.
They are outputs that do not depend on the input: int8 with a scale for each rank, which is fine enough for what is
learnt on. Those that BUNDLE has are replaced. Rates that the run has learnt beside them are left out: they make
learning slower, which costs labels (docs/decisions/0035).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from localhyper.bundle import check_kind, read_bundle
from localhyper.errors import ConfigError, HypernetworkError
from localhyper.export.checkpoints import read_run, run_events, run_facts
from localhyper.export.command_line import write_out
from localhyper.export.onnx_bundle import take_out, update_description, write_changed
from localhyper.export.task_config import TaskRecipe, load_task_recipe
from localhyper.hypernet import OnnxHypernetwork
from localhyper.initial_factors import INITIAL_OUTPUTS

Array = NDArray[Any]
ENTRY = "initial"  # what a card says of them
FACTOR_B = INITIAL_OUTPUTS[1]
WHOLE = 127  # of int8


def trained_factors(run: Path, recipe: TaskRecipe) -> tuple[dict[str, Array], dict[str, object]]:
    """Outputs by their names, float32, and the run's facts as a card has them.

    Raises:
        ConfigError: It is no run of this kind.
    """
    saved = read_run(run)
    state = {name: tensor.float().cpu().numpy() for name, tensor in saved["hypernetwork"].items()}
    if recipe.task.way != "initial" or {name.split(".")[0] for name in state} != {"a", "b", "rates"}:
        raise ConfigError(f"run `{run}` has no factors to begin with", "name the folder and recipe of such a run")
    kept = {name: values for name, values in state.items() if name[:2] in ("a.", "b.")}
    return {f"initial_{name}": values for name, values in kept.items()}, card_of(run, recipe) | run_facts(saved)


def card_of(run: Path, recipe: TaskRecipe) -> dict[str, object]:
    """What a reader of the bundle must know of the run: data, and what a visit was.

    Raises:
        ConfigError: The run has no curve.
    """
    events, config = run_events(run), recipe.initial
    tasks, environment = events.get("tasks", {}), events.get("environment", {})
    return {
        "data": {"tasks": list(recipe.data.tasks), "training_tasks": tasks.get("train"), "held_out": tasks.get("held")},
        "visits": {"a_step": recipe.run.tasks, "shots": list(config.shots), "asked": config.asked},
        "joint_steps": config.joint,
        "beside": events.get("descriptions", {}).get("bundle"),
        "device": environment.get("device", "unknown"),
        "dtype": environment.get("dtype", "unknown"),
    }


def put_in(model: onnx.ModelProto, outputs: dict[str, Array]) -> None:
    """Add the outputs to a bundle, in the place of those that it has."""
    graph = model.graph
    take_out(model, lambda name: name.split(".")[0] in INITIAL_OUTPUTS)
    for name, values in outputs.items():
        _put_factor(graph, name, values, turned=name.split(".", 1)[0] == FACTOR_B)
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values.shape)))


def _put_factor(graph: onnx.GraphProto, name: str, values: Array, *, turned: bool) -> None:
    """A factor as int8 with a scale for each block and rank; `turned`: the rank is its last axis."""
    rows = values.transpose(0, 2, 1) if turned else values  # [blocks, rank, width]
    flat = rows.reshape(-1, rows.shape[-1])
    scale = np.maximum(np.abs(flat).max(1), np.finfo(np.float32).tiny).astype(np.float32) / WHOLE
    whole = np.rint(flat / scale[:, None]).astype(np.int8)
    stored = {"whole": whole, "scale": scale, "shape": np.array(rows.shape, np.int64)}
    for part, array in stored.items():
        graph.initializer.append(numpy_helper.from_array(array, f"{name}.{part}"))
    last = f"{name}.rows" if turned else name
    graph.node.append(
        helper.make_node(
            "DequantizeLinear", [f"{name}.whole", f"{name}.scale"], [f"{name}.flat"], name=f"{name}.dequantize", axis=0
        )
    )
    graph.node.append(helper.make_node("Reshape", [f"{name}.flat", f"{name}.shape"], [last], name=f"{name}.reshape"))
    if turned:
        graph.node.append(helper.make_node("Transpose", [last], [name], name=f"{name}.transpose", perm=[0, 2, 1]))


def add_initial(bundle: Path, run: Path, recipe: Path, out: Path) -> None:
    """Write `bundle` with the factors of a run to `out`; nothing is written where they do not go together.

    Raises:
        LocalHyperError: They don't, or one of them cannot be read.
    """
    info = read_bundle(bundle)
    check_kind(info, "task")
    outputs, facts = trained_factors(run, load_task_recipe(recipe))
    model = onnx.load(bundle)
    put_in(model, outputs)
    update_description(model, {"card": {**info.card, ENTRY: facts}})
    write_changed(model, out, _look)


def _look(made: OnnxHypernetwork) -> None:
    """Whether what was put in is taken."""
    if made.initial() is None:
        raise HypernetworkError(f"bundle `{made.info.path}` did not take the factors")


def main(argv: list[str] | None = None) -> int:
    """Command line of adding."""
    parser = argparse.ArgumentParser(
        prog="python -m localhyper.export.add_initial", description="Put factors to begin with into a bundle for tasks"
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("run", type=Path, help="folder of a run of the way `initial`")
    parser.add_argument("--recipe", type=Path, required=True, help="of the run")
    return write_out(parser, argv, lambda given: add_initial(given.bundle, given.run, given.recipe, given.out))


if __name__ == "__main__":
    sys.exit(main())
