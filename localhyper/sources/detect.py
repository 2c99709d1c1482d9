"""What kind of document a run of bytes is, by content first and by name second. Parses nothing beyond that.

A name decides only between kinds whose content looks alike (txt, md, csv, html fragments); a pdf called `.docx` is
read as the pdf it is.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePath

from localhyper.errors import SourceError

TEXT_SUFFIXES = {
    ".md": "md", ".markdown": "md", ".csv": "csv", ".tsv": "csv", ".html": "html", ".htm": "html", ".xhtml": "html",
}  # fmt: skip
CONTAINER_SUFFIXES = frozenset({".pdf", ".docx", ".pptx", ".xlsx", ".epub", ".odt"})
SUPPORTED = "txt, md, html, pdf, docx, pptx, xlsx, csv, epub and odt can be read"

_ZIP_MAIN_PARTS = {"word/document.xml": "docx", "ppt/presentation.xml": "pptx", "xl/workbook.xml": "xlsx"}
_ZIP_MIMETYPES = {
    "application/epub+zip": "epub",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.text-template": "odt",
}
_KNOWN_BINARIES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"GGUF", "a GGUF model file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"OggS", "an Ogg recording"),
    (b"ID3", "an MP3 recording"),
)
_MARKUPS = ((b"{\\rtf", "Rich Text (RTF)"), (b"%!PS", "PostScript"))
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_HTML_HEAD = re.compile(
    rb"\s*(<!--.{0,2000}?-->\s*|<\?xml[^>]{0,200}\?>\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S
)
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def detect_kind(data: bytes, name: str) -> str:
    """Kind of document: `txt`, `md`, `html`, `pdf`, `docx`, `pptx`, `xlsx`, `csv`, `epub` or `odt`.

    Args:
        data: The whole file.
        name: Its name; only the ending is looked at, and `-` has none.

    Raises:
        SourceError: Empty, or not a document that can be read.
    """
    if not data.strip(b"\x00 \t\r\n"):
        raise SourceError(f"{name}: empty, there is nothing to read", "check that the file was saved or copied whole")
    suffix = PurePath(name).suffix.lower()
    # Writers may put rubbish before the header, and readers allow 1024 bytes of it.
    if b"%PDF-" in data[:1024]:
        return "pdf"
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return _zip_kind(data, name)
    if data.startswith(_OLE_MAGIC):
        raise _ole_error(data, name)
    for magic, what in _MARKUPS:
        if data.startswith(magic):
            raise SourceError(f"{name}: {what} cannot be read", "save it as docx, odt or pdf")
    for magic, what in _KNOWN_BINARIES:
        if data.startswith(magic) and looks_binary(data):
            raise SourceError(f"{name}: this is {what}, not a document", SUPPORTED)
    if looks_binary(data):
        raise SourceError(f"{name}: binary data, not a document", SUPPORTED)
    if suffix in CONTAINER_SUFFIXES and not _HTML_HEAD.match(data[:4096]):
        raise SourceError(
            f"{name}: damaged or not a {suffix[1:]} file: got other text",
            "check the file, or rename it to .txt if it is text",
        )
    return _text_kind(data, suffix)


def looks_binary(data: bytes) -> bool:
    """Whether the bytes hold what no text encoding uses: NULs outside UTF-16, or many control characters."""
    head = data[:65536]
    if head.startswith(_BOMS):
        return False
    if b"\x00" in head:
        return not _is_utf16_without_bom(head)
    controls = sum(head.count(bytes([code])) for code in range(32) if code not in (8, 9, 10, 12, 13, 27))
    if controls > 2 + len(head) // 200:
        return True
    return _is_noise(head)


def _is_noise(head: bytes) -> bool:
    """Whether bytes without NULs are still no text: any control at all, and no encoding's shape around it."""
    try:
        head[: max(len(head) - 3, 1)].decode("utf-8")
        return False
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 6:
            return False
    spaces = sum(head.count(bytes([code])) for code in (9, 10, 13, 32))
    controls = sum(head.count(bytes([code])) for code in range(32) if code not in (9, 10, 12, 13, 27))
    return controls > 0 and spaces * 50 < len(head)


def _is_utf16_without_bom(head: bytes) -> bool:
    """Whether NULs fill one half of the byte pairs and hardly ever the other."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    pairs = max(len(head) // 2, 1)
    return max(even, odd) > 0.3 * pairs and min(even, odd) < 0.02 * pairs and len(head) >= 8


def _text_kind(data: bytes, suffix: str) -> str:
    """Kind of a file that is text of some encoding."""
    if suffix in TEXT_SUFFIXES:
        return TEXT_SUFFIXES[suffix]
    return "html" if _HTML_HEAD.match(data[:4096]) else "txt"


def _zip_kind(data: bytes, name: str) -> str:
    """Kind of a zip container, by its members."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = set(archive.namelist())
            mimetype = _mimetype(archive, members)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(
            f"{name}: damaged: cut short, or not a whole zip container", "get the file again; this copy is not whole"
        ) from error
    if mimetype in _ZIP_MIMETYPES:
        return _ZIP_MIMETYPES[mimetype]
    for part, kind in _ZIP_MAIN_PARTS.items():
        if part in members:
            return kind
    if "META-INF/container.xml" in members:
        return "epub"
    return _by_content_types(members, name)


def _by_content_types(members: set[str], name: str) -> str:
    """Kind of an Office file whose main part has an unusual name; raises for any other zip."""
    for folder, kind in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx")):
        if "[Content_Types].xml" in members and any(member.startswith(folder) for member in members):
            return kind
    raise SourceError(f"{name}: a zip archive, not a document", "unpack it and point at the folder")


def _mimetype(archive: zipfile.ZipFile, members: set[str]) -> str:
    """Content of the `mimetype` member (epub, OpenDocument); empty when there is none of sensible size."""
    if "mimetype" not in members or archive.getinfo("mimetype").file_size > 200:
        return ""
    return archive.read("mimetype").decode("ascii", "replace").strip()


def _ole_error(data: bytes, name: str) -> SourceError:
    """The line for the old container: an encrypted new Office file, or an Office file from before 2007."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return SourceError(
            f"{name}: encrypted, its text cannot be read", "open it in its program and save it without password"
        )
    return SourceError(f"{name}: an Office file in the format from before 2007", "save it as docx, pptx or xlsx")
