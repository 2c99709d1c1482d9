"""`localhyper models …`: base models, hypernetworks and what they need, on this machine and beyond."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localhyper.cli_options import JsonOption, open_settings
from localhyper.cli_output import ProgressView, note, put, put_json, put_table, size, stop_on_signals
from localhyper.errors import ConfigError, LocalHyperError
from localhyper.model_specs import FolderSpec, PublishedSpec
from localhyper.progress import CancelToken
from localhyper.registry import ModelStatus, Registry, load_registry

if TYPE_CHECKING:
    from localhyper.remove_models import Removal

models_app = typer.Typer(help="List, fetch, add and check base models and hypernetworks.", no_args_is_help=True)

ModelArgument = Annotated[str, typer.Argument(help="Name from `localhyper models list`.")]


@models_app.command(name="list")
def list_models(as_json: JsonOption = False) -> None:
    """List the known models, and which are on this machine."""
    paths, _ = open_settings()
    registry = load_registry(paths)
    found = registry.statuses()
    fits = _bases_of_strays(registry, found)
    if as_json:
        put_json([_as_json(status, fits) for status in found])
    else:
        put_table(("name", "kind", "for", "size", "where"), [_row(status, fits) for status in found])


def _bases_of_strays(registry: Registry, found: Sequence[ModelStatus]) -> dict[Path, str]:
    """Base models of the hypernetworks that no models.toml describes, where they are on this machine."""
    strays = [status.path for status in found if status.spec is None and status.kind != "base" and status.path]
    if not strays:
        return {}
    from localhyper.bundle import read_purpose
    from localhyper.present_bases import present_bases

    names = {info.fingerprint: status.name for status, info in present_bases(registry)}
    return {path: names.get(read_purpose(path)[1], "") for path in strays}


def _row(status: ModelStatus, fits: Mapping[Path, str]) -> tuple[str, ...]:
    missing = "not here; " + ("`models pull` fetches it" if status.spec and status.spec.fetchable else "not fetchable")
    amount = size(status.size) if status.size else "?"
    return status.name, status.kind, _base_of(status, fits) or "-", amount, str(status.path or missing)


def _base_of(status: ModelStatus, fits: Mapping[Path, str]) -> str:
    known = str(getattr(status.spec, "base", ""))
    return known or (fits.get(status.path, "") if status.path else "")


def _as_json(status: ModelStatus, fits: Mapping[Path, str]) -> dict[str, object]:
    spec = status.spec
    return {
        "name": status.name,
        "kind": status.kind,
        "path": str(status.path) if status.path else None,
        "size_bytes": status.size,
        "description": spec.description if spec else "",
        "licence": spec.licence if spec else "",
        "base": _base_of(status, fits),
        "fetchable": spec.fetchable if spec else False,
    }


@models_app.command()
def pull(
    name: ModelArgument,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again.")] = False,
) -> None:
    """Fetch a model's file, or files, and check them; the only command that uses the network."""
    from localhyper.download import pull as fetch

    paths, _ = open_settings()
    spec = load_registry(paths).spec(name)
    token = CancelToken()
    with stop_on_signals(token), ProgressView() as view:
        path = fetch(spec, view, token, paths=paths, force=force)
    put(str(path))
    if isinstance(spec, PublishedSpec):
        note(f"make a bundle of it with `localhyper hypernet import {spec.name} --base {spec.base}`")


@models_app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A .gguf base model, or an .onnx bundle.")],
    name: Annotated[str, typer.Option("--name", help="What to call it by; after the file when not said.")] = "",
    base: Annotated[str, typer.Option("--base", help="Base model of a bundle, where it cannot be told.")] = "",
    copy: Annotated[bool, typer.Option("--copy", help="Copy the file into localhyper's folder.")] = False,
) -> None:
    """Enter a base model or hypernetwork file of your own into your models.toml."""
    from localhyper.own_models import add_model

    paths, _ = open_settings()
    token = CancelToken()
    with stop_on_signals(token), ProgressView() as view:
        added = add_model(load_registry(paths), path, name=name, base=base, copy=copy, progress=view, cancel=token)
    put(added.name)
    for remark in added.remarks:
        note(remark)


@models_app.command()
def remove(
    name: ModelArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete what was fetched or copied of a model, and your own entry; files elsewhere stay."""
    from localhyper.remove_models import plan_removal
    from localhyper.remove_models import remove as carry_out

    paths, _ = open_settings()
    registry = load_registry(paths)
    removal = plan_removal(registry, name)
    if not yes:
        _ask(removal)
    carry_out(registry, removal)
    for file in removal.files:
        put(str(file))
    if removal.section:
        note(f"[{removal.section}.{name}] was taken out of {paths.models_file}")
    if removal.left is not None:
        note(f"`{removal.left}` was left where it is")


def _ask(removal: Removal) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked", "say --yes to remove without a question")
    for file in removal.files:
        note(str(file))
    entry = "its entry in your models.toml" if removal.section else ""
    what = " and ".join(filter(None, [f"{size(removal.size)} of files" if removal.files else "", entry]))
    typer.confirm(f"Remove `{removal.name}`: {what}?", abort=True, err=True)


@models_app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Default: all on this machine.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare checksums and read headers of the models on this machine."""
    paths, _ = open_settings()
    registry = load_registry(paths)
    chosen = [registry.spec(name).name for name in names or []]
    token = CancelToken()
    results: list[tuple[ModelStatus, LocalHyperError | None]] = []
    with stop_on_signals(token):
        for status in registry.statuses():
            if status.name in chosen or (not chosen and status.path):
                with ProgressView() as view:
                    results.append((status, _problem(status, registry, view, token)))
    if as_json:
        rows = [(_as_json(status, {}), error) for status, error in results]
        put_json([{**row, "ok": error is None, "problem": error.message if error else ""} for row, error in rows])
    else:
        put_table(
            ("name", "kind", "result"),
            [(s.name, s.kind, "ok" if error is None else error.message) for s, error in results],
        )
    worst = next((error for _, error in results if error is not None), None)
    if worst is not None:
        raise typer.Exit(worst.exit_code)


def _problem(status: ModelStatus, registry: Registry, view: ProgressView, token: CancelToken) -> LocalHyperError | None:
    from localhyper.base_header import read_base_info
    from localhyper.bundle import read_bundle, read_companion

    try:
        if status.spec is not None:
            registry.verify(status.spec, progress=view, cancel=token)
        if status.path is not None and status.kind == "base":
            read_base_info(status.path)
        elif status.path is not None and not isinstance(status.spec, FolderSpec):
            read_companion(read_bundle(status.path))
    except LocalHyperError as error:
        token.check()
        return error
    return None
