"""Settings of a published Text-to-LoRA run: `args.yaml` and `adapter_config.json`, read as a stranger's files.

YAML is read with every scalar as text: no type of its own, no merging, no numbers of a size that a file could choose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localhyper.errors import HypernetworkError
from localhyper.export.published import TARGETS
from localhyper.gguf_header import shown

MAX_BYTES = 1 << 20
MAX_RANK = 1 << 10
HINT = "localhyper reads the published Text-to-LoRA layout; this file is of another, or damaged"
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_NULL = ("null", "~", "", "none")


@dataclass(frozen=True)
class TaskSettings:
    """What the two files say.

    Attributes:
        base_name: The base model as the run calls it, mostly a repository on the hub.
        embedding_model: The model that makes the description's vector, likewise; empty = the base model.
        rank: LoRA rank r.
        scaling: Factor of B A.
        modules: Adapted modules, in no order.
        latent: Width s of the trunk; 0 = not said.
        head_input: Width t of what the heads read; 0 = not said.
        shared_head: One head output serves both matrices.
        reconstruction: Trained to reconstruct LoRAs.
        factorized: Of reconstruction: of A and B each.
        z_scored: Of reconstruction: of standardised ones.
        delta_scaling: Of reconstruction that is not factorized.
        on_top: Trained on top of a LoRA, which must be in the checkpoint.
    """

    base_name: str
    embedding_model: str
    rank: int
    scaling: float
    modules: frozenset[str]
    latent: int
    head_input: int
    shared_head: bool
    reconstruction: bool
    factorized: bool
    z_scored: bool
    delta_scaling: float
    on_top: bool


def read_settings(args: Path, adapter: Path) -> TaskSettings:
    """Read both files.

    Raises:
        HypernetworkError: One is missing, unreadable, or asks for what no published checkpoint does.
    """
    run, lora = _Fields(args, _read_yaml(args)), _Fields(adapter, _read_json(adapter))
    kind = run.text("training_task")
    if kind not in ("sft", "recon"):
        raise run.fail("training_task", "`sft` or `recon`")
    if run.text("encoder_type", "linear") != "linear":
        raise run.fail("encoder_type", "`linear`: others are not supported")
    for key, what in (("autoreg_gen", "generating layer after layer"), ("use_one_hot_task_emb", "one-hot tasks")):
        if run.flag(key):
            raise run.fail(key, f"false: {what} is not supported")
    factorized, z_scored = run.flag("factorized"), run.flag("pred_z_score")
    if kind == "recon" and z_scored and not factorized:
        raise run.fail("pred_z_score", "false where `factorized` is: no LoRA can be made of such a model")
    rank = lora.whole("r", 1, MAX_RANK)
    _check_plain(lora)
    return TaskSettings(
        base_name=lora.text("base_model_name_or_path", "") or run.text("model_dir"),
        embedding_model=run.text("emb_model", ""),
        rank=rank,
        scaling=lora.number("lora_alpha") / (math.sqrt(rank) if lora.flag("use_rslora") else rank),
        modules=lora.modules("target_modules"),
        latent=run.whole("hypernet_latent_size", 0, 1 << 14, 0),
        head_input=run.whole("head_in_size", 0, 1 << 16, 0),
        shared_head=run.flag("shared_AB_head"),
        reconstruction=kind == "recon",
        factorized=factorized,
        z_scored=z_scored,
        delta_scaling=run.number("delta_w_scaling", 10_000.0),
        on_top=bool(run.text("mt_lora_path", "")),
    )


def _check_plain(lora: _Fields) -> None:
    """Nothing that would make PEFT's adapter more than B A with one factor on all blocks."""
    if lora.text("peft_type", "LORA").upper() != "LORA":
        raise lora.fail("peft_type", "LORA")
    for key in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if lora.flag(key):
            raise lora.fail(key, "false")
    for key in ("rank_pattern", "alpha_pattern", "layers_to_transform", "modules_to_save"):
        if lora.has(key):
            raise lora.fail(key, "empty: one rank and one factor for all blocks")


class _Fields:
    """The mapping of one file; every getter names the field it refuses. Values of YAML are text, of JSON typed."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self._path, self._values = path, values

    def fail(self, key: str, wanted: str) -> HypernetworkError:
        """The error for one field, to be raised; a value is shown only where it is short and plain."""
        value = self._values.get(key)
        got = "nothing" if key not in self._values else f"a {type(value).__name__}"
        if isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) < 10**15):
            got = f"`{shown(str(value), 60)}`"
        return HypernetworkError(f"`{self._path}`: `{key}` must be {wanted}, got {got}", HINT)

    def has(self, key: str) -> bool:
        """Whether there is anything under this name."""
        value = self._values.get(key)
        return not (value is None or value in ({}, [], "") or (isinstance(value, str) and value.lower() in _NULL))

    def text(self, key: str, default: str | None = None) -> str:
        if not self.has(key):
            if default is None:
                raise self.fail(key, "there")
            return default
        value = self._values[key]
        if not isinstance(value, str) or len(value) > 500:
            raise self.fail(key, "text")
        return value

    def flag(self, key: str) -> bool:
        if not self.has(key):
            return False
        value = self._values[key]
        word = value.lower() if isinstance(value, str) else value
        if word is True or word in _TRUE:
            return True
        if word is False or word in _FALSE:
            return False
        raise self.fail(key, "true or false")

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        if default is not None and not self.has(key):
            return default
        value = self._values.get(key)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        if default is not None and not self.has(key):
            return default
        value = self._values.get(key)
        if isinstance(value, str) and len(value) < 40:
            try:
                value = float(value)
            except ValueError:
                value = None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1e9:
            raise self.fail(key, "a number above 0")
        return float(value)

    def modules(self, key: str) -> frozenset[str]:
        value = self._values.get(key)
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, str) and item in TARGETS for item in items):
            raise self.fail(key, f"some of {', '.join(TARGETS)}")
        return frozenset(items)


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise HypernetworkError(
                f"`{path}` is missing", "a published run has hypermod.pt, args.yaml and its adapter_config.json"
            )
        if path.stat().st_size > MAX_BYTES:
            raise HypernetworkError(f"`{path}` has {path.stat().st_size} bytes, at most {MAX_BYTES} are read", HINT)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise HypernetworkError(
            f"`{path}` cannot be read: {error.strerror or error}", "check its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise HypernetworkError(f"`{path}` is not UTF-8 text (byte {error.start})", HINT) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    text = _read(path)
    try:
        values = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise HypernetworkError(f"`{path}` is not valid YAML ({_first_line(error)})", HINT) from error
    return _mapping(path, values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise HypernetworkError(f"`{path}` is not valid JSON ({_first_line(error)})", HINT) from error
    return _mapping(path, values)


def _mapping(path: Path, values: object) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise HypernetworkError(f"`{path}` holds a {type(values).__name__}, wanted names with values", HINT)
    return values


def _first_line(error: BaseException) -> str:
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0], 120)
