"""Folders: which files are read, in which order, what becomes of those that cannot be. Parses nothing itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localhyper.errors import SourceError
from localhyper.progress import CancelToken, Progress, ProgressCallback, ignore_progress
from localhyper.sources.detect import CONTAINER_SUFFIXES, TEXT_SUFFIXES, looks_binary
from localhyper.sources.document import Document
from localhyper.sources.limits import DEFAULT_LIMITS, ReadLimits
from localhyper.sources.reader import read_source, text_sha256

_LISTED_NOTES = 20
_HEAD_BYTES = 4096
_IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules", "__MACOSX"})


@dataclass(frozen=True)
class FolderResult:
    """What a folder gave.

    Attributes:
        documents: One for each file that was read, sorted by path.
        failures: Documents that could not be read, and why.
        skipped: Files that were not tried, and why: binaries, links, those beyond a limit. Hidden files are not listed.
    """

    documents: tuple[Document, ...]
    failures: tuple[tuple[Path, SourceError], ...]
    skipped: tuple[tuple[Path, str], ...]


def read_folder(
    path: str | Path,
    *,
    limits: ReadLimits = DEFAULT_LIMITS,
    password: str = "",
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> FolderResult:
    """Every document in a folder and the folders below it; one that fails does not stop the others.

    Raises:
        SourceError: Not a folder, or it may not be listed.
        Cancelled: `cancel` was set.
    """
    root = Path(path)
    if not os.path.isdir(root):
        raise SourceError(f"{root}: not a folder", "name a folder, or read it as a file")
    skipped: list[tuple[Path, str]] = []
    files = list(_files(root, skipped, limits))
    documents: list[Document] = []
    failures: list[tuple[Path, SourceError]] = []
    chars = 0
    for done, file in enumerate(files):
        if cancel is not None:
            cancel.check()
        progress(Progress("read", done, len(files), str(file.relative_to(root))))
        if chars >= limits.folder_chars:
            skipped.append((file, f"the folder gives more than {limits.folder_chars} characters already"))
            continue
        try:
            document = read_source(file, limits=limits, password=password, cancel=cancel)
        except SourceError as error:
            failures.append((file, error))
            continue
        chars += len(document.text)
        documents.append(document)
    progress(Progress("read", len(files), len(files)))
    return FolderResult(tuple(documents), tuple(failures), tuple(skipped))


def folder_document(path: Path, result: FolderResult) -> Document:
    """A folder's documents as the sections of one, failures as notes.

    Raises:
        SourceError: There is no readable document in it.
    """
    if not result.documents:
        raise _nothing_error(path, result)
    sections = (f"# {document.title}\n\n{_without_title(document)}" for document in result.documents)
    text = "\n\n".join(sections)
    title = path.resolve().name or str(path)
    pages = sum(document.pages for document in result.documents)
    return Document(title, text, "folder", text_sha256(text), str(path), tuple(_notes(path, result)), pages)


def _without_title(document: Document) -> str:
    """A document's text without a first heading that only says its title again."""
    heading, _, rest = document.text.partition("\n")
    same = heading.startswith("#") and heading.lstrip("# ") == document.title
    return rest.lstrip("\n") if same and rest.strip() else document.text


def _files(root: Path, skipped: list[tuple[Path, str]], limits: ReadLimits) -> Iterator[Path]:
    """Files to read, sorted; the others go to `skipped`."""
    seen: set[tuple[int, int]] = set()
    count = 0
    for file in _walk(root, skipped):
        reason = _reason_to_skip(file, seen)
        if reason is None and count >= limits.folder_files:
            reason = f"more than {limits.folder_files} files in the folder"
        if reason is not None:
            skipped.append((file, reason))
            continue
        count += 1
        yield file


def _walk(root: Path, skipped: list[tuple[Path, str]]) -> Iterator[Path]:
    """All files below `root` but hidden ones, folder by folder; links to folders are not followed, so none can loop."""

    def unreadable(error: OSError) -> None:
        skipped.append((Path(error.filename), "the folder may not be listed"))

    for folder, folders, names in os.walk(root, followlinks=False, onerror=unreadable):
        linked = [name for name in folders if (Path(folder) / name).is_symlink() and not name.startswith(".")]
        skipped.extend((Path(folder) / name, "a link to a folder") for name in sorted(linked))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _IGNORED_FOLDERS)
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith((".", "~$")))


def _reason_to_skip(file: Path, seen: set[tuple[int, int]]) -> str | None:
    """Why a file is not tried; None when it is."""
    try:
        status = file.stat()
        if not file.is_file():
            return "not a regular file"
        key = (status.st_dev, status.st_ino)
        if file.is_symlink() and key in seen:
            return "a link to a file that is read already"
        seen.add(key)
        suffix = file.suffix.lower()
        if suffix in CONTAINER_SUFFIXES or suffix in TEXT_SUFFIXES or suffix == ".txt":
            return None
        with open(file, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        return "a broken link" if file.is_symlink() else f"may not be read ({error.strerror})"
    if not head.strip():
        return "empty"
    # A document under a foreign name is still one: by its first bytes.
    if head.startswith((b"%PDF-", b"PK\x03\x04")):
        return None
    return "binary, not a document" if looks_binary(head) else None


def _notes(root: Path, result: FolderResult) -> Iterator[str]:
    """Lines on everything that is not in the text as it should be."""
    lines = [f"not read: {error.message}" for _, error in result.failures]
    lines += [f"skipped: {_relative(file, root)}: {reason}" for file, reason in result.skipped]
    for document in result.documents:
        name = Path(document.origin).name
        lines += [f"{name}: {note}" for note in document.notes]
    yield from lines[:_LISTED_NOTES]
    if len(lines) > _LISTED_NOTES:
        yield f"and {len(lines) - _LISTED_NOTES} more notes"


def _relative(file: Path, root: Path) -> str:
    """A file's path inside the folder."""
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)


def _nothing_error(path: Path, result: FolderResult) -> SourceError:
    """The line for a folder without a readable document."""
    if result.failures:
        first = result.failures[0][1]
        count = len(result.failures)
        return SourceError(
            f"{path}: none of its {count} documents could be read; the first: {first.message}"
            if count > 1
            else first.message,
            first.hint,
        )
    return SourceError(
        f"{path}: no document in this folder", "txt, md, html, pdf, docx, pptx, xlsx, csv, epub and odt are read"
    )
