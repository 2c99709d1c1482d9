"""Anything a user points at becomes a `Document`.

`read_any` takes a file, a folder or `-`; the other functions are its parts. Importing this package brings no reader
library: those live in `formats/` and are imported by the child process alone.
"""

from localhyper.sources.document import Document
from localhyper.sources.folder import FolderResult, read_folder
from localhyper.sources.limits import ReadLimits
from localhyper.sources.reader import read_any, read_source, read_text

__all__ = ["Document", "FolderResult", "ReadLimits", "read_any", "read_folder", "read_source", "read_text"]
