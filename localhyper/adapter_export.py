"""An adapter of the library as a PEFT folder: reads its file, finds its base model, says how to load the result.

Copying the GGUF file as it is stays `Library.export`. Knows no format from inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localhyper.base_header import read_base_info
from localhyper.engine import BaseModelInfo
from localhyper.errors import ModelError
from localhyper.gguf_adapter import check_adapter, read_adapter, read_architecture
from localhyper.library import AdapterInfo, check_name
from localhyper.model_specs import BaseModelSpec
from localhyper.peft_folder import CONFIG, PeftBase, check_room, write_peft_folder
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
    found, repository = _base_of(info, registry)
    if found is not None:
        check_adapter(info.path, found)
    weights, metadata = read_adapter(info.path)
    base = PeftBase(
        repository or info.base_name,
        read_architecture(info.path),
        found.head_count if found else 0,
        found.head_count_kv if found else 0,
    )
    write_peft_folder(folder, weights, base, metadata, overwrite=overwrite)
    return PeftExport(folder, base.name)


def peft_target(to: Path, name: str) -> Path:
    """`to` itself, or `NAME-peft` in it where it is a folder of other things.

    Raises:
        LibraryError: The name could be a path.
    """
    into = to.is_dir() and not (to / CONFIG).is_file()
    return to / f"{check_name(name)}-peft" if into else to


def _base_of(info: AdapterInfo, registry: Registry) -> tuple[BaseModelInfo | None, str]:
    """The base model's header where a file of it is here, and the repository of its weights where that is known."""
    for status in registry.statuses():
        if status.kind != "base" or status.path is None:
            continue
        try:
            found = read_base_info(status.path)
        except ModelError:
            continue  # one bad file hides no good one
        if found.fingerprint == info.base_fingerprint:
            return found, status.spec.unquantized if isinstance(status.spec, BaseModelSpec) else ""
    return None, ""
