"""`python -m docs.make_cli`: write the generated sections of `docs/cli.md`, `docs/guide.md` and `docs/formats.md`.

They come from the commands, errors, settings and dataclasses themselves; a test fails when a page is behind. Texts
round the sections are written by hand. Knows what Typer is told, not what it makes of it: that changes with releases.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from localhyper.atomic import write_text_atomic
from localhyper.cli import app
from localhyper.cli_output import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_UNEXPECTED
from localhyper.config import Config, describe
from localhyper.errors import Cancelled, LocalHyperError
from localhyper.gguf_adapter import AdapterMetadata
from localhyper.library import AdapterInfo

DOCS = Path(__file__).resolve().parent
_SECTION = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.S)
_FIELD = re.compile(r"^    (?P<name>\w+): (?P<meaning>.*(?:\n        .*)*)", re.M)


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command, as its function declares it.

    Attributes:
        word: How it is typed, e.g. `--rank N`.
        is_option: Whether it is an option.
        meaning: Its help.
        default: What stands in the table.
    """

    word: str
    is_option: bool
    meaning: str
    default: str


def commands() -> str:
    """Every command with its arguments and options."""
    return "\n".join(part for words, function in functions(app, ("localhyper",)) for part in _page(words, function))


def functions(group: typer.Typer, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    """Every command's words, `localhyper` first, and the function behind it."""
    for command in group.registered_commands:
        if command.callback is not None:
            yield (*words, command.name or command.callback.__name__.replace("_", "-")), command.callback
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from functions(inner.typer_instance, (*words, str(inner.name)))


def _page(words: tuple[str, ...], function: Callable[..., Any]) -> Iterator[str]:
    parameters = list(parameters_of(function))
    arguments = [item.word for item in parameters if not item.is_option]
    options = ["[OPTIONS]"] if len(arguments) < len(parameters) or not parameters else []
    yield f"### `{' '.join([*words, *arguments, *options])}`\n"
    yield f"{_paragraphs(inspect.getdoc(function) or '')}\n"
    if parameters:
        rows = [(f"`{item.word}`", item.meaning, item.default) for item in parameters]
        yield _table(("", "meaning", "default"), rows) + "\n"


def parameters_of(function: Callable[..., Any]) -> Iterator[Parameter]:
    """What is declared with `typer.Argument` and `typer.Option`; a bare context passes everything on."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(hints[name]) is Annotated:
            kind, declared = get_args(hints[name])[:2]
            yield _parameter(name, kind, declared, parameter.default)


def _parameter(name: str, kind: Any, declared: Any, default: Any) -> Parameter:
    is_option = type(declared).__name__ == "OptionInfo"
    required = default is inspect.Parameter.empty
    meaning = (declared.help or "").rstrip(".") + (f" (or `${declared.envvar}`)" if declared.envvar else "")
    if is_option:
        told = [declared.default, *(declared.param_decls or ())]  # the first name stands where a default once stood
        names = [part for part in told if isinstance(part, str) and part.startswith("-")]
        flags = ", ".join(names or [f"--{name.replace('_', '-')}"])
        text = f"{flags} {declared.metavar or _value_word(kind)}".rstrip()
    else:
        word = str(declared.metavar or name.upper()).strip("[]")
        text = word if required or (default is None and not str(declared.metavar).startswith("[")) else f"[{word}]"
    return Parameter(text, is_option, meaning, "required" if is_option and required else _default(default))


def _value_word(kind: Any) -> str:
    """`bool` takes no value; numbers say which kind."""
    kinds = [part for part in get_args(kind) if part is not NoneType] or [kind]
    return {bool: "", int: "N", float: "X", Path: "PATH"}.get(kinds[0], "TEXT")


def _default(value: Any) -> str:
    shown = value not in (None, "", inspect.Parameter.empty) and not isinstance(value, bool)
    return f"`{value}`" if shown else ""


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def exit_codes() -> str:
    """Codes from the error classes and the edge of the command line."""
    rows = [("0", "done"), ("1", "`doctor` found that something needed is missing")]
    classes = sorted(LocalHyperError.__subclasses__(), key=lambda kind: kind.exit_code)
    rows += [(str(kind.exit_code), _meaning(kind)) for kind in classes if kind is not Cancelled]
    rows.append((str(EXIT_UNEXPECTED), "a defect in localhyper; the log has the details"))
    rows.append((str(EXIT_INTERRUPTED), "stopped by Ctrl+C or SIGTERM; finished parts are kept"))
    rows.append((str(EXIT_BROKEN_PIPE), "whoever read stdout went away"))
    return _table(("code", "meaning"), rows) + "\n"


def _meaning(kind: type[LocalHyperError]) -> str:
    return (kind.__doc__ or "").split("\n")[0].rstrip(".")


def settings() -> str:
    """Every setting of config.toml with its default."""
    rows = [(f"`{key}`", _shown(value), meaning) for key, value, meaning in describe(Config())]
    return _table(("setting", "default", "meaning"), rows) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"`[{', '.join(map(repr, value))}]`"
    text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
    return f"`{text}`"


def fields_of(kind: type[Any], prefix: str = "") -> str:
    """The `Attributes:` of a dataclass as a table."""
    found = [(match["name"], " ".join(match["meaning"].split())) for match in _FIELD.finditer(_attributes(kind))]
    return _table(("key", "meaning"), [(f"`{prefix}{name}`", meaning.rstrip(".")) for name, meaning in found]) + "\n"


def _attributes(kind: type[Any]) -> str:
    """The docstring's lines from `Attributes:` on, indented by four however Python keeps them."""
    lines = (kind.__doc__ or "").partition("Attributes:")[2].strip("\n").split("\n")
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join("    " + line[margin:] if line.strip() else "" for line in lines)


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


SECTIONS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "exit-codes": exit_codes,
    "settings": settings,
    "adapter-json": lambda: fields_of(AdapterInfo),
    "adapter-keys": lambda: fields_of(AdapterMetadata, "localhyper."),
}
PAGES = ("cli.md", "guide.md", "formats.md")


def renewed(page: str) -> str:
    """A page with its generated sections made again.

    Raises:
        KeyError: The page asks for a section that does not exist.
    """
    return _SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match['name']]()}\n{match[3]}", page)


def main() -> None:
    """Write all pages."""
    for name in PAGES:
        page = DOCS / name
        write_text_atomic(page, renewed(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
