"""`localhyper adapters …`: what is in the library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localhyper.cli_options import BaseOption, JsonOption, adapter_json, open_workbench
from localhyper.cli_output import (
    ProgressView,
    chunks,
    note,
    put,
    put_json,
    put_table,
    size,
    stop_on_signals,
)
from localhyper.errors import ConfigError, LibraryError
from localhyper.gguf_writer import DTYPES, Dtype
from localhyper.library import AdapterInfo, chunk_folder
from localhyper.progress import CancelToken
from localhyper.workbench import Workbench

if TYPE_CHECKING:
    from localhyper.adapter_merge import Merged

adapters_app = typer.Typer(help="List, show, rename, remove, merge, export and import adapters.", no_args_is_help=True)

MergeRankOption = Annotated[
    int | None, typer.Option("--rank", min=0, help="Rank budget of the sum; 0 = exact; default: as set.")
]
NameArgument = Annotated[str, typer.Argument(help="Name, or the beginning of one.")]


@adapters_app.command(name="list")
def list_adapters(
    as_json: JsonOption = False,
    removed: Annotated[bool, typer.Option("--removed", help="List the trash.")] = False,
) -> None:
    """List adapters, newest first."""
    with open_workbench() as bench:
        found = bench.library.removed() if removed else bench.library.list()
    if as_json:
        put_json([adapter_json(info) for info in found])
    elif not found:
        note("the trash is empty" if removed else "no adapters yet; make one with `localhyper attach FILE`")
    else:
        put_table(("name", "from", "tokens", "rank", "size", "base", "made"), [_row(info, removed) for info in found])


def _row(info: AdapterInfo, removed: bool) -> tuple[str, ...]:
    name = info.name if info.usable or removed else f"{info.name} (file missing)"
    made = info.made_at[:16].replace("T", " ")
    return (
        name,
        info.kind,
        f"{info.tokens:,}" if info.tokens else "-",
        str(info.rank) if info.whole_made else "-",
        size(info.all_bytes),
        info.base_name,
        made,
    )


@adapters_app.command()
def show(
    name: NameArgument,
    text: Annotated[bool, typer.Option("--text", help="Print the source text it was made from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of an adapter."""
    with open_workbench() as bench:
        info = bench.library.get(name)
        if text:
            put(_text(bench, info))
        elif as_json:
            put_json(adapter_json(info))
        else:
            _show(info)


def _text(bench: Workbench, info: AdapterInfo) -> str:
    text = "".join(piece.text for piece in bench.library.passages(info.id))
    if not text:
        raise LibraryError(f"no text is stored with `{info.name}`", "an imported adapter comes without its document")
    return text


def _adapters(info: AdapterInfo) -> str:
    return "the overview's adapter" if info.chunks == 1 else f"{info.chunk_files} adapters"


def _folder(info: AdapterInfo) -> str:
    """Of its chunks' adapters."""
    folder = chunk_folder(info.path)
    return f"{folder}" + ("" if folder.is_dir() else " (missing)")


def _file(info: AdapterInfo) -> str:
    if not info.whole_made:
        budget = f"of rank {info.rank} at most" if info.rank else "of full rank"
        return f"made when it is first exported, merged or asked as a whole, {budget}"
    return f"{info.path}" + ("" if info.usable else " (missing or damaged)")


def _show(info: AdapterInfo) -> None:
    rows = [
        ("name", info.name),
        ("file", _file(info)),
        ("size", size(info.size_bytes) if info.whole_made else ""),
        ("source", f"{info.title} ({info.kind}) {info.origin}".rstrip()),
        ("text sha256", info.document_sha256),
        ("tokens", f"{info.tokens:,} in {chunks(info.chunks)}" if info.tokens else ""),
        (
            "chunks",
            f"{_adapters(info)}, {size(info.chunk_bytes)}, {_folder(info)}" if info.chunk_files else "",
        ),
        ("rank", f"{info.rank}, {info.energy_kept:.2%} of the energy kept" if info.whole_made else ""),
        ("base", f"{info.base_name} ({info.base_fingerprint})"),
        ("hypernetwork", f"{info.hypernet_name} ({info.hypernet_sha256})" if info.hypernet_name else ""),
        ("made", info.made_at),
        *(("note", remark) for remark in info.notes),
    ]
    for label, value in rows:
        if value:
            put(f"{label:<13} {value}")


@adapters_app.command()
def rename(name: NameArgument, to: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Give an adapter another name."""
    with open_workbench() as bench:
        put(bench.library.rename(name, to).name)


@adapters_app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names, or the beginnings of some.")],
    purge: Annotated[bool, typer.Option("--purge", help="Empty the trash as well: this cannot be undone.")] = False,
) -> None:
    """Move adapters to the trash; `localhyper adapters restore NAME` brings one back."""
    with open_workbench() as bench:
        for name in [bench.library.get(name).name for name in names]:
            put(bench.library.remove(name).name)
        if purge:
            note(f"{bench.library.purge()} deleted for good")


@adapters_app.command()
def restore(name: Annotated[str, typer.Argument(help="Name it had.")]) -> None:
    """Bring an adapter back from the trash."""
    with open_workbench() as bench:
        put(bench.library.restore(name).name)


@adapters_app.command(name="import")
def import_adapter(
    path: Annotated[Path, typer.Argument(help="PEFT folder, or GGUF adapter file.")],
    name: Annotated[str, typer.Option("--name", help="Name in the library; default: its own.")] = "",
    base: BaseOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take an adapter of elsewhere into the library: a PEFT folder, or a GGUF file that llama.cpp loads.

    It is checked against its base model, whose file must be on this machine: the one the adapter names where that is
    known, else the one that is set, or --base. What cannot be used as it was meant (DoRA, retrained modules, biases …)
    is refused. An adapter that is in the library already is not imported twice.
    """
    with open_workbench() as bench:
        done = bench.import_adapter(path, name=name, base=base)
    if as_json:
        put_json({**adapter_json(done.adapter), "reused": done.reused})
        return
    put(done.adapter.name)
    for remark in () if done.reused else done.adapter.notes:
        note(remark)
    if done.reused:
        note("it is in the library already")


@adapters_app.command()
def merge(
    names: Annotated[list[str], typer.Argument(metavar="NAME[@SCALE]...", help="Adapters, each at a strength.")],
    name: Annotated[str, typer.Option("--name", help="Name of the new adapter.")],
    rank: MergeRankOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sum adapters of one base model into a new one; quotes find the text of all of them.

    The new one acts as all of them together. Its rank is the sum of theirs, cut back to the rank budget; how much of
    the sum's energy that leaves is told. --rank 0 keeps all.
    """
    token = CancelToken()
    with open_workbench() as bench, stop_on_signals(token), ProgressView() as view:
        from localhyper.adapter_merge import check_new, store_merged

        check_new(bench.library, name)  # before the work
        merged, sources = bench.merge(names, rank, progress=view, cancel=token)
        info = store_merged(bench.library, merged, sources, name, bench.options().dtype)
    if as_json:
        put_json(adapter_json(info))
        return
    put(info.name)
    _tell_loss(merged)


def _tell_loss(merged: Merged) -> None:
    rank = merged.weights.mean_rank
    cut = f"rank {merged.full_rank} cut to {rank}, " if rank < merged.full_rank else f"rank {rank}, "
    note(f"{cut}{merged.energy_kept:.2%} of the energy kept")


@adapters_app.command(name="export")
def export_adapter(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Adapter, then the file to be or folder to put it into.")
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="gguf|peft", help="A file for llama.cpp, or a folder for transformers.")
    ] = "gguf",
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="f32|f16|q8_0|q5_0", help="Number format of a GGUF file; default: as it is."),
    ] = "",
    merged: Annotated[
        bool, typer.Option("--merge", help="Sum several: NAME[@SCALE]... TO makes one adapter of them.")
    ] = False,
    rank: MergeRankOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older export.")] = False,
) -> None:
    """Export an adapter: its GGUF file, which any llama.cpp loads with `--lora`, or a PEFT folder.

    A PEFT folder (`--format peft`) is what `peft.PeftModel.from_pretrained` and vLLM load beside the unquantized base
    model. TO is then the folder to be; where a folder of other things is there, `NAME-peft` is put into it.

    With --merge, several adapters become one file or folder, as `adapters merge` makes one in the library: all
    arguments but the last are adapters, `lease rules@0.5 both.gguf --merge`.

    The adapter of a whole document is made at its first export, which reads the text once more.
    """
    if form not in ("gguf", "peft"):
        raise ConfigError(f"--format is `{form[:40]}`", "say `gguf` or `peft`")
    wanted = _dtype(dtype)
    if wanted and form == "peft":
        raise ConfigError("--dtype is for GGUF files", "a PEFT folder is float16 where that is exact, else float32")
    if rank is not None and not merged:
        raise ConfigError("--rank is for --merge")
    token = CancelToken()
    with open_workbench() as bench, stop_on_signals(token):
        if merged:
            put(str(_export_merged(bench, names, form, wanted, rank, force, token)))
        else:
            put(str(_export_one(bench, names, form, wanted, force, token)))


def _dtype(text: str) -> Dtype | None:
    if text and text not in DTYPES:
        raise ConfigError(f"--dtype is `{text[:40]}`", f"say {', '.join(f'`{name}`' for name in DTYPES)}")
    return text if text else None


def _export_one(
    bench: Workbench, names: Sequence[str], form: str, dtype: Dtype | None, force: bool, token: CancelToken
) -> Path:
    if len(names) > 2:
        raise ConfigError(f"export takes one adapter and a place, got {len(names)} words", "--merge sums several")
    to = Path(names[1]) if len(names) == 2 else Path()
    from localhyper.adapter_export import check_free, export_gguf, export_peft

    info = bench.library.get(names[0])
    check_free(info.name, form, to, overwrite=force)  # before the work
    with ProgressView() as view:
        info = bench.made_whole(info, progress=view, cancel=token)
    if form == "gguf" and dtype is None:
        return bench.library.export(info.name, to, overwrite=force)
    if dtype is not None:
        return export_gguf(info, to, dtype, overwrite=force)
    return export_peft(info, bench.registry, to, overwrite=force).folder


def _export_merged(
    bench: Workbench,
    words: Sequence[str],
    form: str,
    dtype: Dtype | None,
    rank: int | None,
    force: bool,
    token: CancelToken,
) -> Path:
    if len(words) < 2:
        raise ConfigError("--merge takes adapters and a place: NAME[@SCALE]... TO", "TO is the file or folder to be")
    from localhyper.adapter_export import check_free, export_merged_gguf, export_merged_peft

    to = Path(words[-1])
    check_free("merged", form, to, overwrite=force)  # before the work
    with ProgressView() as view:
        merged, sources = bench.merge(words[:-1], rank, progress=view, cancel=token)
    if form == "peft":
        place = export_merged_peft(merged, sources, bench.registry, to, overwrite=force).folder
    else:
        place = export_merged_gguf(merged, sources, to, dtype or bench.options().dtype, overwrite=force)
    _tell_loss(merged)
    return place
