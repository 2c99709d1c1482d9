"""Small documents for the tests of sources, made by the libraries that write them or by hand. Knows no reader."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]


def shared_documents() -> Path:
    """The folder of real documents; skips the test where there is none."""
    root = Path(os.environ.get("LOCALHYPER_SHARED", _REPOSITORY.parent / "shared"))
    folder = root / "data" / "documents"
    if not folder.is_dir():
        pytest.skip("no shared/data/documents beside the repository; LOCALHYPER_SHARED can name the folder of `data`")
    return folder


def zip_bytes(members: Mapping[str, str | bytes]) -> bytes:
    """A zip container."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pdf_bytes(pages: Sequence[str], *, info: str = "", extra: str = "") -> bytes:
    """A PDF whose pages have these content streams, with Helvetica as /F1."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {extra} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, content in enumerate(pages):
        stream = zlib.compress(content.encode("cp1252"))
        page = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        head = f"<< /Length {len(stream)} /Filter /FlateDecode >>\nstream\n".encode()
        objects += [page.encode(), head + stream + b"\nendstream"]
    objects.append(f"<< {info} >>".encode())
    return _assemble(objects)


def _assemble(objects: Sequence[bytes]) -> bytes:
    """Objects, cross-reference table and trailer; the last object is the document information."""
    out = bytearray(b"%PDF-1.5\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\n".encode()
    return bytes(out + f"startxref\n{start}\n%%EOF\n".encode())


def pdf_text(lines: Sequence[tuple[float, float, str]], size: float = 11) -> str:
    """A content stream that puts texts at places (x, y)."""
    parts = [f"BT /F1 {size} Tf"]
    for x, y, text in lines:
        escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        parts.append(f"1 0 0 1 {x} {y} Tm ({escaped}) Tj")
    return "\n".join([*parts, "ET"])


def prose_page(text_lines: Sequence[str]) -> str:
    """A page of left-aligned lines at an even distance."""
    return pdf_text([(72, 760 - 14 * number, line) for number, line in enumerate(text_lines)])


def docx_bytes(body: str, *, notes: str = "", title: str = "") -> bytes:
    """A Word document with this body XML (prefix `w`)."""
    import docx
    from docx.oxml import parse_xml

    document = docx.Document()
    document.core_properties.title = title
    namespaces = (
        'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
        'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
        'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing"'
    )
    element = document.element.body
    for child in parse_xml(f"<w:body {namespaces}>{body}</w:body>"):
        element.insert(len(element) - 1, child)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def odt_bytes(body: str, *, manifest: str = "", doctype: str = "") -> bytes:
    """An OpenDocument text with this body XML (prefixes `text`, `table`, `office`)."""
    names = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "text", "table", "drawing")
    )
    content = (
        f'<?xml version="1.0" encoding="UTF-8"?>{doctype}<office:document-content {names}><office:body><office:text>'
        f"{body}</office:text></office:body></office:document-content>"
    )
    meta = (
        f'<office:document-meta {names} xmlns:dc="http://purl.org/dc/elements/1.1/"><office:meta>'
        "<dc:title>Tide tables</dc:title></office:meta></office:document-meta>"
    )
    members = {"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content, "meta.xml": meta}
    return zip_bytes(members | ({"META-INF/manifest.xml": manifest} if manifest else {}))


def epub_bytes(
    pages: dict[str, str], *, order: Sequence[str] | None = None, extra: dict[str, str | bytes] | None = None
) -> bytes:
    """A book with these pages (name to XHTML body) in this order."""
    items = "".join(f'<item id="{name}" href="text/{name}" media-type="application/xhtml+xml"/>' for name in pages)
    spine = "".join(f'<itemref idref="{name}"/>' for name in (order if order is not None else list(pages)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>A Small Book</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    members: dict[str, str | bytes] = {"mimetype": "application/epub+zip", "META-INF/container.xml": container}
    members["OEBPS/book.opf"] = package
    for name, body in pages.items():
        members[f"OEBPS/text/{name}"] = f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
    return zip_bytes(members | (extra or {}))
