"""A training run to a bundle: `localhyper export RUN --recipe FILE --base MODEL.gguf --out FILE.onnx`.

Runs over tasks are exported by `task_onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from localhyper.base_header import BaseHeader, read_base_header
from localhyper.errors import LocalHyperError
from localhyper.export.checkpoints import load_run, read_curve
from localhyper.export.command_line import refuse
from localhyper.export.hypernetwork import AssociationHypernetwork
from localhyper.export.onnx_bundle import Parity, write_bundle
from localhyper.export.perceiver import DocToLora, PerceiverHypernetwork
from localhyper.export.published_bundle import PublishedGraph, describe, final_norm, write_published
from localhyper.export.sum_config import KIND_TABLE, SumRecipe, load_sum_recipe
from localhyper.export.task_config import is_task_recipe, load_task_recipe
from localhyper.export.train_config import Recipe, load_recipe, read_tables


def write_perceiver(net: DocToLora, base: BaseHeader, path: Path, recipe: Recipe, card: dict[str, Any]) -> Parity:
    """A trained Perceiver as the bundle that a published one becomes, in float16; it reads chunks as training did.

    Raises:
        HypernetworkError: torch and ONNX differ by more than 1e-4, or a weight does not fit; nothing is written.
    """
    facts = {
        "name": recipe.name,
        "chunk_tokens": net.config.max_tokens,
        "prefix": recipe.chunk_prefix,
        "suffix": "",
        "reads_prefix": False,
        "licence": "Apache-2.0",
        "card": card,
    }
    graph = PublishedGraph(net, net.config.scaling, final_norm(base)).eval()
    return write_published(graph, path, describe(net.config, base, facts), "f16")


def make_card(recipe: Recipe | SumRecipe, run: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the bundle must know: data, steps, device, seconds, held-out scores."""
    rows = read_curve(run)
    probes = [row for row in rows if row.get("event") == "probe"]
    environment: dict[str, Any] = next((row for row in reversed(rows) if row.get("event") == "environment"), {})
    begun = [row["run"] for row in rows if row.get("event") == "started from"]
    config = (isinstance(recipe, Recipe) and recipe.perceiver) or recipe.hypernetwork
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
        "config": config.as_dict(),
    }


def _export_tasks(options: argparse.Namespace) -> str:
    from localhyper.export.task_onnx import export_task_run

    return export_task_run(load_task_recipe(options.recipe), options.run, options.base, options.out)


def _export_documents(options: argparse.Namespace) -> str:
    sums = KIND_TABLE in read_tables(options.recipe)
    recipe = load_sum_recipe(options.recipe) if sums else load_recipe(options.recipe)
    base, out = read_base_header(options.base), options.out
    if isinstance(recipe, Recipe) and recipe.perceiver is not None:
        perceiver, facts = load_run(PerceiverHypernetwork(recipe.perceiver), options.run)
        parity = write_perceiver(perceiver.net, base, out, recipe, make_card(recipe, options.run, facts))
    else:
        found, facts = load_run(AssociationHypernetwork(recipe.hypernetwork), options.run)
        card = make_card(recipe, options.run, facts)
        parity = write_bundle(found, base.info, out, name=recipe.name, prefix=recipe.chunk_prefix, card=card)
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
