"""A training run to a bundle: `localhyper export RUN --recipe FILE --base MODEL.gguf --out FILE.onnx`.

Runs over tasks are exported by `task_onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from localhyper.base_header import read_base_info
from localhyper.errors import ConfigError, LocalHyperError
from localhyper.export.checkpoints import read_curve, read_run, run_facts
from localhyper.export.command_line import refuse
from localhyper.export.hypernetwork import AssociationHypernetwork
from localhyper.export.onnx_bundle import write_bundle
from localhyper.export.sum_config import KIND_TABLE, SumRecipe, load_sum_recipe
from localhyper.export.task_config import is_task_recipe, load_task_recipe
from localhyper.export.train_config import Recipe, load_recipe, read_tables


def load_run(recipe: Recipe | SumRecipe, run: Path) -> tuple[AssociationHypernetwork, dict[str, Any]]:
    """The hypernetwork of a run and its training facts (steps, seconds).

    Raises:
        ConfigError: The run has no checkpoint yet.
    """
    if isinstance(recipe, Recipe) and recipe.perceiver is not None:
        raise ConfigError("a Perceiver run cannot be exported", "bundles hold association hypernetworks so far")
    state = read_run(run)
    hypernetwork = AssociationHypernetwork(recipe.hypernetwork)
    hypernetwork.load_state_dict(state["hypernetwork"])
    return hypernetwork, run_facts(state)


def make_card(recipe: Recipe | SumRecipe, run: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the bundle must know: data, steps, device, seconds, held-out scores."""
    rows = read_curve(run)
    probes = [row for row in rows if row.get("event") == "probe"]
    environment: dict[str, Any] = next((row for row in reversed(rows) if row.get("event") == "environment"), {})
    begun = [row["run"] for row in rows if row.get("event") == "started from"]
    return {
        "data": {
            "reading": list(recipe.data.reading),
            "filler": list(recipe.data.texts),
            "unrelated": [*recipe.data.instructions, *recipe.data.replies],
            "shares": recipe.mixture.shares,
            **({"about": list(recipe.data.about)} if recipe.data.about else {}),
            **({"probed": list(recipe.data.probed)} if recipe.data.probed else {}),
        },
        "reply_start": recipe.reply_start,
        **({"cut_tokens": recipe.data.cut_tokens} if recipe.data.cut_tokens else {}),
        **({"started_from": begun[0]} if begun else {}),
        "documents": sum(recipe.sums.documents)
        if isinstance(recipe, SumRecipe)
        else facts["steps"] * recipe.run.documents,
        "device": environment.get("device", "unknown"),
        "dtype": environment.get("dtype", "unknown"),
        **facts,
        "held_out": probes[-1] if probes else {},
        "config": recipe.hypernetwork.as_dict(),
    }


def _export_tasks(options: argparse.Namespace) -> str:
    from localhyper.export.task_onnx import export_task_run

    return export_task_run(load_task_recipe(options.recipe), options.run, options.base, options.out)


def _export_documents(options: argparse.Namespace) -> str:
    sums = KIND_TABLE in read_tables(options.recipe)
    recipe = load_sum_recipe(options.recipe) if sums else load_recipe(options.recipe)
    hypernetwork, facts = load_run(recipe, options.run)
    card = make_card(recipe, options.run, facts)
    base = read_base_info(options.base)
    parity = write_bundle(hypernetwork, base, options.out, name=recipe.name, prefix=recipe.chunk_prefix, card=card)
    size = options.out.stat().st_size / 2**20
    return f"{options.out}: {size:.1f} MiB, torch = ONNX within {parity.max_difference:.1e} at lengths {parity.lengths}"


def main(argv: list[str] | None = None) -> int:
    """Command line of the export."""
    parser = argparse.ArgumentParser(prog="localhyper export", description="Turn a training run into an ONNX bundle")
    parser.add_argument("run", type=Path, help="folder given to --out of the training run")
    parser.add_argument("--recipe", type=Path, required=True, help="the recipe it was trained with")
    parser.add_argument("--base", type=Path, required=True, help="GGUF file of the base model")
    parser.add_argument(
        "--out", type=Path, required=True, help="bundle to write; of a multi-task run an adapter, .gguf"
    )
    options = parser.parse_args(argv)
    try:
        print(_export_tasks(options) if is_task_recipe(options.recipe) else _export_documents(options))
    except LocalHyperError as error:
        refuse(parser, error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
