"""A published checkpoint to a bundle: `localhyper hypernet import PATH [--base NAME|FILE.gguf]`."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from localhyper.base_header import BaseHeader, read_base_header
from localhyper.bundle import MAX_CHUNK_TOKENS
from localhyper.checksums import file_sha256
from localhyper.errors import ConfigError, HypernetworkError, LocalHyperError
from localhyper.export.checkpoint_file import Checkpoint, open_checkpoint
from localhyper.export.command_line import refuse
from localhyper.export.published import PER_LAYER, PublishedRun, check_run_base, load_network, read_run
from localhyper.export.published_bundle import (
    PublishedGraph,
    choose_dtype,
    describe,
    final_norm,
    write_published,
)
from localhyper.export.published_task import WEIGHTS, find_run
from localhyper.export.published_turns import turn_texts
from localhyper.memory_check import available_memory
from localhyper.model_folders import place
from localhyper.paths import get_paths
from localhyper.registry import Registry, load_registry

CHECKPOINT = "pytorch_model.bin"
_STEP = re.compile(r"checkpoint-(\d{1,12})")
# Chunks as long as in training: in the main recipe's training on several chunks at most 512 tokens; with the published
# needle runs the figures beyond one window are for chunks of 1,024.
CHUNK_TOKENS = {True: 512, False: 1024}
COPIES = 4  # of the float32 weights that are in memory at most, measured: while torch and onnxruntime are compared


def find_checkpoint(path: Path) -> Path:
    """The checkpoint's file: itself, in its folder, or in the newest `checkpoint-*` of its run.

    Raises:
        HypernetworkError: There is none.
    """
    if not path.is_dir():
        return path  # whether it is there, and what it is, is said when it is opened
    if (path / CHECKPOINT).is_file():
        return path / CHECKPOINT
    try:
        steps = [(int(match[1]), folder) for folder in path.iterdir() if (match := _STEP.fullmatch(folder.name))]
    except OSError as error:
        raise HypernetworkError(f"folder `{path}` cannot be read: {error.strerror or error}") from error
    for _, folder in sorted(steps, reverse=True):
        if (folder / CHECKPOINT).is_file():
            return folder / CHECKPOINT
    raise HypernetworkError(
        f"folder `{path}` holds no published checkpoint",
        f"name a run with `checkpoint-*/{CHECKPOINT}` or `{WEIGHTS}` inside, or that file",
    )


def name_of(file: Path) -> str:
    """A name for the bundle: that of the run's folder, as `localhyper models list` can show it."""
    folder = file.absolute().parent
    run = folder.parent if _STEP.fullmatch(folder.name) else folder
    return bundle_name(run.name if file.name == CHECKPOINT else file.stem)


def bundle_name(text: str) -> str:
    """Any text as a bundle may be named."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "imported"


def locate_run(path: Path, registry: Registry) -> Path:
    """A path as it is, else the checkpoint's file of a name from models.toml.

    Raises:
        ModelError: It is such a name, and the files are not on this machine.
    """
    spec = registry.folders.get(str(path))
    if path.exists() or spec is None:
        return path
    folder = registry.find_folder(spec.name)
    found = [file for file in spec.files if PurePosixPath(file).name in (CHECKPOINT, WEIGHTS)]
    return place(folder, found[0]) if found else folder


def find_base(registry: Registry, given: str, base_name: str) -> BaseHeader:
    """The base model's header: the one that is given, else the known one that was made from what the checkpoint names.

    Raises:
        ConfigError: None is given and none is known.
        ModelError: It is not on this machine, or damaged.
    """
    if given:
        return read_base_header(registry.find_base(given))
    for spec in registry.bases.values():
        if spec.unquantized and spec.unquantized.lower() == base_name.lower():
            return read_base_header(registry.find_base(spec.name))
    raise ConfigError(
        f"the checkpoint is for `{base_name}`, which `localhyper models list` does not know",
        "give the GGUF file of that model with --base",
    )


def import_document(file: Path, options: argparse.Namespace, registry: Registry) -> Path:
    """Read a Doc-to-LoRA checkpoint, write its bundle, and return the bundle's path.

    Raises:
        LocalHyperError: The checkpoint, the base model or an option is wrong; nothing is written.
    """
    name = options.name or name_of(file)
    target: Path = options.output or registry.paths.hypernetworks_dir / f"{name}.onnx"
    check_target(target, options.force)
    with open_checkpoint(file) as checkpoint:
        run = read_run(checkpoint)
        base = find_base(registry, options.base, run.base_name)
        check_run_base(run, base)
        turn = turn_texts(base)
        chunk_tokens = _chunk_tokens(options.chunk_tokens, run, base, turn)
        check_memory(checkpoint)
        say(f"reading {file}")
        net = load_network(checkpoint, run, base)
    dtype = choose_dtype(net, options.dtype)
    graph = PublishedGraph(net, run.scaling, final_norm(base)).eval()
    facts = {
        "name": name,
        "chunk_tokens": chunk_tokens,
        "prefix": turn[0],
        "suffix": turn[1],
        "reads_prefix": True,
        "licence": options.licence,
        "card": _card(run, base, file, dtype),
    }
    say(f"writing {target} ({dtype}), and comparing it with the checkpoint")
    try:
        parity = write_published(graph, target, describe(run.config, base, facts), dtype)
    except OSError as error:
        message = f"cannot write `{target}`: {error.strerror or error}"
        raise HypernetworkError(message, "check the folder, its permissions and the space left") from error
    say(f"torch = ONNX within {parity.max_difference:.1e} at lengths {', '.join(map(str, parity.lengths))}")
    return target


def check_target(target: Path, force: bool) -> None:
    """Refuse to replace a file unasked.

    Raises:
        HypernetworkError: It is there, or is a folder.
    """
    if target.is_dir():
        raise HypernetworkError(f"`{target}` is a folder", "name the .onnx file to write with --output")
    if target.suffix != ".onnx":
        raise HypernetworkError(f"`{target}` does not end in .onnx", "bundles do: localhyper finds them by it")
    if target.exists() and not force:
        raise HypernetworkError(f"`{target}` is there already", "choose another --name, or replace it with --force")


def say(text: str) -> None:
    """A word to people, to stderr."""
    print(text, file=sys.stderr, flush=True)


def _chunk_tokens(wanted: int, run: PublishedRun, base: BaseHeader, turn: tuple[str, str]) -> int:
    """Most tokens of a chunk: what is asked for, else as in training, so that it fits the window with its turn."""
    most = min(base.info.context_length - len("".join(turn).encode()) - 2, MAX_CHUNK_TOKENS)
    tokens: int = wanted or min(CHUNK_TOKENS[run.encoder == PER_LAYER], most)
    if not 1 <= tokens <= most:
        raise HypernetworkError(
            f"chunks of {tokens} tokens with their turn do not fit the window of `{base.info.name}`, "
            f"{base.info.context_length} tokens",
            f"choose --chunk-tokens from 1 to {most}" if most > 0 else "choose a base model with a larger window",
        )
    return tokens


def check_memory(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is too large for this machine.

    Raises:
        HypernetworkError: Says what is needed and what there is.
    """
    elements = sum(math.prod(view.shape) for view in checkpoint.tensors.values())
    needed, left = 4 * elements * COPIES, available_memory()
    if left is not None and needed > left:
        raise HypernetworkError(
            f"importing it takes about {needed / 1e9:.1f} GB of memory, {left / 1e9:.1f} GB are left",
            "close other programs, or import it on a larger machine: the bundle runs anywhere",
        )


def _card(run: PublishedRun, base: BaseHeader, file: Path, dtype: str) -> dict[str, Any]:
    """What a reader of the bundle must know: where it comes from and what it was made for."""
    return {
        "note": "imported from a Doc-to-LoRA checkpoint",
        "source": {"file": _short_path(file), "sha256": file_sha256(file)},
        "base_model_name_or_path": run.base_name,
        "base_file": base.info.path.name,
        "context_encoder": run.encoder,
        "quantize_ctx_encoder": run.quantized_encoder,
        "lora_alpha": run.scaling,
        "dtype": dtype,
        "config": run.config.as_dict(),
    }


def _short_path(file: Path) -> str:
    """As much of the path as the published layout gives it: nothing of this machine."""
    parts = file.absolute().parts
    return "/".join(parts[-3:] if len(parts) > 3 and _STEP.fullmatch(parts[-2]) else parts[-1:])


def parse(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="localhyper hypernet import", description="Turn a published checkpoint into a hypernetwork bundle"
    )
    parser.add_argument(
        "path", type=Path, help="the run's folder, its checkpoint's folder, the file, or a name from models.toml"
    )
    parser.add_argument("--base", default="", help="base model: a name from `localhyper models list` or a .gguf file")
    parser.add_argument("--name", default="", help="name of the bundle; default: that of the run's folder")
    parser.add_argument("--output", type=Path, help="bundle to write; default: in localhyper's folder, by its name")
    parser.add_argument("--chunk-tokens", type=int, default=0, help="most tokens of a chunk; default: as in training")
    parser.add_argument(
        "--dtype", choices=("auto", "f32", "f16"), default="auto", help="weights in the file; auto: f32 below 2 GiB"
    )
    parser.add_argument(
        "--licence", default="", help="SPDX identifier of the checkpoint's licence; default: as models.toml says"
    )
    parser.add_argument("--force", action="store_true", help="replace the bundle that is there")
    return parser, parser.parse_args(argv)


def _import(options: argparse.Namespace) -> Path:
    from localhyper.export.import_task import import_task  # built on this file

    registry = load_registry(get_paths().create())
    path = locate_run(options.path, registry)
    if path != options.path:  # a name from models.toml: the bundle's name and licence are its own, where none is given
        options.name = options.name or bundle_name(str(options.path))
        options.licence = options.licence or registry.folders[str(options.path)].licence
    options.licence = options.licence or "unknown"
    weights = find_run(path)
    if weights:
        return import_task(weights, options, registry)
    return import_document(find_checkpoint(path), options, registry)


def main(argv: list[str] | None = None) -> int:
    """Command line of the import."""
    parser, options = parse(argv)
    try:
        if options.name and re.sub(r"[^a-z0-9._-]", "", options.name) != options.name:
            raise ConfigError(f"`{options.name}` is no name for a hypernetwork", "use a-z, 0-9, `.`, `_` and `-` only")
        print(_import(options))
    except LocalHyperError as error:
        refuse(parser, error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
