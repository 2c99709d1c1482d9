"""One file per document format, each with `read(data, job) -> Extracted`. Imported by the reader process alone.

`extract` is the whole of it: bytes and a name in, clean text out.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import PurePath

from localhyper.errors import SourceError
from localhyper.sources.cleaning import clean_text, clean_title
from localhyper.sources.detect import detect_kind
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.frames import Answer, Request

_READERS = {
    "txt": "plain",
    "md": "plain",
    "csv": "csv",
    "html": "html",
    "pdf": "pdf",
    "docx": "docx",
    "pptx": "pptx",
    "xlsx": "xlsx",
    "epub": "epub",
    "odt": "odt",
}


def extract(data: bytes, job: Request) -> Answer:
    """The document in `data`.

    Raises:
        SourceError: Not readable, or without text; every other exception is a parser's and means a damaged file.
    """
    if len(data) > job.limits.file_bytes:
        size = job.limits.file_bytes // (1024 * 1024)
        raise SourceError(f"{job.name}: larger than {size} MiB", "split the document into smaller files")
    kind = detect_kind(data, job.name)
    reader = import_module(f"localhyper.sources.formats.{_READERS[kind]}")
    found: Extracted = reader.read(data, job)
    text = clean_text(found.text)
    if len(text) > job.limits.text_chars:
        raise SourceError(
            f"{job.name}: gives {len(text)} characters of text, more than {job.limits.text_chars}",
            "split the document into smaller files",
        )
    if not any(character.isalnum() for character in text):
        raise SourceError(
            f"{job.name}: has no text in it", found.empty_hint or "nothing can be learned from it as it is"
        )
    title = clean_title(found.title) or PurePath(job.name).stem or job.name
    return Answer(title=title, text=text, kind=kind, notes=found.notes, pages=found.pages)
