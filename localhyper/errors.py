"""Every error a user can meet, as one tree.

    LocalHyperError            base: `message` (what, which file, got / wanted) and `hint` (what to do)
    ├── ConfigError            config.toml, models.toml, command-line values
    ├── SourceError            a document that cannot be read
    ├── ModelError             a base model file: missing, damaged, unsupported, too big for memory
    ├── HypernetworkError      a hypernetwork bundle: missing, damaged, for another base
    ├── AdapterError           an adapter file: damaged, for another base, wrong shapes
    ├── ContextError           text longer than the context window
    ├── LibraryError           the library database or its files
    ├── DownloadError          a file that could not be fetched or failed its checksum
    └── Cancelled              the user stopped the work; nothing is lost

Raised deep, shown once at the edge: one line and a hint, never a traceback. Exit codes stand beside each class.
"""

from __future__ import annotations


class LocalHyperError(Exception):
    """Base of all user-facing errors.

    Args:
        message: One sentence without a full stop: what, which file, got / wanted.
        hint: What the user can do about it; empty when there is nothing to say.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(LocalHyperError):
    """A value in a configuration file or on the command line is wrong."""

    exit_code = 2


class SourceError(LocalHyperError):
    """A document could not be turned into text."""

    exit_code = 3


class ModelError(LocalHyperError):
    """A base model file is missing, damaged, unsupported or does not fit in memory."""

    exit_code = 4


class HypernetworkError(LocalHyperError):
    """A hypernetwork bundle is missing, damaged or belongs to another base model."""

    exit_code = 5


class AdapterError(LocalHyperError):
    """An adapter is damaged or belongs to another base model."""

    exit_code = 6


class ContextError(LocalHyperError):
    """A text does not fit into the context window."""

    exit_code = 7


class LibraryError(LocalHyperError):
    """The library database or a file it names is missing or damaged."""

    exit_code = 8


class DownloadError(LocalHyperError):
    """A file could not be fetched, or is not the file that was asked for."""

    exit_code = 9


class Cancelled(LocalHyperError):
    """The user stopped the work. Finished parts are kept."""

    exit_code = 130
