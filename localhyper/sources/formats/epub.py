"""EPUB books: the spine's pages in reading order."""

from __future__ import annotations

import posixpath
import zipfile
from urllib.parse import unquote

from localhyper.errors import SourceError
from localhyper.sources.decoding import decode_markup
from localhyper.sources.formats.archive import open_archive
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.html import page_text, parse_html
from localhyper.sources.formats.xml_tree import Element, attribute, find_all, first_text, parse_xml
from localhyper.sources.frames import Request

_PAGE_TYPES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read(data: bytes, job: Request) -> Extracted:
    """Text of every page in the spine, in order."""
    with open_archive(data, job) as archive:
        if "META-INF/encryption.xml" in archive.namelist() and b"EncryptedKey" in archive.read(
            "META-INF/encryption.xml"
        ):
            raise SourceError(f"{job.name}: encrypted (DRM), its text cannot be read", "use a copy without DRM")
        package_path, package = _package(archive)
        pages, missing = [], 0
        for name in _spine(package, posixpath.dirname(package_path)):
            try:
                pages.append(_page(archive, name))
            except KeyError:
                missing += 1
    notes = (f"{missing} of {missing + len(pages)} pages are missing in the book",) if missing else ()
    return Extracted("\n\n".join(page for page in pages if page), first_text(package, "title"), notes)


def _package(archive: zipfile.ZipFile) -> tuple[str, Element]:
    """Path and tree of the book's package file."""
    container = parse_xml(archive.read("META-INF/container.xml"))
    for rootfile in find_all(container, "rootfile"):
        path = unquote(attribute(rootfile, "full-path"))
        if path in archive.namelist():
            return path, parse_xml(archive.read(path))
    raise ValueError("it names no package file")


def _spine(package: Element, folder: str) -> list[str]:
    """Member names of the pages in reading order."""
    items = {attribute(item, "id"): item for item in find_all(package, "item")}
    names = []
    for reference in find_all(package, "itemref"):
        item = items.get(attribute(reference, "idref"))
        if (
            item is None
            or attribute(item, "media-type") not in _PAGE_TYPES
            or "nav" in attribute(item, "properties").split()
        ):
            continue
        names.append(posixpath.normpath(posixpath.join(folder, unquote(attribute(item, "href")).partition("#")[0])))
    return names


def _page(archive: zipfile.ZipFile, name: str) -> str:
    """Text of one page."""
    root = parse_html(decode_markup(archive.read(name)))
    return page_text(root) if root is not None else ""
