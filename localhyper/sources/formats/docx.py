"""Word documents through python-docx's package; our own walk over the body, since its paragraph list misses text.

Text boxes, nested tables, content controls, inserted text, notes, equations and pictures' descriptions come along;
deleted text and comments do not.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from docx import Document as open_docx
from docx.oxml import parse_xml

from localhyper.sources.formats.archive import check_archive
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.omml import equation_text
from localhyper.sources.formats.rows import table_lines
from localhyper.sources.formats.xml_tree import Element, attribute, find_all, local_name
from localhyper.sources.frames import Request

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_LEFT_OUT = frozenset({"del", "moveFrom", "delText", "instrText", "pPr", "rPr", "sdtPr", "Fallback", "annotationRef"})
_HEADING = re.compile(r"(?i)(?:heading|überschrift|titre|título) ?([1-9])|(title|titel)")
_FILE_NAME = re.compile(r"[^/\\]+\.\w{2,5}")


def read(data: bytes, job: Request) -> Extracted:
    """Text of the document's body, notes at the end."""
    check_archive(data, job)
    package = open_docx(io.BytesIO(data))
    body = package.element.body
    reader = _Body({style.style_id: style.name or "" for style in package.styles}, _note_texts(package.part))
    text = "\n\n".join(block for block in reader.blocks(body) if block.strip())
    notes = []
    if comments := sum(1 for _ in find_all(body, "commentReference")):
        notes.append(f"comments left out: {comments}")
    if _only_pictures(text):
        notes.append("the document has pictures only: their names are all that could be read")
    return Extracted(text, package.core_properties.title or "", tuple(notes))


def _note_texts(part: object) -> dict[tuple[str, str], str]:
    """Text of every foot- and endnote, by (kind, id)."""
    texts = {}
    for relation in part.rels.values():  # type: ignore[attr-defined]
        kind = relation.reltype.rpartition("/")[2]
        if kind in ("footnotes", "endnotes") and not relation.is_external:
            for note in find_all(parse_xml(relation.target_part.blob), kind[:-1]):
                if not attribute(note, "type"):
                    blocks = _Body({}, {}).blocks(note)
                    texts[kind[:-1], attribute(note, "id")] = " ".join(" ".join(blocks).split())
    return texts


def _only_pictures(text: str) -> bool:
    """Whether a text consists of picture marks alone."""
    return bool(text) and not re.sub(r"\[Image: [^\]]*\]", "", text).strip()


class _Body:
    """The walk over a body: knows style names and note texts."""

    def __init__(self, styles: dict[str, str], note_texts: dict[tuple[str, str], str]) -> None:
        self._styles = styles
        self._note_texts = note_texts
        self._boxes: list[str] = []

    def blocks(self, element: Element) -> Iterator[str]:
        """Text blocks under an element, in order."""
        for child in element:
            name = local_name(child)
            if name in _LEFT_OUT:
                continue
            if name == "p":
                yield from self._paragraph(child)
            elif name == "tbl":
                yield "\n".join(table_lines(self._rows(child)))
            else:
                yield from self.blocks(child)

    def _paragraph(self, paragraph: Element) -> Iterator[str]:
        """The paragraph with its mark, then the text boxes anchored in it."""
        text = self._inline(paragraph).strip()
        boxes, self._boxes = self._boxes, []
        if text:
            yield self._mark(paragraph) + text
        yield from boxes

    def _mark(self, paragraph: Element) -> str:
        """`#` for headings, `-` for list items, nothing for the rest."""
        properties = paragraph.find(_WORD + "pPr")
        if properties is None:
            return ""
        style = properties.find(_WORD + "pStyle")
        identifier = attribute(style, "val") if style is not None else ""
        found = _HEADING.fullmatch(self._styles.get(identifier, identifier))
        if found:
            return "#" * min(int(found.group(1) or 1), 6) + " "
        return "- " if properties.find(_WORD + "numPr") is not None else ""

    def _rows(self, table: Element) -> Iterator[list[str]]:
        """Cell texts of each row of this table, not of tables nested in it."""
        for row in table.iter(_WORD + "tr"):
            if next(row.iterancestors(_WORD + "tbl")) is table:
                cells = (cell for cell in row.iter(_WORD + "tc") if next(cell.iterancestors(_WORD + "tr")) is row)
                yield [" ".join(self.blocks(cell)) for cell in cells]

    def _inline(self, element: Element) -> str:
        """Text of a paragraph or run; text boxes are put aside."""
        return "".join(self._piece(child, local_name(child)) for child in element)

    def _piece(self, child: Element, name: str) -> str:
        """Text of one inline element."""
        if name in _LEFT_OUT:
            return ""
        if name == "t":
            return child.text or ""
        if name == "tab":
            return "\t"
        if name in ("br", "cr"):
            return "\n"
        if name == "noBreakHyphen":
            return "-"
        if name == "oMath":
            return equation_text(child)
        if name in ("footnoteReference", "endnoteReference"):
            note = self._note_texts.get((name.removesuffix("Reference"), attribute(child, "id")))
            return f" [{note}]" if note else ""
        if name == "txbxContent":
            self._boxes.extend(block for block in _Body(self._styles, self._note_texts).blocks(child) if block.strip())
            return ""
        if name in ("inline", "anchor"):
            return self._picture(child) + self._inline(child)
        return self._inline(child)

    def _picture(self, drawing: Element) -> str:
        """A picture's description, or its file name."""
        for element in drawing.iter("{*}docPr", "{*}cNvPr"):
            if words := attribute(element, "descr") or attribute(element, "title"):
                return f"[Image: {' '.join(words.split())}]"
        for element in drawing.iter("{*}cNvPr"):
            if _FILE_NAME.fullmatch(attribute(element, "name")):
                return f"[Image: {attribute(element, 'name')}]"
        return ""
