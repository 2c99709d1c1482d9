"""OpenDocument text (LibreOffice, Google Docs): headings, paragraphs, lists, tables, notes."""

from __future__ import annotations

from collections.abc import Iterator

from localhyper.errors import SourceError
from localhyper.sources.formats.archive import open_archive
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.rows import table_lines
from localhyper.sources.formats.xml_tree import Element, attribute, find_all, first_text, local_name, parse_xml
from localhyper.sources.frames import Request

_LEFT_OUT = frozenset({"annotation", "annotation-end", "tracked-changes", "forms", "sequence-decls", "variable-decls"})
_MAX_SPACES = 16


def read(data: bytes, job: Request) -> Extracted:
    """Text of the document's body."""
    with open_archive(data, job) as archive:
        members = archive.namelist()
        if "META-INF/manifest.xml" in members and b"encryption-data" in archive.read("META-INF/manifest.xml"):
            raise SourceError(f"{job.name}: encrypted, its text cannot be read", "save it without password")
        body = next(find_all(parse_xml(archive.read("content.xml")), "body"), None)
        title = first_text(parse_xml(archive.read("meta.xml")), "title") if "meta.xml" in members else ""
    if body is None:
        raise ValueError("it has no body")
    notes = []
    if comments := sum(1 for _ in find_all(body, "annotation")):
        notes.append(f"comments left out: {comments}")
    return Extracted("\n\n".join(_blocks(body)), title, tuple(notes))


def _blocks(element: Element) -> Iterator[str]:
    """Text blocks under an element, in order."""
    for child in element:
        name = local_name(child)
        if name in _LEFT_OUT:
            continue
        if name == "h":
            level = attribute(child, "outline-level")
            yield "#" * min(int(level) if level.isdigit() else 1, 6) + " " + _inline(child)
        elif name == "p":
            yield _inline(child)
        elif name == "list":
            yield "\n".join(_items(child, 0))
        elif name == "table":
            yield "\n".join(table_lines(_rows(child)))
        else:
            yield from _blocks(child)


def _items(element: Element, depth: int) -> Iterator[str]:
    """One line for each list item, nested lists indented."""
    for item in element:
        for part in item:
            if local_name(part) == "list":
                yield from _items(part, depth + 1)
            elif text := " ".join(_blocks(item) if local_name(part) not in ("p", "h") else [_inline(part)]):
                yield "  " * depth + "- " + text


def _rows(table: Element) -> Iterator[list[str]]:
    """Cell texts of each row; repeated and covered cells count once."""
    for row in find_all(table, "table-row"):
        yield [" ".join(_blocks(cell)) for cell in row if local_name(cell) in ("table-cell", "covered-table-cell")]


def _inline(element: Element) -> str:
    """Text of a paragraph; a footnote stands in brackets where it is called."""
    parts = [element.text or ""]
    for child in element:
        name = local_name(child)
        if name == "s":
            count = attribute(child, "c")
            parts.append(" " * min(int(count) if count.isdigit() else 1, _MAX_SPACES))
        elif name == "tab":
            parts.append("\t")
        elif name == "line-break":
            parts.append("\n")
        elif name == "note":
            parts.append(_note(child))
        elif name == "desc":
            parts.append(f"[Image: {''.join(child.itertext()).strip()}]")
        elif name and name not in _LEFT_OUT:
            parts.append(_inline(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _note(element: Element) -> str:
    """A foot- or endnote's own text in brackets."""
    body = next(find_all(element, "note-body"), None)
    return f" [{' '.join(_blocks(body))}]" if body is not None else ""
