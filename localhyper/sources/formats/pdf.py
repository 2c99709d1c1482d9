"""PDF files through pdfium: passwords, pages, notes. What the characters mean together is `pdf_layout`'s business."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator

import pypdfium2
import pypdfium2.raw as pdfium

from localhyper.errors import SourceError
from localhyper.sources.cleaning import clean_text
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.pdf_layout import Glyph, Line, gather_lines
from localhyper.sources.formats.pdf_paragraphs import join_lines
from localhyper.sources.frames import Request

# A text layer with fewer letters and digits than this is a stamp or debris, not a document.
MIN_LETTERS = 10
_PASSWORD_HINT = "give its password with `--password`"
_LISTED_PAGES = 12
_SAMPLED = 200  # characters looked at for the direction of a page's text


def read(data: bytes, job: Request) -> Extracted:
    """Text of all pages."""
    document = _open(data, job)
    pages = [_page_lines(document, index) for index in range(len(document))]
    texts = [clean_text(text) for text in join_lines(pages)]
    letters = sum(character.isalnum() for text in texts for character in text)
    if letters < MIN_LETTERS:
        raise _too_little(job.name, document, letters)
    notes = list(_page_notes(texts))
    if attached := pdfium.FPDFDoc_GetAttachmentCount(document.raw):
        notes.append(f"attached files left out: {attached}")
    title = document.get_metadata_dict(skip_empty=True).get("Title", "")
    return Extracted("\n\n".join(text for text in texts if text), title, tuple(notes), pages=len(document))


def _open(data: bytes, job: Request) -> pypdfium2.PdfDocument:
    """The document, decrypted."""
    try:
        document = pypdfium2.PdfDocument(data, password=job.password or None)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pdfium.FPDF_ERR_PASSWORD:
            if job.password:
                raise SourceError(
                    f"{job.name}: encrypted, and the password given does not open it", _PASSWORD_HINT
                ) from error
            raise SourceError(f"{job.name}: encrypted, it opens only with a password", _PASSWORD_HINT) from error
        if error.err_code == pdfium.FPDF_ERR_SECURITY:
            raise SourceError(
                f"{job.name}: encrypted in a way that cannot be read", "save it without password"
            ) from error
        raise SourceError(
            f"{job.name}: damaged or not a PDF file", "get the file again, or print it to a new PDF from its viewer"
        ) from error
    if len(document) == 0:
        raise SourceError(
            f"{job.name}: damaged, no page can be found in it", "get the file again; this copy is not whole"
        )
    return document


def _page_lines(document: pypdfium2.PdfDocument, index: int) -> list[Line]:
    """Lines of one page; none for a page that pdfium cannot load."""
    try:
        page = document[index]
        textpage = page.get_textpage()
    except pypdfium2.PdfiumError:
        return []
    try:
        count = textpage.count_chars()
        return gather_lines(list(_glyphs(textpage.raw, count)), _quarter_turns(textpage.raw, count))
    finally:
        textpage.close()
        page.close()


def _quarter_turns(textpage: object, count: int) -> int:
    """How most of a page's text stands: 0 upright, 1 to 3 quarter turns counter-clockwise."""
    angles = [pdfium.FPDFText_GetCharAngle(textpage, index) for index in range(0, count, max(count // _SAMPLED, 1))]
    # pdfium measures clockwise
    turns = [-round(angle / (math.pi / 2)) % 4 for angle in angles if angle >= 0]
    return max(range(4), key=turns.count) if turns else 0


def _glyphs(textpage: object, count: int) -> Iterator[Glyph]:
    """Every character of a page with its font's box, in the order of the content stream."""
    box = pdfium.FS_RECTF()
    pointer = ctypes.byref(box)
    pending = 0
    for index in range(count):
        code = pdfium.FPDFText_GetUnicode(textpage, index)
        if 0xD800 <= code < 0xDC00:
            pending = code
            continue
        if 0xDC00 <= code < 0xE000 and pending:
            code = 0x10000 + ((pending - 0xD800) << 10) + (code - 0xDC00)
        pending = 0
        if not 0 < code < 0x110000 or 0xD800 <= code < 0xE000:
            continue
        hyphen = pdfium.FPDFText_IsHyphen(textpage, index) == 1
        if pdfium.FPDFText_IsGenerated(textpage, index) == 1 and not hyphen:
            yield Glyph(" ", 0.0, 0.0, 0.0, 0.0)
            continue
        # The loose box is as high as the font, so that a dash and a capital stand on one line.
        if not pdfium.FPDFText_GetLooseCharBox(textpage, index, pointer):
            continue
        yield Glyph(chr(code), box.left, box.right, min(box.bottom, box.top), max(box.bottom, box.top), hyphen)


def _too_little(name: str, document: pypdfium2.PdfDocument, letters: int) -> SourceError:
    """The line for a document without a text worth the name."""
    hint = "run text recognition (OCR) on it first, for example with `ocrmypdf`"
    count = len(document)
    pages = "its page has" if count == 1 else f"its {count} pages have"
    if letters == 0:
        return SourceError(f"{name}: a scan or drawing without text: {pages} no text layer", hint)
    return SourceError(f"{name}: {pages} only {letters} letters of text, it is damaged or a scan", hint)


def _page_notes(texts: list[str]) -> Iterator[str]:
    """A note on the pages without text."""
    empty = [number for number, text in enumerate(texts, 1) if not text]
    if empty:
        shown = ", ".join(map(str, empty[:_LISTED_PAGES])) + (", …" if len(empty) > _LISTED_PAGES else "")
        yield f"{'page' if len(empty) == 1 else 'pages'} without text: {shown} (of {len(texts)})"
