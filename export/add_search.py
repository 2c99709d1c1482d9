"""Put a trained search head into a bundle for documents.

    python -m localhyper.export.add_search BUNDLE.onnx RUN --recipe RECIPE.toml --out OUT.onnx
    python -m localhyper.export.add_search BUNDLE.onnx OTHER.onnx --out OUT.onnx
    python -m localhyper.export.add_search BUNDLE.onnx RUN --recipe RECIPE.toml --parts --out OUT.onnx

The second takes over the heads of another bundle for the same base model: a head reads the base alone, so it stays
right when the hypernetwork is trained on. The third puts a head beside the one that BUNDLE has, which then tells
documents apart, and the new one the chunks of one document.

Where BUNDLE names another one for single chunks (`chunk_bundle`), that one is what the head belongs into: add it there
and join the two again (`localhyper.export.companion`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from localhyper.bundle import BundleInfo, check_kind, read_bundle
from localhyper.errors import ConfigError, HypernetworkError
from localhyper.export.checkpoints import read_run, run_facts
from localhyper.export.command_line import write_out
from localhyper.export.onnx_bundle import HALF, take_out, update_description, write_changed
from localhyper.export.search_config import SearchConfig, load_search_recipe
from localhyper.hypernet import PARTS_OUTPUTS, SEARCH_OUTPUTS, OnnxHypernetwork

Arrays = dict[str, NDArray[np.float32]]
ENTRIES = ("search", "search_parts")  # what a card says of the heads


def head_arrays(state: dict[str, NDArray[np.float32]], config: SearchConfig, info: BundleInfo) -> Arrays:
    """A head's arrays over all taps of a bundle, zeros where it reads none, by the names of `SEARCH_OUTPUTS`.

    Raises:
        ConfigError: The bundle does not capture a tap that the head reads, or has another width.
    """
    missing = sorted(set(config.taps) - set(info.capture.taps))
    if missing or info.kind != "document":
        raise ConfigError(f"bundle `{info.path}` captures taps {list(info.capture.taps)}, the head reads {missing}")
    hidden, places = info.base_hidden_size, [info.capture.taps.index(tap) for tap in config.taps]
    if len(state["mean"]) != hidden * len(config.taps):
        raise ConfigError(f"the head is for another base model than bundle `{info.path}`")
    question = np.concatenate((state["question"], state["weight"][:, None]), 1)
    scalars = np.array([state["offset"], np.exp(state["log_scale"]), config.words], np.float32)
    parts = (state["mean"], state["document"], question)
    wide = [np.zeros((len(info.capture.taps), hidden, *part.shape[1:]), np.float32) for part in parts]
    for whole, part in zip(wide, parts, strict=True):
        whole[places] = part.reshape(len(places), hidden, *part.shape[1:])
    flat = [whole.reshape(-1, *whole.shape[2:]) for whole in wide]
    return dict(zip(SEARCH_OUTPUTS, [*flat, scalars], strict=True))


def put_in(model: onnx.ModelProto, arrays: Arrays, replaced: Sequence[str]) -> None:
    """Add the arrays as constant outputs, matrices as float16 cast up, where those of earlier heads have been."""
    graph = model.graph
    take_out(model, lambda name: name.removesuffix(HALF) in replaced)
    for name, values in arrays.items():
        half = values.ndim == 2
        stored = values.astype(np.float16) if half else values
        if not np.isfinite(stored).all():
            raise HypernetworkError(f"`{name}` of the search head does not fit float16")
        graph.initializer.append(numpy_helper.from_array(stored, name + HALF))
        node = helper.make_node("Cast", [name + HALF], [name], name=name, to=TensorProto.FLOAT)
        graph.node.append(node)
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values.shape)))


def trained_head(run: Path, recipe: Path, info: BundleInfo) -> tuple[Arrays, dict[str, object]]:
    """The arrays of a search run's head for a bundle, and the run's facts as a card has them.

    Raises:
        ConfigError: It is no search run, or of another base model.
    """
    config, saved = load_search_recipe(recipe).search, read_run(run)
    state = {name: tensor.float().cpu().numpy() for name, tensor in saved["hypernetwork"].items()}
    if set(state) != {"mean", "document", "question", "weight", "offset", "log_scale"}:
        raise ConfigError(f"run `{run}` is no search run", "name the folder of one")
    return head_arrays(state, config, info), {ENTRIES[0]: run_facts(saved)}


def head_of(other: Path, info: BundleInfo) -> tuple[Arrays, dict[str, object]]:
    """The arrays of another bundle's heads, and what its card says of them.

    Raises:
        ConfigError: It has none, or is for another base model or other activations.
    """
    given = read_bundle(other)
    if (given.base_fingerprint, given.capture) != (info.base_fingerprint, info.capture):
        raise ConfigError(f"`{other}` and `{info.path}` do not read the same activations of the same base model")
    stored = {tensor.name.removesuffix(HALF): tensor for tensor in onnx.load(other).graph.initializer}
    if not stored.keys() >= set(SEARCH_OUTPUTS):
        raise ConfigError(f"`{other}` has no search head", "name a bundle that has one, or the folder of a search run")
    names = [name for name in (*SEARCH_OUTPUTS, *PARTS_OUTPUTS) if name in stored]
    arrays = {name: numpy_helper.to_array(stored[name]).astype(np.float32) for name in names}
    return arrays, {entry: given.card[entry] for entry in ENTRIES if entry in given.card}


def add_search(bundle: Path, source: Path, recipe: Path | None, out: Path, *, parts: bool = False) -> None:
    """Write `bundle` with the head of `source`, a search run or a bundle, to `out`.

    With `parts`, beside the head that it has, for the chunks of a document. Nothing is written where they do not go
    together.

    Raises:
        LocalHyperError: They don't, or one of them cannot be read, or there is no head to put one beside.
    """
    info = read_bundle(bundle)
    check_kind(info, "document")
    if info.chunk_bundle is not None:
        raise ConfigError(f"`{bundle}` names `{info.chunk_bundle.file}` for single chunks", "add the head to that one")
    if recipe is None and source.suffix != ".onnx":
        raise ConfigError(f"`{source}` is no bundle", "name the recipe of the search run with --recipe")
    arrays, facts = head_of(source, info) if recipe is None else trained_head(source, recipe, info)
    replaced, card = (*SEARCH_OUTPUTS, *PARTS_OUTPUTS), {k: v for k, v in info.card.items() if k not in ENTRIES}
    if parts:
        head_of(bundle, info)  # what it is put beside
        arrays = {new: arrays[name] for new, name in zip(PARTS_OUTPUTS, SEARCH_OUTPUTS, strict=True)}
        replaced, card, facts = PARTS_OUTPUTS, dict(info.card), {ENTRIES[1]: facts.get(ENTRIES[0])}
    model = onnx.load(bundle)
    put_in(model, arrays, replaced)
    update_description(model, {"card": {**card, **facts}})
    write_changed(model, out, OnnxHypernetwork.search_head)


def main(argv: list[str] | None = None) -> int:
    """Command line of adding."""
    parser = argparse.ArgumentParser(
        prog="python -m localhyper.export.add_search", description="Put a trained search head into a bundle"
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", type=Path, help="folder of a search run, or a bundle that has a head")
    parser.add_argument("--recipe", type=Path, help="of the search run")
    parser.add_argument(
        "--parts", action="store_true", help="beside the head that BUNDLE has, for chunks of a document"
    )
    return write_out(
        parser,
        argv,
        lambda given: add_search(given.bundle, given.source, given.recipe, given.out, parts=given.parts),
    )


if __name__ == "__main__":
    sys.exit(main())
