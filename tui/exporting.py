"""Writes adapters out as the export dialog wants them: one or a sum, to a file, a folder or the library. No widget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localhyper.config import Config
from localhyper.library import AdapterInfo
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.workbench import Workbench

from .store import Store
from .words import as_path, home_text

if TYPE_CHECKING:
    from localhyper.adapter_merge import Merged, MergeSource
    from localhyper.gguf_writer import Dtype

GGUF, PEFT, LIBRARY = "GGUF", "PEFT", "Library"


@dataclass(frozen=True)
class ExportWish:
    """What is wanted.

    Attributes:
        words: Adapters as on the command line, `NAME` or `NAME@SCALE`; more than one are summed.
        form: `GGUF`, `PEFT` or `Library`.
        to: The place as it was typed, or the name of the new adapter.
        dtype: Number format; None = as it is, of a sum as set.
        rank: Rank budget of a sum; None = as set, 0 = exact.
        overwrite: Whether an older export is replaced.
        is_sum: Whether it is a sum, be it of one at a strength.
    """

    words: tuple[str, ...]
    form: str
    to: str
    dtype: Dtype | None = None
    rank: int | None = None
    overwrite: bool = False
    is_sum: bool = False


@dataclass(frozen=True)
class Exported:
    """What came of it.

    Attributes:
        told: What was written, for people.
        loader: The command line or the lines of Python that load it; empty for one in the library.
        folder: Where exports go the next time; None = as before.
    """

    told: str
    loader: str = ""
    folder: Path | None = None


def export(
    store: Store,
    config: Config,
    wish: ExportWish,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> Exported:
    """Write it; for a thread, as it reads files, and may read a whole document with a base model of its own.

    Raises:
        LocalHyperError: Whatever exporting or merging raises.
    """
    with Workbench(store.paths, config) as bench:
        how = _export_sum if wish.is_sum else _export_one
        return how(store, bench, wish, progress, cancel)


def _export_one(
    store: Store, bench: Workbench, wish: ExportWish, progress: ProgressCallback, cancel: CancelToken | None
) -> Exported:
    from localhyper.adapter_export import check_free, export_gguf, export_peft

    info, to = store.library.get(wish.words[0]), _place(wish.to)
    check_free(info.name, wish.form.lower(), to, overwrite=wish.overwrite)  # before the work
    info = bench.made_whole(info, progress=progress, cancel=cancel)
    if wish.form == PEFT:
        made = export_peft(info, store.registry, to, overwrite=wish.overwrite)
        return _written(made.folder, made.python)
    if wish.dtype is not None:
        file = export_gguf(info, to, wish.dtype, overwrite=wish.overwrite)
    else:
        file = store.library.export(info.name, to, overwrite=wish.overwrite)
    return _written(file, store.server_command(info.base_fingerprint, info.base_name, file))


def _export_sum(
    store: Store, bench: Workbench, wish: ExportWish, progress: ProgressCallback, cancel: CancelToken | None
) -> Exported:
    from localhyper.adapter_export import check_free, export_merged_gguf, export_merged_peft
    from localhyper.adapter_merge import check_new, store_merged

    name, to = wish.to.strip(), Path() if wish.form == LIBRARY else _place(wish.to)
    if wish.form == LIBRARY:  # before the work
        check_new(store.library, name)
    else:
        check_free("merged", wish.form.lower(), to, overwrite=wish.overwrite)
    merged, sources = bench.merge(wish.words, wish.rank, progress=progress, cancel=cancel)
    dtype = wish.dtype or bench.options().dtype
    if wish.form == LIBRARY:
        info = store_merged(store.library, merged, sources, name, dtype)
        return Exported(f"✓ {info.name} is in the library\n{_loss(merged)}")
    if wish.form == PEFT:
        made = export_merged_peft(merged, sources, store.registry, to, overwrite=wish.overwrite)
        return _written(made.folder, made.python, merged)
    file = export_merged_gguf(merged, sources, to, dtype, overwrite=wish.overwrite)
    return _written(file, store.server_command(merged.fingerprint, _base_name(sources), file), merged)


def _place(text: str) -> Path:
    """The typed place; the folders above it are made."""
    to = as_path(text)
    to.parent.mkdir(parents=True, exist_ok=True)
    return to


def _written(place: Path, loader: str, merged: Merged | None = None) -> Exported:
    loss = f"\n{_loss(merged)}" if merged is not None else ""
    return Exported(f"✓ Written to {home_text(place)}{loss}", loader, place.absolute().parent)


def _loss(merged: Merged) -> str:
    rank = merged.weights.rank
    cut = f"rank {merged.full_rank} cut to {rank}" if rank < merged.full_rank else f"rank {rank}"
    return f"{cut}, {merged.energy_kept:.2%} of the energy kept"


def _base_name(sources: Sequence[MergeSource]) -> str:
    rows: list[AdapterInfo] = [source.info for source in sources if source.info]
    return rows[0].base_name if rows else "base"
