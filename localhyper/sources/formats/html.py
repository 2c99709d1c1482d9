"""HTML pages to text: headings, paragraphs, lists, tables, alternative texts; no scripts, styles or navigation."""

from __future__ import annotations

import re

from lxml import etree
from lxml import html as lxml_html

from localhyper.sources.cleaning import one_line
from localhyper.sources.decoding import decode_markup
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.rows import table_lines
from localhyper.sources.formats.xml_tree import Element, local_name
from localhyper.sources.frames import Request

_SKIPPED = frozenset(
    "script style noscript template head nav iframe object svg canvas select button input dialog".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body dd details div dl dt fieldset figcaption figure footer form header hr "
    "hgroup html legend li main ol p section summary table tbody td tfoot th thead tr ul center caption".split()
)
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_XML_HEAD = re.compile(r"\A\s*<\?xml[^>]*\?>")
_MAX_DEPTH = 500


def read(data: bytes, job: Request) -> Extracted:
    """Text and title of a page."""
    markup = decode_markup(data)
    root = parse_html(markup)
    if root is None:
        return Extracted(text="")
    title = next(root.iter("title"), None)
    return Extracted(text=page_text(root), title=one_line(title.text_content()) if title is not None else "")


def parse_html(markup: str) -> Element | None:
    """Tree of a page, however broken; None when nothing is in it."""
    markup = _XML_HEAD.sub("", markup).replace("\x00", "")
    if not markup.strip():
        return None
    parser = lxml_html.HTMLParser(no_network=True, remove_comments=True, remove_pis=True, encoding="utf-8")
    try:
        return lxml_html.document_fromstring(markup.encode("utf-8", "replace"), parser=parser)
    except etree.ParserError:
        return None


def page_text(root: Element) -> str:
    """Text of a parsed page, blocks separated by blank lines."""
    writer = _Writer()
    writer.walk(root, 0)
    writer.end_block()
    return "\n\n".join(writer.blocks)


class _Writer:
    """Gathers inline text until a block ends."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self._inline: list[str] = []
        self._prefix = ""

    def end_block(self) -> None:
        """Close the open block; white space as a browser would show it."""
        lines = [one_line(line) for line in "".join(self._inline).split("\x00")]
        text = "\n".join(line for line in lines if line)
        if text:
            self.blocks.append(self._prefix + text)
            self._prefix = ""
        self._inline.clear()

    def walk(self, element: Element, depth: int) -> None:
        """Write an element and what follows it up to its next sibling."""
        name = local_name(element)
        if name and name not in _SKIPPED and not _is_hidden(element) and depth < _MAX_DEPTH:
            self._enter(element, name, depth)
        if element.tail:
            self._inline.append(element.tail)

    def _enter(self, element: Element, name: str, depth: int) -> None:
        if name == "br":
            self._inline.append("\x00")
        elif name == "img":
            self._image(element)
        elif name == "pre":
            self._preformatted(element)
        elif name == "table" and _is_data_table(element):
            self._table(element)
        elif name in _HEADINGS or name in _BLOCKS:
            self._block(element, name, depth)
        else:
            self._children(element, depth)

    def _block(self, element: Element, name: str, depth: int) -> None:
        self.end_block()
        if name in _HEADINGS:
            self._prefix = _HEADINGS[name] + " "
        elif name == "li":
            self._prefix = "- "
        self._children(element, depth)
        self.end_block()
        self._prefix = ""

    def _children(self, element: Element, depth: int) -> None:
        if element.text:
            self._inline.append(element.text)
        for child in element:
            self.walk(child, depth + 1)

    def _image(self, element: Element) -> None:
        if words := one_line(element.get("alt") or ""):
            self._inline.append(f" [Image: {words}] ")

    def _preformatted(self, element: Element) -> None:
        self.end_block()
        if text := element.text_content().strip("\r\n"):
            self.blocks.append(text)

    def _table(self, element: Element) -> None:
        self.end_block()
        rows = ([cell.text_content() for cell in row if local_name(cell) in ("td", "th")] for row in element.iter("tr"))
        if lines := list(table_lines(rows)):
            self.blocks.append("\n".join(lines))


def _is_data_table(table: Element) -> bool:
    """Whether a table holds data rather than the page's layout (nested tables, block contents)."""
    if next(table.iterdescendants("table"), None) is not None:
        return False
    rows = list(table.iter("tr"))
    cells = sum(1 for row in rows for _ in row)
    return cells > len(rows) and next(table.iterdescendants("h1", "h2", "h3", "pre", "ul", "ol"), None) is None


def _is_hidden(element: Element) -> bool:
    """Whether the page says that an element is not to be seen."""
    style = (element.get("style") or "").replace(" ", "").lower()
    return element.get("hidden") is not None or element.get("aria-hidden") == "true" or "display:none" in style
