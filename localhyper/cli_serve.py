"""`localhyper serve`: an OpenAI-compatible endpoint, on this machine only unless asked otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localhyper.cli_options import BaseOption, WithOption, open_settings
from localhyper.cli_output import put


def serve(
    base: BaseOption = "",
    with_adapters: WithOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; one that others can reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = any free one, which is printed.")] = 8093,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="File with the token; else `LOCALHYPER_TOKEN` may hold it."),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let in whoever can reach --host.")] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="Origin of a web page that may call; may be given again."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="One more name to answer to; may be given again."),
    ] = None,
) -> None:
    """Serve the base models and adapters of this machine to clients of OpenAI's API, until Ctrl+C."""
    from localhyper.serve.server import ServeOptions, run

    paths, config = open_settings()
    options = ServeOptions(
        base=base,
        with_adapters=tuple(with_adapters or ()),
        host=host,
        port=port,
        token_file=token_file,
        no_token=no_token,
        origins=tuple(allow_origin or ()),
        hosts=tuple(allow_host or ()),
    )
    raise typer.Exit(run(paths, config, options, lambda model, url: put(f"serving {model} at {url}")))
