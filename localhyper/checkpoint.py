"""An unfinished attach on disk: the sum of the finished chunks, so that a stopped run goes on where it was.

One file of bounded size per document, however many chunks are done. A file that cannot be read is no error: the work
is done again.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localhyper.association_sum import SumState
from localhyper.atomic import atomic_path, remove_stale
from localhyper.errors import AdapterError
from localhyper.lora import AccumulatorState, LoraTarget, LoraWeights, validate
from localhyper.whitening import InputMoment

VERSION = 4
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Where an attach stands.

    Attributes:
        done: Finished chunks, from the first.
        state: Their sum.
        moments: Target name to the moment of their inputs, where the bundle whitens by it.
    """

    done: int
    state: SumState
    moments: Mapping[str, InputMoment] = field(default_factory=dict)


class CheckpointFile:
    """The checkpoint of one piece of work, named by a digest of all that decides its result."""

    def __init__(self, folder: Path, key: str) -> None:
        """`folder` is made when something is saved; `key` is hex."""
        self.path = folder / f"{key}.npz"

    def load(self) -> Checkpoint | None:
        """The checkpoint; None where there is none or it is unreadable."""
        try:
            with self.path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return _from_arrays({name: file[name] for name in file.files})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, AdapterError) as error:
            logger.warning("checkpoint %s is unusable, starting over: %s", self.path.name, error)
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it atomically. A full disk is logged, not raised: the work itself can go on."""
        try:
            with atomic_path(self.path) as temporary, temporary.open("wb") as out:
                np.savez(out, **_to_arrays(checkpoint))  # type: ignore[arg-type]  # names hold no reserved word
        except OSError as error:
            logger.warning("checkpoint %s not written: %s", self.path, error)

    def remove(self) -> None:
        """Delete it, and other runs' checkpoints that nobody came back for in a month."""
        self.path.unlink(missing_ok=True)
        remove_stale(self.path.parent.glob("*.npz"))


def _to_arrays(checkpoint: Checkpoint) -> dict[str, NDArray[np.generic]]:
    state = checkpoint.state
    parts = {"strongest": state.strongest, "settled": state.weaker.settled, "pending": state.weaker.pending}
    layers = {
        part: {name: list(target.layers) for name, target in weights.targets.items()}
        for part, weights in parts.items()
        if weights is not None
    }
    tokens = {name: moment.tokens for name, moment in checkpoint.moments.items()}
    about = {
        "version": VERSION,
        "done": checkpoint.done,
        "added": state.added,
        "kept_share": state.weaker.kept_share,
        "layers": layers,
        "tokens": tokens,
    }
    arrays: dict[str, NDArray[np.generic]] = {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}
    for part, weights in parts.items():
        for name, target in weights.targets.items() if weights is not None else ():
            arrays[f"{part}/{name}/a"], arrays[f"{part}/{name}/b"] = target.a, target.b
    for name, moment in checkpoint.moments.items():
        if moment.rows is not None:
            arrays[f"rows/{name}"] = moment.rows
        elif moment.second is not None:
            # Symmetric: the half is enough, and is most of the file.
            arrays[f"moment/{name}"] = moment.second[:, *np.triu_indices(moment.second.shape[1])]
    return arrays


def _from_arrays(arrays: dict[str, NDArray[np.generic]]) -> Checkpoint:
    about = json.loads(arrays["about"].tobytes())
    if about["version"] != VERSION:
        raise ValueError(f"version {about['version']}")

    def part(which: str) -> LoraWeights | None:
        if which not in about["layers"]:
            return None
        targets = {
            name: LoraTarget(tuple(layers), arrays[f"{which}/{name}/a"], arrays[f"{which}/{name}/b"])  # type: ignore[arg-type]
            for name, layers in about["layers"][which].items()
        }
        return validate(LoraWeights(targets))

    weaker = AccumulatorState(part("settled"), part("pending"), float(about["kept_share"]))
    state = SumState(part("strongest"), weaker, int(about["added"]))
    moments = {name: _moment(arrays, name, int(tokens)) for name, tokens in about["tokens"].items()}
    return Checkpoint(int(about["done"]), state, moments)


def _moment(arrays: dict[str, NDArray[np.generic]], name: str, tokens: int) -> InputMoment:
    rows = arrays.get(f"rows/{name}")
    if rows is None:
        return InputMoment(tokens, second=_symmetric(arrays[f"moment/{name}"]))
    if rows.dtype != np.float32 or rows.ndim != 3 or rows.shape[1] != tokens or not np.isfinite(rows).all():
        raise ValueError("inputs of the wrong type")
    return InputMoment(tokens, rows=rows.astype(np.float32, copy=False))


def _symmetric(half: NDArray[np.generic]) -> NDArray[np.float32]:
    """[layers, n (n + 1) / 2] values of the upper triangle to [layers, n, n]."""
    if half.dtype != np.float32 or half.ndim != 2 or not np.isfinite(half).all():
        raise ValueError("moment of the wrong type")
    size = int((np.sqrt(8 * half.shape[1] + 1) - 1) / 2)
    whole = np.zeros((len(half), size, size), np.float32)
    upper = np.triu_indices(size)
    whole[:, *upper] = half
    whole[:, *upper[::-1]] = half
    return whole
