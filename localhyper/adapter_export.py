"""Adapters out of the library: as a PEFT folder, as a GGUF file in another number format, or several as one.

Reads the file, finds its base model, says how to load the result. Copying the GGUF file as it is stays
`Library.export`. Knows no format from inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localhyper.adapter_convert import convert_adapter
from localhyper.adapter_merge import Merged, MergeSource, merged_metadata
from localhyper.engine import BaseModelInfo
from localhyper.errors import LibraryError
from localhyper.gguf_adapter import AdapterMetadata, check_adapter, read_adapter, read_architecture, write_weights
from localhyper.gguf_writer import Dtype
from localhyper.library import AdapterInfo, check_name
from localhyper.lora import LoraWeights
from localhyper.peft_folder import CONFIG, PeftBase, check_room, write_peft_folder
from localhyper.present_bases import base_with
from localhyper.registry import Registry


@dataclass(frozen=True)
class PeftExport:
    """A written PEFT folder.

    Attributes:
        folder: Where it is.
        base: What its configuration calls the base model.
    """

    folder: Path
    base: str

    @property
    def python(self) -> str:
        """The lines that load it, ready to be pasted; names and paths of strangers are quoted as Python quotes them."""
        return (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM\n"
            f"base = AutoModelForCausalLM.from_pretrained({self.base!r})\n"
            f"model = PeftModel.from_pretrained(base, {str(self.folder.absolute())!r})"
        )


def export_peft(info: AdapterInfo, registry: Registry, to: Path, *, overwrite: bool = False) -> PeftExport:
    """Write an adapter as a PEFT folder.

    Its base model's file is needed only where the order of rows depends on it (`attn_q` and `attn_k` of llama-type
    models), and is compared with the adapter where it is here.

    Args:
        info: The adapter.
        registry: Where base models are looked for.
        to: The folder to be, or a folder to put `NAME-peft` into.
        overwrite: Whether an older PEFT folder there is replaced.

    Raises:
        AdapterError: The adapter's file is missing, damaged, for another base, or holds what PEFT has no name for.
        ModelError: The base model is needed and not on this machine.
        LibraryError: Something else is there already, or it cannot be written.
    """
    folder = peft_target(to, info.name)
    check_room(folder, overwrite=overwrite)
    found, repository = base_with(info.base_fingerprint, registry)
    if found is not None:
        check_adapter(info.path, found)
    weights, metadata = read_adapter(info.path)
    called = repository or info.base_name
    return _write_peft(folder, weights, _peft_base(called, read_architecture(info.path), found), metadata, overwrite)


def _peft_base(name: str, architecture: str, found: BaseModelInfo | None) -> PeftBase:
    heads = (found.head_count, found.head_count_kv) if found else (0, 0)
    return PeftBase(name, architecture, *heads)


def _write_peft(
    folder: Path, weights: LoraWeights, base: PeftBase, metadata: AdapterMetadata, overwrite: bool
) -> PeftExport:
    write_peft_folder(folder, weights, base, metadata, overwrite=overwrite)
    return PeftExport(folder, base.name)


def export_gguf(info: AdapterInfo, to: Path, dtype: Dtype, *, overwrite: bool = False) -> Path:
    """Write an adapter's file in another number format; `to` may be a folder.

    Raises:
        AdapterError: The adapter's file is missing or damaged, or has values this format cannot hold.
        LibraryError: The target exists.
    """
    target = gguf_target(to, info.name, overwrite=overwrite)
    if target.exists() and target.samefile(info.path):
        raise LibraryError(f"`{target}` is the library's own file", "name another place")
    convert_adapter(info.path, target, dtype)
    return target


def export_merged_gguf(
    merged: Merged, sources: Sequence[MergeSource], to: Path, dtype: Dtype, *, overwrite: bool = False
) -> Path:
    """Write several adapters as one GGUF file.

    Raises:
        AdapterError: The file cannot be written, or has values this format cannot hold.
        LibraryError: The target exists.
    """
    target = gguf_target(to, "merged", overwrite=overwrite)
    metadata = merged_metadata(merged, sources, target.stem)
    write_weights(target, merged.weights, merged.architecture, metadata, dtype)
    return target


def export_merged_peft(
    merged: Merged, sources: Sequence[MergeSource], registry: Registry, to: Path, *, overwrite: bool = False
) -> PeftExport:
    """Write several adapters as one PEFT folder.

    Raises:
        AdapterError: What PEFT has no name for.
        ModelError: The base model is needed and not on this machine.
        LibraryError: Something else is there already, or it cannot be written.
    """
    folder = peft_target(to, "merged")
    check_room(folder, overwrite=overwrite)
    found, repository = base_with(merged.fingerprint, registry)
    known = next((source.info.base_name for source in sources if source.info), merged.architecture)
    base = _peft_base(repository or known, merged.architecture, found)
    return _write_peft(folder, merged.weights, base, merged_metadata(merged, sources, folder.name), overwrite)


def check_free(name: str, form: str, to: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, before anything is made for it.

    Raises:
        LibraryError: Something is there already.
    """
    if form == "peft":
        check_room(peft_target(to, name), overwrite=overwrite)
    else:
        gguf_target(to, name, overwrite=overwrite)


def gguf_target(to: Path, name: str, *, overwrite: bool) -> Path:
    """`to` itself, or `NAME.gguf` in it where it is a folder.

    Raises:
        LibraryError: Something is there already.
    """
    target = to / f"{check_name(name)}.gguf" if to.is_dir() else to
    if target.exists() and not overwrite:
        raise LibraryError(f"`{target}` exists already", "add --force to replace it")
    return target


def peft_target(to: Path, name: str) -> Path:
    """`to` itself, or `NAME-peft` in it where it is a folder of other things.

    Raises:
        LibraryError: The name could be a path.
    """
    into = to.is_dir() and not (to / CONFIG).is_file()
    return to / f"{check_name(name)}-peft" if into else to
