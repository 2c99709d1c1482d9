"""`localhyper adapters …`: what is in the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localhyper.cli_options import JsonOption, adapter_json, open_workbench
from localhyper.cli_output import chunks, note, put, put_json, put_table, size
from localhyper.errors import ConfigError
from localhyper.library import AdapterInfo

adapters_app = typer.Typer(help="List, show, rename, remove and export adapters.", no_args_is_help=True)

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
    return name, info.kind, f"{info.tokens:,}", str(info.rank), size(info.size_bytes), info.base_name, made


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
            put("".join(piece.text for piece in bench.library.passages(info.id)))
        elif as_json:
            put_json(adapter_json(info))
        else:
            _show(info)


def _show(info: AdapterInfo) -> None:
    rows = [
        ("name", info.name),
        ("file", f"{info.path}" + ("" if info.usable else " (missing or damaged)")),
        ("size", size(info.size_bytes)),
        ("source", f"{info.title} ({info.kind}) {info.origin}".rstrip()),
        ("text sha256", info.document_sha256),
        ("tokens", f"{info.tokens:,} in {chunks(info.chunks)}"),
        ("rank", f"{info.rank}, {info.energy_kept:.2%} of the energy kept"),
        ("base", f"{info.base_name} ({info.base_fingerprint})"),
        ("hypernetwork", f"{info.hypernet_name} ({info.hypernet_sha256})"),
        ("made", info.made_at),
        *(("note", remark) for remark in info.notes),
    ]
    for label, value in rows:
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


@adapters_app.command(name="export")
def export_adapter(
    name: NameArgument,
    to: Annotated[Path, typer.Argument(help="File to be, or folder to put it into.")] = Path(),
    form: Annotated[
        str, typer.Option("--format", metavar="gguf|peft", help="A file for llama.cpp, or a folder for transformers.")
    ] = "gguf",
    force: Annotated[bool, typer.Option("--force", help="Replace an older export.")] = False,
) -> None:
    """Export an adapter: its GGUF file, which any llama.cpp loads with `--lora`, or a PEFT folder.

    A PEFT folder (`--format peft`) is what `peft.PeftModel.from_pretrained` and vLLM load beside the unquantized base
    model. TO is then the folder to be; where a folder of other things is there, `NAME-peft` is put into it.
    """
    if form not in ("gguf", "peft"):
        raise ConfigError(f"--format is `{form[:40]}`", "say `gguf` or `peft`")
    with open_workbench() as bench:
        if form == "gguf":
            put(str(bench.library.export(name, to, overwrite=force)))
            return
        from localhyper.adapter_export import export_peft

        put(str(export_peft(bench.library.get(name), bench.registry, to, overwrite=force).folder))
